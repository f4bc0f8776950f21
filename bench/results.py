"""Results as JSON lines: appended whole, so that a file is good at any moment."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import torch

from ..defective.errors import UserError
from . import machine


def default_path(device_name: str, benchmark: str) -> Path:
    """Where results of a device go: devices are never mixed in one file."""
    folder = re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-")
    return Path("bench") / "results" / folder / f"{benchmark}.jsonl"


def head(benchmark: str, device: torch.device, settings: dict) -> dict:
    """What every row of a run begins with: what was measured, when, on what, and how."""
    return {
        "benchmark": benchmark,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(device),
        "settings": settings,
    }


def append(path: Path, rows: Iterable[dict]) -> None:
    """Add rows to the end of a file, in one write that has reached the disk on return.

    A line that an interrupted writer left half done is closed first, so that it spoils no other.

    Raises:
        UserError: the file cannot be written.
    """
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    with _opened(path) as file:
        if file.tell() and not _ends_a_line(file):
            text = "\n" + text
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def check_writable(path: Path) -> None:
    """Find out before anything is measured whether results can be kept; changes no file.

    Raises:
        UserError: the file cannot be written.
    """
    new = not path.exists()
    with _opened(path):
        pass
    if new:
        path.unlink()


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            yield file
    except OSError as error:
        raise UserError(
            f"out is {str(path)!r}, which cannot be written: {error.strerror}; give another file"
        ) from error


def measured(path: Path, head: dict) -> list[dict]:
    """The rows that a file has from the machine, the versions and the settings of ``head``."""
    keys = ("benchmark", "machine", "settings")
    rows = read(path) if path.is_file() else ()
    return [row for row in rows if all(row.get(key) == head[key] for key in keys)]


def _ends_a_line(file) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def read(path: Path) -> Iterator[dict]:
    """The rows of a file, half-written lines left out."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue
