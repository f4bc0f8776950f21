"""A Chrome trace of torch's profiler, read: steps, what ran when, and which operator launched it.

All times are microseconds on the trace's own axis.
"""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from . import host
from .busy import Interval
from .families import classify

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
        if event.get("cat") == "user_annotation" and event["name"].startswith(host.STEP)
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
    chains = host.around(events, calls.values())
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
    for ranges in host.threads(events).values():
        for names, start, end, first in host.own_times(ranges):
            yield Span(names[-1], start, end, classify("", names), first=first)
