"""Which kernels are launched, in order."""

from contextlib import contextmanager
from unittest import mock

from scotoma.kernels.launch import Launch


@contextmanager
def launches():
    """A list of the names of the kernels launched inside."""
    names, launch = [], Launch.__call__

    def counted(self, *arguments):
        names.append(self.kernel)
        launch(self, *arguments)

    with mock.patch.object(Launch, "__call__", counted):
        yield names
