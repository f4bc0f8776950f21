"""Run a contestant: by the clock alone, and under torch's profiler."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from ...defective.serialization import atomic_path
from .. import harness
from .trace import Trace, read

WINDOWS = 3
"""Stretches by the clock; the median counts."""
SKIPPED = 2
"""Runs in which the profiler warms up, and records nothing."""


def seconds(run: Callable[[], object], runs: int, device: torch.device) -> float:
    """Seconds of one run without a profiler: the median over stretches of ``runs``."""

    def work() -> None:
        for _ in range(runs):
            run()

    return statistics.median(harness.wall_seconds(work, device) for _ in range(WINDOWS)) / runs


def profiled(run: Callable[[], object], runs: int, device: torch.device, path: Path) -> Trace:
    """Profile a number of steady runs, and leave the trace, gzipped, at ``path``.

    Two more are recorded than are looked at; see :func:`scotoma.bench.profiling.trace.read`.

    Raises:
        UnreadableTrace: the profiler did not record what was asked for.
    """
    on_device = device.type == "cuda"
    if not on_device:
        # Kineto would write lines to stderr that there is no GPU. On one it may have reasons.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from torch.profiler import ProfilerActivity, profile, schedule

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_device
    recorded = runs + 2
    plan = schedule(wait=0, warmup=SKIPPED, active=recorded, repeat=1)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "trace.json"

        def export(profiler) -> None:
            profiler.export_chrome_trace(str(whole))

        with profile(activities=activities, schedule=plan, on_trace_ready=export) as profiler:
            for number in range(SKIPPED + recorded):
                run()
                # Nothing of the steps before runs in what is recorded, and all of it is finished.
                if on_device and number + 1 in (SKIPPED, SKIPPED + recorded):
                    torch.cuda.synchronize(device)
                profiler.step()
        with (
            whole.open("rb") as plain,
            atomic_path(path) as temporary,
            gzip.open(temporary, "wb", compresslevel=6) as packed,
        ):
            shutil.copyfileobj(plain, packed)
        text = whole.read_text(encoding="utf-8", errors="replace")
    return read(json.loads(text, strict=False)["traceEvents"], on_device)
