"""Clocks: the host's, the GPU's, the GPU's under graph replay; contestants in turns; quantiles."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import torch

Work, Reading = TypeVar("Work"), TypeVar("Reading")

# GPU cycles to wait before a timed stretch, so that the host has queued all of it in the meantime.
HEAD_START = 500_000
COPY_BYTES = {"cuda": 2**30, "cpu": 2**26}


def wall_seconds(work: Callable[[], None], device: torch.device) -> float:
    """By the host's clock, until the device has finished."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def device_seconds(work: Callable[[], None]) -> float:
    """By the GPU's clock, without the time that the host takes to queue the work."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(HEAD_START)
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def captured(work: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """A CUDA graph of ``work``, on the current stream, which must not be the default one."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        work()
    return graph


def interleaved(
    works: dict[str, Work], clock: Callable[[Work], Reading], repeats: int
) -> dict[str, list[Reading]]:
    """The clock's reading of each work, such as seconds, all in turn, another one first in each
    round; one round warms up."""
    names, samples = list(works), {name: [] for name in works}
    for number in range(repeats + 1):
        first = number % len(names) if names else 0
        for name in names[first:] + names[:first]:
            seconds = clock(works[name])
            if number:
                samples[name].append(seconds)
    return samples


def spread(seconds: list[float], calls: int) -> dict[str, float]:
    """Median and the 10 % and 90 % quantiles of one call, in microseconds."""
    ordered = sorted(1e6 * s / calls for s in seconds)

    def quantile(part: float) -> float:
        return ordered[round(part * (len(ordered) - 1))]

    return {
        "median_us": round(statistics.median(ordered), 3),
        "p10_us": round(quantile(0.1), 3),
        "p90_us": round(quantile(0.9), 3),
    }


def copy_bandwidth(device: torch.device, repeats: int = 20) -> float:
    """Bytes per second of a large copy, those read and those written counted."""
    count = COPY_BYTES[device.type] // 2
    source = torch.empty(count, dtype=torch.bfloat16, device=device).normal_()
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    if device.type == "cuda":
        seconds = interleaved({"copy": copy}, device_seconds, repeats)
    else:
        seconds = interleaved({"copy": copy}, lambda work: wall_seconds(work, device), repeats)
    return 2 * source.nbytes / statistics.median(seconds["copy"])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
