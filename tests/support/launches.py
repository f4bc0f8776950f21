"""Which kernels are launched, in order."""

from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

from scotoma.kernels import launch


class _Counted:
    def __init__(self, name, kernel, names):
        self.name, self.kernel, self.names = name, kernel, names

    def __getitem__(self, grid):
        self.names.append(self.name)
        return self.kernel[grid]


@contextmanager
def launches():
    """A list of the names of the kernels launched inside."""
    names = []
    kernels = vars(launch.device_kernels())
    counted = {name: _Counted(name, kernel, names) for name, kernel in kernels.items()}
    with mock.patch.object(launch, "device_kernels", lambda: SimpleNamespace(**counted)):
        yield names
