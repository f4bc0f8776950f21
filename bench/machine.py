"""What a figure was measured on: device, driver, versions, commit, clocks."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

CLOCKS = ("clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw", "temperature.gpu")


def describe(device: torch.device) -> dict:
    """Device, driver, library versions and commit, for every row of results."""
    on_gpu = device.type == "cuda"
    return {
        "device": device_name(device),
        "kind": device.type,
        "driver": query(device, ("driver_version",)).get("driver_version") if on_gpu else None,
        "multiprocessors": properties(device).multi_processor_count if on_gpu else None,
        "l2_bytes": l2_bytes(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": version("triton"),
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "threads": None if on_gpu else torch.get_num_threads(),
        "commit": commit(),
    }


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {platform.machine()}"


def properties(device: torch.device):
    return torch.cuda.get_device_properties(device)


def l2_bytes(device: torch.device) -> int | None:
    """Size of the GPU's L2 cache; None on a CPU."""
    return properties(device).L2_cache_size if device.type == "cuda" else None


def clocks(device: torch.device) -> dict | None:
    """Clocks (MHz), power (W) and temperature (degrees C) now; None on a CPU."""
    return query(device, CLOCKS) if device.type == "cuda" else None


def query(device: torch.device, fields: tuple[str, ...]) -> dict:
    """Fields of nvidia-smi for a device; empty where it cannot tell."""
    # torch may number devices in another order than nvidia-smi; the UUID is the same for both.
    uuid = getattr(properties(device), "uuid", None)
    number = device.index or 0 if uuid is None else f"GPU-{str(uuid).removeprefix('GPU-')}"
    command = [
        "nvidia-smi",
        f"--id={number}",
        f"--query-gpu={','.join(fields)}",
        "--format=csv,noheader,nounits",
    ]
    values = output(command)
    if values is None:
        return {}
    return dict(zip(fields, (v.strip() for v in values.split(",")), strict=False))


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the source tree, where it is a checkout; SCOTOMA_COMMIT where its history was
    left behind."""
    if named := os.environ.get("SCOTOMA_COMMIT"):
        return named
    git = ["git", "--no-optional-locks", "-C", str(Path(__file__).resolve().parent)]
    found = output([*git, "describe", "--always"])
    # Rows of results that were committed, and are appended to, are no change of the source.
    status = [*git, "status", "--porcelain", "--untracked-files=no", "--"]
    changed = found and output([*status, ":(top)", ":(top,exclude)bench/results"])
    return f"{found}-dirty" if changed else found


def output(command: list[str]) -> str | None:
    """What a command prints; None if it fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None
