"""Shared by all tests: where kernels run, and that torch has one thread.

GPU tests are skipped, with a reason, where there is no GPU. There the Triton kernels run in
Triton's interpreter instead, on CPU tensors. Skipped with a reason is also what needs a library
that GPU machines often lack.
"""

import os
import signal

# One thread: more would wait for each other over tensors this small, and several processes of tests
# for all. Runs are compared bit for bit, and the number decides the order of sums, so that it is
# said to the processes that tests start, too.
os.environ["OMP_NUM_THREADS"] = "1"
# What commands print is not to be broken where a temporary folder's name happens to end; tests of
# the width give their own.
os.environ["COLUMNS"] = "1000"

import pytest
import torch
from hypothesis import settings

# Triton reads it when a kernel is defined, so it must be set before scotoma's are imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The first fake tensor stands for a GPU. Autograd would take that for one at its first backward and
# start a thread for it, after which no forked process can use autograd any more.
torch.ones((), requires_grad=True).backward()

# A shell starts what runs in its background with Ctrl-C ignored, and Python then never hears of it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No time limit for an example: a busy machine is not a bug. The same examples each time, but for
# slow tests, which draw others.
settings.register_profile("scotoma", deadline=None, derandomize=True)
settings.load_profile("scotoma")


@pytest.fixture(autouse=True, scope="module")
def threads():
    """One thread, also after a test that chose another number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# What only a few commands need, and import when they do.
MAY_BE_MISSING = ("jsonargparse", "torchvision", "yaml")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    try:
        return (yield)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in MAY_BE_MISSING:
            pytest.skip(f"{error.name} is not installed")
        raise


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """``SCOTOMA_TEST_PART=2/8``: the second of eight parts, for processes that run at once.

    Dealt out in hands of eight, since neighbours often share compiled kernels.
    """
    part, parts = map(int, os.environ.get("SCOTOMA_TEST_PART", "1/1").split("/"))
    own = [item for index, item in enumerate(items) if index // 8 % parts == part - 1]
    if parts > 1:
        config.hook.pytest_deselected(items=[item for item in items if item not in own])
        items[:] = own


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU on this machine")
