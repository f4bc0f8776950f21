"""Differences of two estimates, and whether they lie where a claim wants them.

The interval of a difference is the hybrid of Newcombe (1998, method 10), in its general form MOVER
(Zou and Donner, 2008): from the two intervals, whatever they are, Wilson's of one seed or those
over seeds. The two estimates count as independent. They are not quite: the networks see the same
images, though each has a denominator of its own, and what is hard for one is hard for another. Such
a positive correlation makes true intervals narrower than ours, which err on the side of caution.

A claim is a conjunction: all of its comparisons have to be as it says. Two levels follow.

- To support it, each comparison has to hold at 95 %, without an adjustment for their number: the
  claim is supported if all tests agree (an intersection-union test; Berger, 1982), which they do
  for a claim that is false anywhere in at most 2.5 % of reproductions.
- To refute it, one is enough, and among 75 comparisons one goes wrong by chance. So a comparison is
  reversed only at a level adjusted for their number m, 1 - 0.05/m (Bonferroni): a claim that is
  true everywhere is refuted in at most 5 % of reproductions. Student's intervals of few seeds are
  wide at such levels: of three seeds, only a reversal far beyond their spread refutes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum

from ....defective.errors import UserError
from ..estimates import LEVEL, Estimate

Interval = tuple[float, float]
EVERYWHERE: Interval = (-math.inf, math.inf)


class Outcome(Enum):
    """Of one comparison."""

    HOLDS = "holds"
    OPEN = "open"
    REVERSED = "reversed"


@dataclass(frozen=True)
class Difference:
    """``value``, a - b, with its interval; that reaches everywhere where a or b has none."""

    value: float
    low: float
    high: float


def difference(a: Estimate | float, b: Estimate | float, level: float = LEVEL) -> Difference:
    """a - b with the interval of a level. Plain numbers are exact constants.

    Raises:
        UserError: a level that is not between 0 and 1.
    """
    (va, la, ua), (vb, lb, ub) = _bounds(a, level), _bounds(b, level)
    value = va - vb
    return Difference(
        value, value - math.hypot(va - la, ub - vb), value + math.hypot(ua - va, vb - lb)
    )


def adjusted(comparisons: int) -> float:
    """The level at which one of so many comparisons refutes a claim."""
    if comparisons < 1:
        raise UserError(f"comparisons is {comparisons}; expected at least 1")
    return 1 - (1 - LEVEL) / comparisons


def outcome(
    a: Estimate | float, b: Estimate | float, wanted: Interval, comparisons: int
) -> Outcome:
    """Whether a - b lies within ``wanted``, an open interval.

    It holds if the interval of 95 % is within, and is reversed if that of the level for
    ``comparisons`` (:func:`adjusted`) is wholly outside.
    """
    low, high = wanted
    found = difference(a, b)
    if low < found.low and found.high < high:
        return Outcome.HOLDS
    found = difference(a, b, adjusted(comparisons))
    if found.high < low or found.low > high:
        return Outcome.REVERSED
    return Outcome.OPEN


def logarithm(estimate: Estimate) -> Estimate:
    """The natural logarithm, so that a difference is a ratio: for scores that span magnitudes.

    Raises:
        UserError: a value of 0 or below.
    """
    if min(estimate.value, *estimate.per_seed) <= 0:
        raise UserError(f"a score is {estimate.value!r}; expected more than 0")
    per_seed = tuple(math.log(value) for value in estimate.per_seed)
    if len(per_seed) > 1:
        # The mean of logarithms, since that is what the seeds' spread has its interval about.
        value = math.fsum(per_seed) / len(per_seed)
        spans = tuple((_log(low), _log(high)) for low, high in estimate.spans)
        return Estimate(value, value, value, estimate.n, per_seed, spans=spans)
    low, high = (None if end is None else _log(end) for end in (estimate.low, estimate.high))
    return replace(estimate, value=per_seed[0], low=low, high=high, per_seed=per_seed, rate=False)


def _log(end: float) -> float:
    """Of an interval's end, which may be 0."""
    return math.log(end) if end > 0 else -math.inf


def _bounds(side: Estimate | float, level: float) -> tuple[float, float, float]:
    """(value, low, high)."""
    if not isinstance(side, Estimate):
        return side, side, side
    return side.value, *(side.interval(level) or EVERYWHERE)
