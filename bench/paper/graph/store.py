"""The folder in which artefacts are kept."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ....defective.errors import UserError
from .artefact import Artefact


class Store:
    """A folder of artefacts, which several commands and machines may use at the same time.

    Machines have to see it under the same path.

    Args:
        folder: is made if it is not there.
    """

    def __init__(self, folder: Path):
        self.folder = folder.absolute()

    def prepare(self) -> None:
        """Raises UserError if the folder cannot be written to."""
        try:
            (self.folder / "locks").mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder / "locks"):
                pass
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"--out {self.folder}: cannot be written to ({reason}); give another"
            ) from None

    @contextmanager
    def lock(self, artefact: Artefact) -> Iterator[None]:
        """Alone with an artefact: whoever comes second waits, and then finds it made.

        The lock is the operating system's, and goes with a process that dies.
        """
        path = self.folder / "locks" / artefact.key
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
