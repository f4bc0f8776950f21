"""A page's files: Markdown, one HTML file, pictures, and the numbers for programs."""

from __future__ import annotations

import json
from pathlib import Path

from ....train.config import PictureFormat
from ...report import html, markdown
from ...report.output import leftovers, picture_files, replace_files
from .build import Page
from .drawings import SOURCE
from .record import as_csv

PICTURES = "images"


def write_page(page: Page, folder: Path, picture_format: PictureFormat = "png") -> list[Path]:
    """Write ``index.html``, ``index.md``, its ``images/``, ``cells.json`` and ``cells.csv``.

    Each is whole or not there. Pictures of an earlier page that this one has not are removed, if
    they say that they come from here.

    Args:
        folder: is made if it is not there. picture_format: of further files of the pictures,
            beside the PNG files that the pages show.

    Returns:
        The files written, those to look at first.

    Raises:
        UserError: a file cannot be written.
    """
    files = _files(page, folder, picture_format)
    old = leftovers(files, folder / PICTURES, f"{SOURCE} ")
    replace_files(files, old, folder)
    return list(reversed(files))


def _files(page: Page, folder: Path, picture_format: PictureFormat) -> dict[Path, bytes]:
    """Pictures first, so that no page names a picture that is not there."""
    document = page.document
    files = picture_files(document, folder / PICTURES, picture_format)
    files[folder / "cells.csv"] = as_csv(page.record).encode()
    files[folder / "cells.json"] = (json.dumps(page.record, indent=1) + "\n").encode()
    markdown_page, html_page = folder / "index.md", folder / "index.html"
    text = markdown.render(document, markdown_page, folder / PICTURES)
    files[markdown_page] = text.encode()
    files[html_page] = html.render(document, html_page).encode()
    return files
