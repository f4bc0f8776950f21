"""Which way computes a convolution faster: measured once a process, remembered in it.

By default nothing is measured: a call whose shape has a remembered choice takes it, every other
call takes the separate way. ``with measure_convolutions():`` measures each new shape that runs
inside it. Measuring waits for the GPU, so it never happens inside the capture of a CUDA graph.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

WARM_UP, REPEATS = 3, 11
# A fused convolution must win by more than noise.
MARGIN = 0.97
# GPU cycles to sleep before a timed run: about half a millisecond at first.
CYCLES, MOST_CYCLES = 10**6, 2**8 * 10**6

Candidates = dict[str, Callable[[], Tensor]]

# Names of the chosen candidates, by device and by what the choice depends on.
choices: dict[tuple[torch.device, str], str] = {}
_measuring = False
_cycles = CYCLES


@contextmanager
def measure_convolutions() -> Iterator[None]:
    """Measure the convolutions that run inside, and remember which way was faster.

    Run the network in it once, with the batch size, dtype and mode that later runs will have::

        with scotoma.kernels.measure_convolutions(), torch.no_grad():
            model.eval()(images)

    A fused way whose output disagrees with the separate one is never chosen, and warned of.
    Choices live as long as the process.
    """
    global _measuring
    before, _measuring = _measuring, True
    try:
        yield
    finally:
        _measuring = before


def active() -> bool:
    """Whether a call might be anything but separate."""
    return (_measuring or bool(choices)) and not torch.compiler.is_compiling()


def choose(device: torch.device, key: str, candidates: Candidates) -> str:
    """The name of the candidate to take: the remembered one, else the first.

    Args:
        key: what the choice is remembered by.
        candidates: ways to compute the same; the first is the one that others must agree with.
            Only called to measure them.
    """
    default = next(iter(candidates))
    if (device, key) in choices:
        return choices[device, key]
    if device.type != "cuda" or not _measuring or torch.cuda.is_current_stream_capturing():
        return default
    with torch.cuda.device(device):
        times = measure(agreeing(key, candidates), time_on_gpu)
    choices[device, key] = decide(default, times)
    return choices[device, key]


def decide(default: str, times: dict[str, float]) -> str:
    """The candidate to take by measured milliseconds."""
    fastest = min(times, key=times.get)
    return fastest if times[fastest] < MARGIN * times[default] else default


def agreeing(key: str, candidates: Candidates) -> Candidates:
    """The candidates whose outputs agree with the first one's."""
    names = iter(candidates)
    default = next(names)
    kept = {default: candidates[default]}
    with torch.no_grad():
        out = candidates[default]()
        expected = out.float()
        # Two roundings of the separate way (convolution, output), each of the largest magnitude,
        # and float32 sums in another order, or in TF32, whose unit is that of float16.
        unit = torch.finfo(torch.float16 if out.dtype == torch.float32 else out.dtype).eps
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
    """Milliseconds between the first and the last kernel of ``run`` on the current device.

    The GPU sleeps until everything is queued, so that the host's cost of launching, which would
    favour fewer kernels, is not in it. If it woke too early the run is repeated after a longer
    sleep.
    """
    global _cycles
    while True:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(_cycles)
        start.record()
        run()
        end.record()
        queued_in_time = not start.query()
        end.synchronize()
        if queued_in_time or _cycles >= MOST_CYCLES:
            return start.elapsed_time(end)
        _cycles *= 2
