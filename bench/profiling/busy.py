"""Arithmetic of intervals: when anything ran, and whose time it was."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Interval = tuple[float, float]


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same points in time as disjoint intervals, in order; empty ones are left out."""
    merged: list[list[float]] = []
    for start, end in sorted(intervals):
        if end <= start:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return [(start, end) for start, end in merged]


def total(intervals: Iterable[Interval]) -> float:
    """Length of the union."""
    return sum(end - start for start, end in union(intervals))


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
