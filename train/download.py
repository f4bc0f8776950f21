"""Downloads that continue where they stopped and are verified before they are used."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ..defective.errors import UserError

_CHUNK = 1 << 20
SECONDS = 30
"""After which a server that says nothing is given up."""


def fetch(urls: list[str], path: Path, md5: str, progress: bool = True) -> None:
    """Bring a file to ``path`` from the first of ``urls`` that works.

    Bytes arrive in ``path.part``, which a later call continues. The file gets its name only when
    its MD5 is right; a wrong one is removed, so that the next call starts anew. Of processes that
    want the same file one fetches it, and the others wait.

    Raises:
        UserError: no address worked, the checksum is wrong, or the folder cannot be written to.
    """
    if _is_whole(path, md5):
        return
    with alone(path):
        if not _is_whole(path, md5):
            _fetch(urls, path, md5, progress)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Alone among processes with what is made at ``path``: who comes second waits.

    The lock is the operating system's, and goes with a process that dies; the file that it is on,
    ``path.lock``, goes with whoever had it.

    Raises:
        UserError: the folder cannot be written to.
    """
    lock = path.with_name(path.name + ".lock")
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = lock.open("a")
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{path.parent}: cannot be written to ({reason})") from None
        with file:
            with suppress(OSError):  # a file system without locks: as if nobody else were there
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file.fileno(), lock):
                continue  # it was removed while we waited, and another process may hold a new one
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False


def _is_whole(path: Path, md5: str) -> bool:
    return path.is_file() and _md5(path) == md5


def _fetch(urls: list[str], path: Path, md5: str, progress: bool) -> None:
    part = path.with_name(path.name + ".part")
    failures = []
    for url in urls:
        try:
            _continue(url, part, progress)
        except (http.client.HTTPException, OSError, ValueError) as error:
            failures.append(f"{url}: {_in_words(error)}")
            continue
        found = _md5(part)
        if found == md5:
            part.replace(path)
            return
        part.unlink()
        failures.append(f"{url}: MD5 {found}, expected {md5}")
    raise UserError(
        f"could not download {path.name} ({'; '.join(failures)}); run the command again to "
        f"continue, or put the file at {path} yourself (MD5 {md5})"
    )


def _continue(url: str, part: Path, progress: bool) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=SECONDS)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # nothing beyond what is here: the file is complete
            return
        raise
    with response:
        if response.headers.get_content_type() == "text/html":  # before it replaces what is here
            raise ValueError("answered by a web page, such as a network asking for a login")
        resumed = response.status == 206
        length = response.headers.get("Content-Length")
        total = int(length) + (have if resumed else 0) if length else None
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            disable=not progress,
        )
        with bar, part.open("ab" if resumed else "wb") as file:
            task = bar.add_task(part.stem, total=total, completed=have if resumed else 0)
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.advance(task, len(chunk))
    if total is not None and part.stat().st_size < total:
        raise OSError(f"connection ended after {part.stat().st_size} of {total} bytes")


def _in_words(error: Exception) -> str:
    if isinstance(error, http.client.HTTPException) and not isinstance(error, OSError):
        return f"the connection broke off, or is no HTTP ({type(error).__name__})"
    reason = error.reason if type(error) is urllib.error.URLError else error
    return str(reason) or type(error).__name__


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
