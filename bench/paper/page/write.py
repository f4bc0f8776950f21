"""A page's files: Markdown, one HTML file, pictures, and the numbers for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from ....defective.errors import UserError
from ....defective.serialization import atomic_path
from ...report import html, markdown
from .build import Page
from .drawings import SOURCE
from .record import as_csv

PICTURES = "images"


def write_page(page: Page, folder: Path) -> list[Path]:
    """Write ``index.html``, ``index.md``, its ``images/``, ``cells.json`` and ``cells.csv``.

    Each is whole or not there. Pictures of an earlier page that this one has not are removed, if
    they say that they come from here.

    Args:
        folder: is made if it is not there.

    Returns:
        The files written, those to look at first.

    Raises:
        UserError: a file cannot be written.
    """
    files = _files(page, folder)
    try:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                temporary.write_bytes(data)
        for path in _leftovers(page, folder):
            path.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{error.filename or folder} cannot be written: {reason}; give another --out"
        ) from error
    return list(reversed(files))


def _files(page: Page, folder: Path) -> dict[Path, bytes]:
    """Pictures first, so that no page names a picture that is not there."""
    document = page.document
    files = {folder / PICTURES / p.name: p.data for p in document.pictures()}
    files[folder / "cells.csv"] = as_csv(page.record).encode()
    files[folder / "cells.json"] = (json.dumps(page.record, indent=1) + "\n").encode()
    markdown_page, html_page = folder / "index.md", folder / "index.html"
    text = markdown.render(document, markdown_page, folder / PICTURES)
    files[markdown_page] = text.encode()
    files[html_page] = html.render(document, html_page).encode()
    return files


def _leftovers(page: Page, folder: Path) -> Iterator[Path]:
    """Pictures of a former page of ours that this one does not show."""
    names = {picture.name for picture in page.document.pictures()}
    for path in sorted((folder / PICTURES).glob("*.png")):
        if path.name not in names and _origin(path).startswith(f"{SOURCE} "):
            yield path


def _origin(path: Path) -> str:
    """What a picture says of its origin; "" where it says nothing."""
    try:
        with Image.open(path) as image:
            return str(image.info.get("Source", ""))
    except (OSError, ValueError, SyntaxError):
        return ""
