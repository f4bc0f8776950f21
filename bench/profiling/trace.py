"""A Chrome trace of torch's profiler, read: steps, what ran when, which operator launched it, and
what that comes to in milliseconds per step.

All times are microseconds on the trace's own axis.
"""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .families import FAMILIES, GAPS, OTHER, classify

RANGES = {"cpu_op", "user_annotation"}
STEP = "ProfilerStep#"
Thread, Interval = tuple[object, object], tuple[float, float]


def threads(events: Iterable[dict]) -> dict[Thread, list[dict]]:
    """Operators and ranges of each thread but the steps', outer ones before those in them."""
    found: dict[Thread, list[dict]] = {}
    for event in events:
        if event.get("cat") in RANGES and not event["name"].startswith(STEP):
            found.setdefault((event["pid"], event["tid"]), []).append(event)
    for ranges in found.values():
        ranges.sort(key=lambda event: (event["ts"], -event["dur"]))
    return found


def around(events: Iterable[dict], calls: Iterable[dict]) -> dict[int, tuple[str, ...]]:
    """The names of the ranges around each call, outermost first, by the call's ``id``."""
    ranges = threads(events)
    by_thread: dict[Thread, list[dict]] = {}
    for call in calls:
        by_thread.setdefault((call["pid"], call["tid"]), []).append(call)
    found = {}
    for thread, here in by_thread.items():
        walk = Walk(ranges.get(thread, []))
        for call in sorted(here, key=lambda call: call["ts"]):
            walk.to(call["ts"])
            found[id(call)] = walk.names()
    return found


def own_times(ranges: list[dict]) -> Iterator[tuple[tuple[str, ...], float, float, bool]]:
    """The time of every operator of a thread without that of the operators in it, in parts.

    Returns:
        Names of the ranges around a part, the operator's own the last; its start and end; whether
        it is the operator's first part.
    """
    walk, seen = Walk(ranges), set()
    times = {event["ts"] for event in ranges} | {event["ts"] + event["dur"] for event in ranges}
    before = 0.0
    for time in sorted(times):
        if walk.stack:
            top = id(walk.stack[-1])
            yield walk.names(), before, time, top not in seen
            seen.add(top)
        walk.to(time)
        before = time


class Walk:
    """Goes through the ranges of a thread in order of time.

    Attributes:
        stack: the ranges around the present moment, outermost first.
    """

    def __init__(self, ranges: list[dict]):
        self.ranges, self.stack, self._next = ranges, [], 0

    def to(self, time: float) -> None:
        """Go on to ``time``: what begins there has begun, what ends there is over."""
        while self._next < len(self.ranges) and self.ranges[self._next]["ts"] <= time:
            event = self.ranges[self._next]
            self._leave(event["ts"])
            self.stack.append(event)
            self._next += 1
        self._leave(time)

    def names(self) -> tuple[str, ...]:
        return tuple(event["name"] for event in self.stack)

    def _leave(self, time: float) -> None:
        while self.stack and self.stack[-1]["ts"] + self.stack[-1]["dur"] <= time:
            self.stack.pop()


ON_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}
CALLS = {"cuda_runtime", "cuda_driver"}
GRAPH_LAUNCH = "GraphLaunch"


class UnreadableTrace(RuntimeError):
    """A trace without what is looked for."""


@dataclass(frozen=True)
class Span:
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

    def typical(self) -> Interval:
        """The step of median length."""
        lengths = [b - a for a, b in zip(self.starts, self.starts[1:], strict=False)]
        number = lengths.index(statistics.median_low(lengths))
        return self.starts[number], self.starts[number + 1]


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
    steps = sorted(
        float(event["ts"])
        for event in events
        if event.get("cat") == "user_annotation" and event["name"].startswith(STEP)
    )
    if len(steps) < 3:
        raise UnreadableTrace(f"the profiler recorded {len(steps)} steps; expected at least 3")
    if not on_device:
        spans = list(_host_spans(events))
        return Trace(False, steps[1:], _within(spans, steps[1:]), [], 0)
    spans, calls = _device_spans(events)
    starts = _device_starts(spans, steps)
    # The host is ahead of the device, and its steps lie elsewhere.
    launches = sum(steps[1] <= time < steps[-1] for time, _ in calls)
    calls = [call for call in calls if starts[0] <= call[0] < starts[-1]]
    return Trace(True, starts, _within(spans, starts), calls, launches)


def _within(spans: list[Span], starts: list[float]) -> list[Span]:
    inside = (span for span in spans if span.end > starts[0] and span.start < starts[-1])
    return sorted(inside, key=lambda span: span.start)


def _device_starts(spans: list[Span], steps: list[float]) -> list[float]:
    """Where each step but the first begins on the device."""
    first: dict[int, float] = {}
    for span in spans:
        if span.launched is not None:
            number = bisect.bisect_right(steps, span.launched) - 1
            first[number] = min(first.get(number, span.start), span.start)
    numbers = range(1, len(steps))
    if not any(number in first for number in numbers):
        raise UnreadableTrace(
            "the profiler recorded nothing on the device; another profiler may be attached, or "
            "its counters be reserved for administrators"
        )
    missing = [number for number in numbers if number not in first]
    if missing:
        raise UnreadableTrace(f"the profiler recorded nothing on the device in steps {missing}")
    return [first[number] for number in numbers]


def _device_spans(events: list[dict]) -> tuple[list[Span], list[tuple[float, str]]]:
    """What ran on the device, and the host's launches."""
    calls = {}
    for event in events:
        if event.get("cat") in CALLS and "correlation" in event.get("args", {}):
            calls[event["args"]["correlation"]] = event
    chains = around(events, calls.values())
    spans, launches = [], {}
    for event in events:
        if event.get("cat") not in ON_DEVICE:
            continue
        args = event.get("args", {})
        call = calls.get(args.get("correlation"))
        # What surrounds the launch of a graph says nothing about the kernels in it.
        known = call is not None and GRAPH_LAUNCH not in call["name"]
        family = classify(event["name"], chains[id(call)] if known else ())
        start = float(event["ts"])
        launched = None if call is None else float(call["ts"])
        stream = int(args.get("stream", 0))
        spans.append(Span(event["name"], start, start + event["dur"], family, stream, launched))
        if launched is not None:
            launches.setdefault(args["correlation"], (launched, family))
    return spans, sorted(launches.values())


def _host_spans(events: list[dict]) -> Iterator[Span]:
    for ranges in threads(events).values():
        for names, start, end, first in own_times(ranges):
            yield Span(names[-1], start, end, classify("", names), first=first)


def clipped(start: float, end: float, window: Interval) -> Interval:
    """The part inside a window; of length 0 or less if there is none."""
    return max(start, window[0]), min(end, window[1])


def shares(intervals: Sequence[tuple[float, float, str]]) -> dict[str, float]:
    """Time by label, time at which several run divided evenly among them.

    The shares add up to the length of the union.

    Args:
        intervals: start, end, label.
    """
    bounds = sorted(
        [(start, 1, number) for number, (start, end, _) in enumerate(intervals) if end > start]
        + [(end, 0, number) for number, (start, end, _) in enumerate(intervals) if end > start]
    )
    found: dict[str, float] = {}
    running: set[int] = set()
    before = 0.0
    for at, begins, number in bounds:
        for other in running:
            label = intervals[other][2]
            found[label] = found.get(label, 0.0) + (at - before) / len(running)
        before = at
        if begins:
            running.add(number)
        else:
            running.discard(number)
    return found


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
    busy_ms = sum(time.values())
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
