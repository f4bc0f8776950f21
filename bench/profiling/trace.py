"""A Chrome trace of torch's profiler, read: steps, what ran when, which operator launched it, and
what that comes to in milliseconds per step.

All times are microseconds on the trace's own axis.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .families import FAMILIES, GAPS, OTHER, classify

RANGES = {"cpu_op", "user_annotation"}
STEP = "ProfilerStep#"
ON_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}
CALLS = {"cuda_runtime", "cuda_driver"}
GRAPH_LAUNCH = "GraphLaunch"
TOP, TOP_OTHER = 15, 5

Thread, Interval = tuple[object, object], tuple[float, float]


class UnreadableTrace(RuntimeError):
    """A trace without what is looked for."""


class Span(NamedTuple):
    """Something that ran: a kernel, a copy or a fill on the device, or an operator's own time.

    Attributes:
        name: as the profiler gives it. start, end: in microseconds.
        family: one of ``families.FAMILIES``.
        stream: of the device; 0 on the host.
        launched: when the host launched it; None on the host, and where the trace does not tell.
        first: False for all parts of an operator's own time but the first, so that those which
            are ``first`` count the calls.
    """

    name: str
    start: float
    end: float
    family: str
    stream: int = 0
    launched: float | None = None
    first: bool = True


@dataclass(frozen=True)
class Trace:
    """Steady steps of a contestant.

    Attributes:
        on_device: spans are the device's; otherwise the host's.
        starts: where the steps begin, and where the last one ends: one more than there are steps.
        spans: in order of their start.
        calls: when the host launched something, and its family.
        launches: how many of these the host made in as many steps.
    """

    on_device: bool
    starts: list[float]
    spans: list[Span]
    calls: list[tuple[float, str]]
    launches: int

    @property
    def steps(self) -> int:
        return len(self.starts) - 1

    @property
    def window(self) -> Interval:
        return self.starts[0], self.starts[-1]


def read(events: Iterable[dict], on_device: bool) -> Trace:
    """The steady steps in the events of a trace: all but the first and the last.

    In the first the device has nothing queued; the last only tells where the one before it ends.
    On the device a step begins with the first thing that was launched in it.

    Args:
        events: "traceEvents" of the file. on_device: look at the device; otherwise at the host.

    Raises:
        UnreadableTrace: fewer than three steps, or nothing of the device.
    """
    events = [event for event in events if event.get("ph") == "X" and "dur" in event]
    steps, threads = [], {}
    for event in events:
        if event.get("cat") == "user_annotation" and event["name"].startswith(STEP):
            steps.append(float(event["ts"]))
        elif event.get("cat") in RANGES and not event["name"].startswith(STEP):
            threads.setdefault((event["pid"], event["tid"]), []).append(event)
    if len(steps) < 3:
        raise UnreadableTrace(f"the profiler recorded {len(steps)} steps; expected at least 3")
    steps.sort()
    parts = {thread: list(own_times(ranges)) for thread, ranges in threads.items()}
    if on_device:
        spans, calls = _device_spans(events, parts)
        starts = _device_starts(spans, steps)
    else:
        every = (part for thread in parts.values() for part in thread)
        spans, calls = [Span(n[-1], a, b, classify("", n), first=f) for n, a, b, f in every], []
        starts = steps[1:]
    inside = [span for span in spans if span.end > starts[0] and span.start < starts[-1]]
    # The host is ahead of the device, and its steps lie elsewhere.
    launches = sum(steps[1] <= time < steps[-1] for time, _ in calls)
    calls = [call for call in calls if starts[0] <= call[0] < starts[-1]]
    return Trace(on_device, starts, sorted(inside, key=lambda s: s.start), calls, launches)


Part = tuple[tuple[str, ...], float, float, bool]


def own_times(ranges: list[dict]) -> Iterator[Part]:
    """The time of every operator of a thread without that of the operators in it, in parts.

    Returns:
        In order of time: names of the ranges around a part, outermost first and the operator's own
        the last; its start and end; whether it is the operator's first part.
    """
    upcoming = sorted(ranges, key=lambda event: (event["ts"], -event["dur"]))[::-1]
    times = {event["ts"] for event in ranges} | {event["ts"] + event["dur"] for event in ranges}
    stack, seen, before = [], set(), 0.0
    for time in sorted(times):
        if stack:
            top = id(stack[-1])
            yield tuple(event["name"] for event in stack), before, time, top not in seen
            seen.add(top)
        while stack and stack[-1]["ts"] + stack[-1]["dur"] <= time:
            stack.pop()
        while upcoming and upcoming[-1]["ts"] <= time:
            event = upcoming.pop()
            stack += [event] if event["dur"] > 0 else []
        before = time


def _device_spans(
    events: list[dict], parts: dict[Thread, list[Part]]
) -> tuple[list[Span], list[tuple[float, str]]]:
    """What ran on the device, and the host's launches. parts: :func:`own_times` of each thread."""

    def around(call: dict) -> tuple[str, ...]:
        """Names of the ranges around a call, outermost first."""
        here = parts.get((call["pid"], call["tid"]), [])
        number = bisect.bisect_right(here, call["ts"], key=lambda part: part[1]) - 1
        return here[number][0] if number >= 0 and call["ts"] < here[number][2] else ()

    calls = {}
    for event in events:
        if event.get("cat") in CALLS and "correlation" in event.get("args", {}):
            calls[event["args"]["correlation"]] = event
    spans, launches = [], {}
    for event in events:
        if event.get("cat") not in ON_DEVICE:
            continue
        args = event.get("args", {})
        call = calls.get(args.get("correlation"))
        # What surrounds the launch of a graph says nothing about the kernels in it.
        known = call is not None and GRAPH_LAUNCH not in call["name"]
        family = classify(event["name"], around(call) if known else ())
        start, launched = float(event["ts"]), None
        if call is not None:
            launched = float(call["ts"])
            launches.setdefault(args["correlation"], (launched, family))
        stream = int(args.get("stream", 0))
        spans.append(Span(event["name"], start, start + event["dur"], family, stream, launched))
    return spans, sorted(launches.values())


