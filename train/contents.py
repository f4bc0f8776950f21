"""Whether files are the same ones, told without reading large data sets whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from ..defective.errors import UserError

LEFT_BY_SYSTEMS = {"@eaDir", "@Recycle", "#recycle", "__MACOSX", "$RECYCLE.BIN", "lost+found"}
LEFT_BY_SYSTEMS |= {"System Volume Information"}
"""Folders that file servers, archives and file systems make; with previews among them."""
UNCOMPRESSED = {".bmp", ".pgm", ".ppm", ".tif", ".tiff"}
"""Formats whose files may have the same size whatever is in the image."""
SMALL = 64 << 20
"""Bytes that are read in any case: who uses the images reads them more than once."""


def visible(folder: str | Path) -> Iterator[os.DirEntry]:
    """The entries of a folder, but for hidden ones and what systems leave beside people's files.

    Raises:
        UserError: a link that leads nowhere. OSError: a folder that cannot be read.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name in LEFT_BY_SYSTEMS:
                continue
            if entry.is_symlink() and not Path(entry.path).exists():
                to = Path(entry.path).readlink()
                raise UserError(
                    f"{entry.path}: a link that leads nowhere ({to}); mend or remove it"
                )
            yield entry


def files_in(folder: Path) -> list[tuple[str, str]]:
    """(name below the folder, path) of its :func:`visible` files, sorted.

    Links to folders are followed, but not into a folder that holds them.

    Raises:
        UserError: a folder that cannot be read, or a link that leads nowhere.
    """
    try:
        return sorted(_walk(str(folder), "", frozenset()))
    except OSError as error:
        raise _unreadable(error) from None


def _walk(folder: str, below: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, str]]:
    status = Path(folder).stat()
    identity = status.st_dev, status.st_ino
    if identity in above:  # a link to a folder that holds it
        return
    for entry in visible(folder):
        if entry.is_dir():
            yield from _walk(entry.path, f"{below}{entry.name}/", above | {identity})
        elif entry.is_file():
            yield below + entry.name, entry.path


def files_digest(files: Sequence[tuple[str, str | Path]], about: bytes = b"") -> str:
    """A hash of files' names and sizes, and of what is in them where sizes tell too little.

    Hardly any change of a compressed image keeps its size; in ``UNCOMPRESSED`` formats most do. So
    contents count in these formats, and of all files where they are ``SMALL`` together.

    Args:
        files: (name that counts, path), in an order that counts. about: is hashed before them.

    Raises:
        UserError: a file that cannot be read.
    """
    digest = hashlib.sha256(about)
    try:
        sizes = [Path(path).stat().st_size for _, path in files]
        small = sum(sizes) <= SMALL
        for (name, path), size in zip(files, sizes, strict=True):
            digest.update(b"%b\0%d\n" % (os.fsencode(name), size))  # names need not be UTF-8
            if small or _suffix(name) in UNCOMPRESSED:
                with Path(path).open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise _unreadable(error) from None
    return digest.hexdigest()[:32]


def _suffix(name: str) -> str:
    return PurePath(name).suffix.lower()


def _unreadable(error: OSError) -> UserError:
    return UserError(f"{error.filename}: cannot be read ({error.strerror or error})")
