"""What a trace says, in milliseconds per step."""

from __future__ import annotations

from collections.abc import Sequence

from .busy import clipped, shares, total
from .families import FAMILIES, GAPS, OTHER
from .trace import Span, Trace

TOP, TOP_OTHER = 15, 5


def summarise(trace: Trace, step_ms: float, units: int = 1) -> dict:
    """Fields of a row: busy share, families, and the kernels that take most of the time.

    On the device, families are the time that their kernels ran (time at which several ran is
    divided among them), and gaps are what is left of a step as it is without the profiler: the
    profiler slows the host down, not the kernels. On a CPU everything is slowed down alike, so
    families are operators' own times and gaps the time outside of operators, both of a profiled
    step.

    Args:
        trace: of steady runs. step_ms: of a step without the profiler. units: steps of a run.
    """
    runs = trace.steps * units
    begin, end = trace.window
    profiled_ms = (end - begin) / 1e3 / runs
    pieces = [(*clipped(span.start, span.end, trace.window), span.family) for span in trace.spans]
    time = {family: us / 1e3 / runs for family, us in shares(pieces).items()}
    busy_ms = total(piece[:2] for piece in pieces) / 1e3 / runs
    whole = max(step_ms, busy_ms) if trace.on_device else profiled_ms
    time[GAPS] = max(0.0, whole - busy_ms)
    begun = [span for span in trace.spans if span.first and span.start >= begin]
    families = {}
    for family in FAMILIES:
        if family in time or family in (OTHER, GAPS):
            ms = time.get(family, 0.0)
            families[family] = {
                "ms": round(ms, 5),
                "percent": round(100 * ms / whole, 2),
                "launches": round(sum(span.family == family for span in begun) / runs, 2),
            }
    return {
        "profiled_step_ms": round(profiled_ms, 5),
        "busy_ms": round(busy_ms, 5) if trace.on_device else None,
        "busy_percent": _percent(busy_ms, step_ms) if trace.on_device else None,
        "busy_percent_profiled": _percent(busy_ms, profiled_ms) if trace.on_device else None,
        "host_wait_ms": round(_waiting(trace) / 1e3 / runs, 5) if trace.on_device else None,
        "host_launches": round(trace.launches / runs, 2) if trace.on_device else None,
        "families": families,
        "top": _largest(trace.spans, runs)[:TOP],
        "top_other": _largest([s for s in trace.spans if s.family == OTHER], runs)[:TOP_OTHER],
    }


def _waiting(trace: Trace) -> float:
    """Microseconds in which the device had nothing to do, since nothing more was launched yet.

    Between kernels that are launched already it pauses too, but only shortly.
    """
    begin, end = trace.window
    waited, free = 0.0, begin
    for span in trace.spans:
        if span.start > free and span.launched is not None and span.launched > free:
            waited += span.start - free
        free = max(free, min(span.end, end))
    return waited


def _percent(part: float, whole: float) -> float:
    return round(min(100.0, 100 * part / whole), 2)


def _largest(spans: Sequence[Span], runs: int) -> list[dict]:
    """Time and launches per step of every name and family, the largest first."""
    found: dict[tuple[str, str], list[float]] = {}
    for span in spans:
        entry = found.setdefault((span.name, span.family), [0.0, 0])
        entry[0] += span.end - span.start
        entry[1] += span.first
    ordered = sorted(found.items(), key=lambda item: -item[1][0])
    return [
        {
            "name": name,
            "family": family,
            "ms": round(us / 1e3 / runs, 5),
            "launches": round(count / runs, 2),
        }
        for (name, family), (us, count) in ordered
    ]
