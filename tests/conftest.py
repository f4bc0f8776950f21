"""Shared by all tests: GPU tests are skipped, with a reason, where there is no GPU."""

import pytest
import torch
from hypothesis import settings

# No time limit for an example: a busy machine is not a bug.
settings.register_profile("scotoma", deadline=None)
settings.load_profile("scotoma")


@pytest.fixture(autouse=True, scope="module")
def threads(request):
    """One thread, since more would wait for each other over tensors this small; two for whole
    runs. They are compared bit for bit, and the number decides the order of sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(2 if request.path.parent.name == "train" else 1)
    yield
    torch.set_num_threads(before)


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU on this machine")
