"""A store that several machines see: a sign of it, logs in it, and files that show late."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

from .artefact import Artefact
from .store import Store

LATE_SECONDS = 90.0
"""Network file systems remember for up to a minute that a file was not there (NFS: acdirmax)."""


@contextmanager
def token(store: Store) -> Iterator[str]:
    """A word that is a file's name and content in the store, for a while."""
    word = f".seen-{secrets.token_hex(8)}"
    path = store.folder / "logs" / word
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_text(word)
        yield word
    finally:
        path.unlink(missing_ok=True)


def sees(folder: Path, word: str) -> bool:
    """Whether the store of a :func:`token` is seen from here."""
    try:
        return (folder / "logs" / word).read_text() == word
    except OSError:
        return False


def log_path(folder: Path, key: str) -> Path:
    """Where a worker writes what it has to say about an artefact."""
    return folder / "logs" / f"{key}.log"


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Whatever is printed is added to a file, from C and from child processes too."""
    kept = os.dup(1), os.dup(2)
    with path.open("a", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            yield
        finally:
            for number, before in enumerate(kept, 1):
                os.dup2(before, number)
                os.close(before)


def unseen(artefacts: Iterable[Artefact], store: Store, seconds: float) -> list[Artefact]:
    """Those that are not there, even after a while: network folders show some files late."""
    left = [artefact for artefact in artefacts if not artefact.is_done(store)]
    until = time.monotonic() + seconds
    while left and time.monotonic() < until:
        time.sleep(0.2)
        for artefact in left:  # to list a folder is to ask the server
            with suppress(OSError):
                os.listdir(artefact.path(store).parent)  # noqa: PTH208
        left = [artefact for artefact in left if not artefact.is_done(store)]
    return left
