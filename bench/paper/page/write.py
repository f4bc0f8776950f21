"""A page's files: Markdown, one HTML file, pictures, and the numbers for programs."""

from __future__ import annotations

import json
from pathlib import Path

from ...report import html, markdown
from ...report.output import leftovers, replace_files
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
    old = leftovers(page.document, folder / PICTURES, f"{SOURCE} ")
    replace_files(files, old, folder)
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
