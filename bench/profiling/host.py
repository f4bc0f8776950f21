"""What the host was doing: the operators and ranges around a moment, and their own times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

RANGES = {"cpu_op", "user_annotation"}
STEP = "ProfilerStep#"
Thread = tuple[object, object]


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