def _device_starts(spans: list[Span], steps: list[float]) -> list[float]:
    """Where each step but the first begins on the device."""
    first: dict[int, float] = {}
    for span in spans:
        if span.launched is not None:
            number = bisect.bisect_right(steps, span.launched) - 1
            first[number] = min(first.get(number, span.start), span.start)
    missing = [number for number in range(1, len(steps)) if number not in first]
    if missing:
        raise UnreadableTrace(
            f"the profiler recorded nothing on the device in steps {missing}; another profiler may "
            "be attached, or its counters be reserved for administrators"
        )
    return [first[number] for number in range(1, len(steps))]


def clipped(start: float, end: float, window: Interval) -> Interval:
    """The part inside a window; of length 0 or less if there is none."""
    return max(start, window[0]), min(end, window[1])


def shares(intervals: Sequence[tuple[float, float, str]]) -> dict[str, float]:
    """Time by label, time at which several run divided evenly among them.

    The shares add up to the length of the union.

    Args:
        intervals: start, end, label.
    """
    long = [piece for piece in intervals if piece[1] > piece[0]]
    changes = [(start, 1, label) for start, _, label in long]
    changes += [(end, -1, label) for _, end, label in long]
    found, running, before = Counter(), Counter(), 0.0
    for time, change, label in sorted(changes):
        for name, count in running.items() if running.total() else ():
            found[name] += (time - before) * count / running.total()
        running[label] += change
        before = time
    return dict(found)


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
    busy_ms = sum(time.values())
    whole = max(step_ms, busy_ms) if trace.on_device else profiled_ms
    time |= {OTHER: time.get(OTHER, 0.0), GAPS: max(0.0, whole - busy_ms)}
    begun = Counter(span.family for span in trace.spans if span.first and span.start >= begin)
    found = dict.fromkeys(
        ("busy_ms", "busy_percent", "busy_percent_profiled", "host_wait_ms", "host_launches")
    )
    if trace.on_device:
        found = {
            "busy_ms": round(busy_ms, 5),
            "busy_percent": round(min(100.0, 100 * busy_ms / step_ms), 2),
            "busy_percent_profiled": round(min(100.0, 100 * busy_ms / profiled_ms), 2),
            "host_wait_ms": round(_waiting(trace) / 1e3 / runs, 5),
            "host_launches": round(trace.launches / runs, 2),
        }
    return {
        "profiled_step_ms": round(profiled_ms, 5),
        **found,
        "families": {
            family: {
                "ms": round(time[family], 5),
                "percent": round(100 * time[family] / whole, 2),
                "launches": round(begun[family] / runs, 2),
            }
            for family in FAMILIES
            if family in time
        },
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


def _largest(spans: Sequence[Span], runs: int) -> list[dict]:
    """Time and launches per step of every name and family, the largest first."""
    times, counts = Counter(), Counter()
    for span in spans:
        times[span.name, span.family] += span.end - span.start
        counts[span.name, span.family] += span.first
    return [
        {
            "name": name,
            "family": family,
            "ms": round(us / 1e3 / runs, 5),
            "launches": round(counts[name, family] / runs, 2),
        }
        for (name, family), us in times.most_common()
    ]
