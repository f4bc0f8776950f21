"""Folders that scotoma writes to, and tools that it can use."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .line import ABSENT, OK, WARNING, Examination, Line

GIB = 2**30
# A data set of small images unpacked, or the checkpoints of a few runs.
LEAST_FREE = 2 * GIB
LEAST_SHARED = 1 * GIB


def caches(examination: Examination) -> Iterator[Line]:
    folder = Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache")
    fix = "export TRITON_CACHE_DIR=/a/folder/you/may/write"
    yield _writable("Triton's cache", folder, fix, "; Triton compiles into it")


def _writable(what: str, folder: Path, fix: str, consequence: str) -> Line:
    problem = why_not_writable(folder)
    values = {"folder": str(folder)}
    if problem:
        return Line(what, WARNING, f"{folder} {problem}{consequence}", fix, values)
    return Line(what, OK, f"{folder} can be written", values=values)


def why_not_writable(folder: Path) -> str:
    """Empty if files can be written there, or where the folder would be made."""
    existing = existing_part(folder)
    if not existing.is_dir():
        return f"cannot be a folder: {existing} is a file"
    if existing != folder:
        return "" if os.access(existing, os.W_OK | os.X_OK) else "cannot be made"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    return ""


def existing_part(path: Path) -> Path:
    """The longest beginning of a path that exists."""
    path = path.expanduser().absolute()
    return next(p for p in (path, *path.parents) if p.exists())


def disk(examination: Examination) -> Iterator[Line]:
    yield free_space("working folder", Path.cwd(), "free some, or scotoma train --out /elsewhere")
    shared = Path("/dev/shm")
    if shared.is_dir() and shutil.disk_usage(shared).total < LEAST_SHARED:
        size = shutil.disk_usage(shared).total / 2**20
        detail = f"{size:.0f} MiB, too little for loader workers with images over 64 pixels"
        fix = "docker run --shm-size=8g, or scotoma train --workers 0"
        yield Line("shared memory", WARNING, detail, fix)


def free_space(what: str, folder: Path, fix: str) -> Line:
    free = shutil.disk_usage(existing_part(folder)).free
    values = {"folder": str(folder), "free_bytes": free}
    detail = f"{free / GIB:.1f} GiB free at {folder}"
    problem = why_not_writable(folder)
    if problem:
        return Line(what, WARNING, f"{detail}, which {problem}", fix, values)
    if free < LEAST_FREE:
        return Line(what, WARNING, f"{detail}: too little for data and checkpoints", fix, values)
    return Line(what, OK, detail, values=values)


_TOOLKIT = "optional; in NVIDIA's CUDA toolkit: developer.nvidia.com/cuda-downloads"
TOOLS = {
    "nvidia-smi": ("tells clocks and power beside measurements", "comes with the NVIDIA driver"),
    "ncu": ("profiles single kernels", _TOOLKIT),
    "nsys": ("profiles whole programs", _TOOLKIT),
    "compute-sanitizer": ("finds wrong memory accesses, for make gpu-check", _TOOLKIT),
}


def tools(examination: Examination) -> Iterator[Line]:
    for name, (use, source) in TOOLS.items():
        path = shutil.which(name)
        if path:
            yield Line(name, OK, path, values={"path": path})
        else:
            yield Line(name, ABSENT, use, source, {"path": None})
