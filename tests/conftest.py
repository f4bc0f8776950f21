"""Shared by all tests: where kernels run, and how many threads torch has.

GPU tests are skipped, with a reason, where there is no GPU. There the Triton kernels run in
Triton's interpreter instead, on CPU tensors.
"""

import os

import pytest
import torch
from hypothesis import settings

# Triton reads it when a kernel is defined, so it must be set before scotoma's are imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

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
