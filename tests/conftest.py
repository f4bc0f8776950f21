"""Shared by all tests: GPU tests are skipped, with a reason, where there is no GPU."""

import pytest
import torch
from hypothesis import settings

# No time limit for an example: a busy machine is not a bug.
settings.register_profile("scotoma", deadline=None)
settings.load_profile("scotoma")


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU on this machine")
