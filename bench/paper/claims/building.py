"""Words that claims are written in: comparisons over rows and columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from ..experiment import Place
from ..published import published
from .claim import ABOVE, Comparison
from .statistics import Interval

POINTS = 0.05
"""What still counts as alike, as no gain or as no loss: five points. The paper names no margin."""
MOST = 0.10
"""What a network may lose that keeps most of its accuracy on clean images; the paper's own lose up
to 4.9 points (Table 3)."""
FACTOR = 1.25
"""The same for scores, whose differences are ratios."""

NO_GAIN: Interval = (-math.inf, POINTS)
NO_LOSS: Interval = (-POINTS, math.inf)
KEEPS_MOST: Interval = (-MOST, math.inf)
ALIKE: Interval = (-POINTS, POINTS)
NO_GAIN_OF_SCORE: Interval = (-math.inf, math.log(FACTOR))

Pairs = Iterable[tuple[str, str]]


def down(pairs: Pairs, columns: Iterable[str], wanted: Interval = ABOVE) -> tuple[Comparison, ...]:
    """In each column, each pair's first row against its second."""
    pairs = list(pairs)
    return tuple(Comparison((a, c), (b, c), wanted) for c in columns for a, b in pairs)


def across(rows: Iterable[str], pairs: Pairs, wanted: Interval = ABOVE) -> tuple[Comparison, ...]:
    """In each row, each pair's first column against its second."""
    pairs = list(pairs)
    return tuple(Comparison((r, a), (r, b), wanted) for r in rows for a, b in pairs)


def rising(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs that say that each is above the one before it."""
    return [(b, a) for a, b in pairwise(names)]


def over(name: str, others: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs that say that one is above each of the others."""
    return [(name, other) for other in others]


def quoted(table: int) -> dict[Place, float]:
    """The numbers that the paper's table took from others."""
    printed = published(table)
    found = {(r, c): printed.value(r, c) for r in printed.quoted for c in printed.columns}
    return {place: value for place, value in found.items() if value is not None}
