"""Shared by all tests: GPU tests are skipped, with a reason, where there is no GPU."""

import pytest
import torch


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU on this machine")
