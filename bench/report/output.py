"""The page's files: where they lie, writing them, and telling whether they are up to date."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from PIL import Image

from ...defective.errors import UserError
from ...defective.serialization import atomic_path
from ...train.config import PictureFormat
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
        picture_format: of further files of the pictures, beside the PNG files that pages show.
    """

    page: Path
    html: Path | None = None
    picture_format: PictureFormat = "png"

    @property
    def pictures(self) -> Path:
        return self.page.parent / "images" / self.page.stem

    @classmethod
    def of(cls, out: Path, page: Path | None, picture_format: PictureFormat = "png") -> Place:
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
        return cls(out, page, picture_format)


def write(document: Document, place: Place) -> list[Path]:
    """Write all files, remove pictures of former pages, and return what was written.

    Raises:
        UserError: a file cannot be written.
    """
    files = _files(document, place)
    replace_files(files, _old(files, place), place.page)
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


def picture_files(document: Document, folder: Path, format: PictureFormat) -> dict[Path, bytes]:
    """The pictures of a page as PNG, and those in another format beside them."""
    return {
        (folder / picture.name).with_suffix(f".{each}"): picture.file(each)
        for picture in document.pictures()
        for each in dict.fromkeys(("png", format))
    }


def leftovers(kept: Collection[Path], pictures: Path, origin: str) -> Iterator[Path]:
    """Pictures in a folder, but for ``kept`` ones, that say that they come from ``origin``."""
    for path in sorted(pictures.glob("*")):
        ours = path.suffix[1:] in get_args(PictureFormat) and _source(path).startswith(origin)
        if ours and path not in kept:
            yield path


def stale(document: Document, place: Place) -> list[tuple[Path, str]]:
    """Files that differ from what :func:`write` would leave, and in which way."""
    document = Document(document.title, _with_kept(document.blocks, place))
    files = _files(document, place)
    found = [(path, "is of no picture on the page") for path in _old(files, place)]
    for path, data in files.items():
        if not path.is_file():
            found.append((path, "is missing"))
        elif path.read_bytes() != data:
            found.append((path, "is stale"))
    return found


def _files(document: Document, place: Place) -> dict[Path, bytes]:
    """Pictures first, so that no page names a picture that is not there."""
    files = picture_files(document, place.pictures, place.picture_format)
    files[place.page] = markdown.render(document, place.page, place.pictures).encode()
    if place.html is not None:
        files[place.html] = html.render(document, place.html).encode()
    return files


def _old(kept: Collection[Path], place: Place) -> Iterator[Path]:
    """Pictures of this command that the page does not show (any more)."""
    return leftovers(kept, place.pictures, _MADE_HERE)


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
                there = {path.with_suffix(f".{f}"): f for f in ("png", place.picture_format)}
                files = {f: p.read_bytes() for p, f in there.items() if p.is_file()}
                block = replace(block, files=files)
        found.append(block)
    return found


def _same_rows(path: Path, picture: Picture) -> bool:
    """Whether two pictures were made from equal rows, by different versions of matplotlib."""
    kept, drawn = _source(path).split("; "), picture.source.split("; ")
    return kept[:-1] == drawn[:-1] and kept[-1:] != drawn[-1:]


_SOURCES = {
    ".pdf": rb"/Subject \(([ -~]*)\)",
    ".svg": rb"<dc:source>([ -~]*)</dc:source>",
}
"""Where a picture says what it was made from, as matplotlib writes it."""


def _source(path: Path) -> str:
    """What a picture says that it was made from; empty where it says nothing."""
    try:
        if path.suffix in _SOURCES:
            found = re.search(_SOURCES[path.suffix], path.read_bytes())
            return found[1].decode() if found else ""
        with Image.open(path) as image:
            return str(image.info.get("Source", ""))
    except (OSError, ValueError, SyntaxError):
        return ""
