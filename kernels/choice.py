"""Which way computes a convolution faster: measured once, remembered on disk.

By default nothing is measured: a call whose shape has a remembered choice takes it, every other
call takes the separate way. ``with measure_convolutions():`` measures each new shape that runs
inside it. Measuring waits for the GPU, so it never happens inside the capture of a CUDA graph.

The file is JSON under ``SCOTOMA_CACHE_DIR``, or ``~/.cache/scotoma``; its name carries the GPU, the
versions of torch and Triton and a hash of the kernels, so that an outdated choice is never read.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

VARIABLE = "SCOTOMA_CACHE_DIR"
WARM_UP, REPEATS = 3, 11
# A fused convolution must win by more than noise.
MARGIN = 0.97

Candidates = dict[str, Callable[[], Tensor]]

_measuring = False


@contextmanager
def measure_convolutions() -> Iterator[None]:
    """Measure the convolutions that run inside, and remember which way was faster.

    Run the network in it once, with the batch size, dtype and mode that later runs will have::

        with scotoma.kernels.measure_convolutions(), torch.no_grad():
            model.eval()(images)

    A fused way whose output disagrees with the separate one is never chosen, and warned of.
    """
    global _measuring
    before, _measuring = _measuring, True
    try:
        yield
    finally:
        _measuring = before


def active() -> bool:
    """Whether a call might be anything but separate."""
    if torch.compiler.is_compiling():
        return False
    return _measuring or bool(_all_remembered())


def choose(device: torch.device, key: str, candidates: Candidates) -> str:
    """The name of the candidate to take: the remembered one, else the first.

    Args:
        key: what the choice is remembered by.
        candidates: ways to compute the same; the first is the one that others must agree with.
            Only called to measure them.
    """
    default = next(iter(candidates))
    if device.type != "cuda":
        return default
    path = cache_file(device.index or 0)
    known = remembered(path)
    if key in known:
        name = known[key]["choice"]
        return name if name in candidates else default
    if not _measuring or torch.cuda.is_current_stream_capturing():
        return default
    times = measure(agreeing(key, candidates), time_on_gpu)
    known[key] = decide(default, times)
    save(path, {key: known[key]})
    return known[key]["choice"]


def decide(default: str, times: dict[str, float]) -> dict:
    """The entry to remember for measured milliseconds."""
    fastest = min(times, key=times.get)
    wins = times[fastest] < MARGIN * times[default]
    return {"choice": fastest if wins else default, "milliseconds": times}


def agreeing(key: str, candidates: Candidates) -> Candidates:
    """The candidates whose outputs agree with the first one's."""
    names = iter(candidates)
    default = next(names)
    kept = {default: candidates[default]}
    with torch.no_grad():
        expected = candidates[default]().float()
        # Two roundings of the separate way (convolution, output), each of the largest magnitude,
        # and float32 sums in another order, or in TF32, whose unit is that of float16.
        dtype = candidates[default]().dtype
        unit = torch.finfo(torch.float16 if dtype == torch.float32 else dtype).eps
        tolerance = 8 * unit * max(1.0, expected.abs().max().item())
        for name in names:
            error = (candidates[name]().float() - expected).abs().max().item()
            if error <= tolerance:
                kept[name] = candidates[name]
            else:
                warnings.warn(
                    f"the fused convolution {name} differs by {error:g} (allowed {tolerance:g}) "
                    f"for {key}; it is not used",
                    stacklevel=2,
                )
    return kept


def measure(candidates: Candidates, timer: Callable[[Callable], float]) -> dict[str, float]:
    """Median milliseconds of each candidate, measured in turns so that clocks drift for all."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    with torch.no_grad():
        for turn in range(WARM_UP + REPEATS):
            for name, run in candidates.items():
                elapsed = timer(run)
                if turn >= WARM_UP:
                    times[name].append(elapsed)
    return {name: statistics.median(values) for name, values in times.items()}


def time_on_gpu(run: Callable) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    # What is queued before hides the launches' own cost, which would favour fewer kernels.
    torch.cuda._sleep(100_000)
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


_files: dict[Path, dict[str, dict]] = {}


def remembered(path: Path) -> dict[str, dict]:
    """The choices of a file by key, read once; none where it is missing or broken."""
    if path not in _files:
        _files[path] = _read(path)
    return _files[path]


def _read(path: Path) -> dict[str, dict]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        warnings.warn(f"{path} is unreadable ({error}); convolutions stay separate", stacklevel=2)
        return {}
    if not isinstance(entries, dict):
        return {}
    return {
        key: entry
        for key, entry in entries.items()
        if isinstance(entry, dict) and isinstance(entry.get("choice"), str)
    }


@cache
def _found_on_disk() -> bool:
    """Whether this machine remembers any choice for its GPUs."""
    if not torch.cuda.is_available():
        return False
    return any(remembered(cache_file(i)) for i in range(torch.cuda.device_count()))


def _all_remembered() -> bool:
    return any(_files.values()) or _found_on_disk()


def save(path: Path, entries: dict[str, dict]) -> None:
    """Add entries to a file, atomically; another process's entries stay."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        merged = _read(path) | entries
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(merged, file, indent=1, sort_keys=True)
        Path(name).replace(path)
    except OSError as error:
        warnings.warn(f"the choice is kept for this process only: {error}", stacklevel=2)


@cache
def cache_file(index: int) -> Path:
    """The file of one GPU, these versions and these kernels."""
    parts = [
        torch.cuda.get_device_name(index),
        f"torch-{torch.__version__}",
        f"triton-{importlib.metadata.version('triton')}",
        _source_hash(),
    ]
    name = re.sub(r"[^A-Za-z0-9.+-]+", "-", "_".join(parts))
    return cache_folder() / f"convolutions_{name}.json"


def cache_folder() -> Path:
    given = os.environ.get(VARIABLE)
    return Path(given) if given else Path.home() / ".cache" / "scotoma"


def _source_hash() -> str:
    """Of every source file that decides what a choice means."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*here.glob("*.py"), *here.glob("device/*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
