"""Times of one operator: cold and hot caches, Python's clock and the GPU's under graph replay."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from .contestants import Call

# Cold: between two uses of a byte, at least so many times the L2 cache is read and written.
COLD_L2_SIZES = 3
COLD_SETS = (3, 256)
# Hot: the same operands so many times in a row.
HOT_CALLS = 16
# A timed sweep has at least so many calls, so that what starts and ends it costs little.
COLD_CALLS = 12
CPU_CALLS = 2
# GPU cycles to wait before a timed stretch, so that the host has queued all of it in the meantime.
HEAD_START = 500_000
COPY_BYTES = {"cuda": 2**30, "cpu": 2**26}


class Sweep:
    """One contestant's forward and backward over a number of calls.

    Cold, every call has operands of its own and its results stay alive until it is made again, so
    that inputs and outputs alike come from and go to device memory; in ``both``, all forwards go
    before all backwards, as in a network. Hot, all calls share one set of operands.
    """

    def __init__(self, run, sets: Sequence[Call], *, hot: bool, calls: int | None = None):
        self.run = run
        # A backward refuses running statistics that another contestant has updated in between.
        self.sets = [call.with_own_statistics() for call in (sets[:1] if hot else sets)]
        rounds = math.ceil(COLD_CALLS / len(self.sets))
        self.calls = calls or (HOT_CALLS if hot else rounds * len(self.sets))
        self.inputs = [call.inputs() for call in self.sets]
        self.forget()

    def forget(self) -> None:
        """Let go of all results."""
        self.outs: list = [None] * len(self.sets)
        self.kept, self.grads = list(self.outs), list(self.outs)

    def prepare(self) -> None:
        """Forwards whose graphs every ``backward`` uses again."""
        self.outs = [self.run(*call.operands) for call in self.sets]

    def forward(self) -> None:
        for number in range(self.calls):
            at = number % len(self.sets)
            self.kept[at] = self.run(*self.sets[at].operands)

    def backward(self) -> None:
        for number in range(self.calls):
            self._differentiate(self.outs, number % len(self.sets))

    def both(self) -> None:
        for _ in range(0, self.calls, len(self.sets)):
            for at, call in enumerate(self.sets):
                self.kept[at] = self.run(*call.operands)
            for at in range(len(self.sets)):
                self._differentiate(self.kept, at)

    def _differentiate(self, outs, at: int) -> None:
        self.grads[at] = torch.autograd.grad(
            outs[at], self.inputs[at], self.sets[at].grad_out, retain_graph=True
        )


def cold_sets(forward_bytes: int, l2_bytes: int | None) -> int:
    """Sets of operands to go round, each touching ``forward_bytes`` of distinct memory."""
    if l2_bytes is None:
        return CPU_CALLS
    fewest, most = COLD_SETS
    return max(fewest, min(most, math.ceil(COLD_L2_SIZES * l2_bytes / forward_bytes)))


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
    works: dict[str, Callable[[], None]], clock: Callable[[Callable], float], repeats: int
) -> dict[str, list[float]]:
    """Seconds of each work, all in turn, another one first in each round; one round warms up."""
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
