"""The page's files: where they lie, writing them, and telling whether they are up to date."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from ...defective.errors import UserError
from ...defective.serialization import atomic_path
from . import html, markdown
from .document import Block, Details, Document, Picture

PAGE = "performance.md"
_MADE_HERE = "scotoma bench report"


@dataclass(frozen=True)
class Place:
    """Where a page lies.

    Attributes:
        page: the Markdown file; its pictures are in ``images/STEM`` beside it.
        html: the page in one file; None if it is not wanted.
    """

    page: Path
    html: Path | None = None

    @property
    def pictures(self) -> Path:
        return self.page.parent / "images" / self.page.stem

    @classmethod
    def of(cls, out: Path, page: Path | None) -> Place:
        """Args: out: a Markdown file or a folder. Raises UserError: they cannot be written."""
        if out.suffix.lower() != ".md" or out.is_dir():
            if out.exists() and not out.is_dir():
                raise UserError(
                    f"--out {out} is a file that is no Markdown; give a folder, or a name that "
                    "ends in .md"
                )
            out = out / PAGE
        if page is not None:
            if page.is_dir():
                raise UserError(f"--html {page} is a folder; give the name of an HTML file")
            if page.suffix.lower() not in (".html", ".htm"):
                raise UserError(f"--html {page}: give a name that ends in .html")
        return cls(out, page)


def write(document: Document, place: Place) -> list[Path]:
    """Write all files, remove pictures of former pages, and return what was written.

    Raises:
        UserError: a file cannot be written.
    """
    files = _files(document, place)
    replace_files(files, _old(document, place), place.page)
    return list(files)


def replace_files(files: Mapping[Path, bytes], old: Iterable[Path], place: Path) -> None:
    """Write files, each of which is whole or not there, and then remove ``old`` ones.

    Args:
        place: is named where an error names no file.

    Raises:
        UserError: a file cannot be written.
    """
    try:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                temporary.write_bytes(data)
        for path in old:
            path.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{error.filename or place} cannot be written: {reason}; give another --out"
        ) from error


def leftovers(document: Document, pictures: Path, origin: str) -> Iterator[Path]:
    """Pictures in a folder that say that they come from ``origin``, and that no page shows now."""
    names = {picture.name for picture in document.pictures()}
    for path in sorted(pictures.glob("*.png")):
        if path.name not in names and _source(path).startswith(origin):
            yield path


def stale(document: Document, place: Place) -> list[tuple[Path, str]]:
    """Files that differ from what :func:`write` would leave, and in which way."""
    found = [(path, "is of no picture on the page") for path in _old(document, place)]
    document = Document(document.title, _with_kept(document.blocks, place))
    for path, data in _files(document, place).items():
        if not path.is_file():
            found.append((path, "is missing"))
        elif path.read_bytes() != data:
            found.append((path, "is stale"))
    return found


def _files(document: Document, place: Place) -> dict[Path, bytes]:
    """Pictures first, so that no page names a picture that is not there."""
    files = {place.pictures / p.name: p.data for p in document.pictures()}
    files[place.page] = markdown.render(document, place.page, place.pictures).encode()
    if place.html is not None:
        files[place.html] = html.render(document, place.html).encode()
    return files


def _old(document: Document, place: Place) -> Iterator[Path]:
    """Pictures of this command that the page does not show (any more)."""
    return leftovers(document, place.pictures, _MADE_HERE)


def _with_kept(blocks: Sequence[Block], place: Place) -> list[Block]:
    """The blocks with the pictures on the disk, where these show the same rows.

    Another version of matplotlib draws the same with other pixels, which makes no page stale.
    """
    found: list[Block] = []
    for block in blocks:
        if isinstance(block, Details):
            block = replace(block, blocks=_with_kept(block.blocks, place))
        elif isinstance(block, Picture):
            path = place.pictures / block.name
            if path.is_file() and _same_rows(path, block):
                block = replace(block, data=path.read_bytes())
        found.append(block)
    return found


def _same_rows(path: Path, picture: Picture) -> bool:
    """Whether two pictures were made from equal rows, by different versions of matplotlib."""
    kept, drawn = _source(path).split("; "), _source(io.BytesIO(picture.data)).split("; ")
    return kept[:-1] == drawn[:-1] and kept[-1:] != drawn[-1:]


def _source(file: Path | BinaryIO) -> str:
    """What a picture says that it was made from; empty where it says nothing."""
    try:
        with Image.open(file) as image:
            return str(image.info.get("Source", ""))
    except (OSError, ValueError, SyntaxError):
        return ""
