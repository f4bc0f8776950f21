"""A claim of the paper as comparisons of places, and the verdict of measured values on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..estimates import Estimate
from ..experiment import Place
from .statistics import Interval, Outcome, difference, logarithm, outcome
from .wording import evidence, place

SUPPORTED, NOT_SUPPORTED = "supported", "not supported"
NOT_DECIDABLE = "not decidable at this budget"
ABOVE: Interval = (0.0, math.inf)

Values = Mapping[Place, Estimate]


@dataclass(frozen=True)
class Elsewhere:
    """A place of another table or figure, which is named as in "table11"."""

    name: str
    row: str
    column: str


Side = Place | Elsewhere


@dataclass(frozen=True)
class Comparison:
    """That ``a - b`` lies within ``wanted``: by default, that a is above b.

    Of scores, ``wanted`` is a range of ln(a/b).
    """

    a: Side
    b: Side
    wanted: Interval = ABOVE


@dataclass(frozen=True)
class Claim:
    """A sentence of ours, and what it implies.

    Attributes:
        text: the claim, margins included. section: of the paper.
        comparisons: all of them have to hold.
        stated: whether the paper's text says so; if not, its tables show it. ours: whether it is
            about runs that the paper has not, so that neither does.
        quoted: constants of the paper for places that it took from others. They go before a
            measured value in such a place, which is our own run of somebody else's defence, and
            count as exact, since the paper does not say over how many images they are.
        score: whether values are positive scores, which are compared as ratios.
    """

    text: str
    section: str
    comparisons: tuple[Comparison, ...]
    stated: bool = True
    ours: bool = False
    quoted: Mapping[Place, float] = field(default_factory=dict)
    score: bool = False

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Names of the other tables and figures that it needs."""
        sides = [side for each in self.comparisons for side in (each.a, each.b)]
        return tuple(dict.fromkeys(s.name for s in sides if isinstance(s, Elsewhere)))


@dataclass(frozen=True)
class Compared:
    """A comparison whose two numbers are there.

    Attributes:
        value, low, high: a - b and its interval of 95 %, of scores as logarithms.
        quoted: whether b is the paper's constant.
    """

    comparison: Comparison
    outcome: Outcome
    value: float
    low: float
    high: float
    quoted: bool

    @property
    def slack(self) -> float:
        """How far the value is within what is wanted; negative outside."""
        low, high = self.comparison.wanted
        return min(self.value - low, high - self.value)


@dataclass(frozen=True)
class Verdict:
    """What the numbers say of a claim.

    Attributes:
        claim, section, stated, ours: of the claim. verdict: one of this module's three words.
        evidence: a line for people. holds, open, reversed: numbers of comparisons; those that lack
            a number are in none of them. missing: the places that they lack, for people.
    """

    claim: str
    section: str
    stated: bool
    verdict: str
    evidence: str
    holds: int
    open: int
    reversed: int
    missing: tuple[str, ...] = ()
    ours: bool = False


def judge(
    claim: Claim, values: Values, decides: bool, others: Mapping[str, Values] | None = None
) -> Verdict:
    """The verdict of a table's values on one of its claims.

    Supported, if every comparison holds; not supported, if one is reversed, whatever is missing;
    otherwise not decidable. :mod:`.statistics` says when a comparison holds or is reversed.

    Args:
        values: of the claim's own table or figure. decides: whether numbers of this budget, on
            these images, can decide at all; the counts are evidence even if they cannot.
        others: {name: values} of others, for :attr:`Claim.elsewhere`.

    Raises:
        UserError: a score of 0 or below.
    """
    compared: list[Compared] = []
    missing: dict[Side, None] = {}
    for each in claim.comparisons:
        a, b = (_number(claim, side, values, others or {}) for side in (each.a, each.b))
        missing |= {side: None for side, found in ((each.a, a), (each.b, b)) if found is None}
        if a is not None and b is not None:
            compared.append(_compare(claim, each, a, b))
    holds, unclear, against = (
        sum(one.outcome is kind for one in compared)
        for kind in (Outcome.HOLDS, Outcome.OPEN, Outcome.REVERSED)
    )
    verdict = NOT_DECIDABLE
    if decides and against:
        verdict = NOT_SUPPORTED
    elif decides and holds == len(claim.comparisons):
        verdict = SUPPORTED
    absent = tuple(place(side) for side in missing)
    return Verdict(
        claim=claim.text,
        section=claim.section,
        stated=claim.stated,
        ours=claim.ours,
        verdict=verdict,
        evidence=evidence(claim, compared, absent, decides),
        holds=holds,
        open=unclear,
        reversed=against,
        missing=absent,
    )


def _number(
    claim: Claim, side: Side, values: Values, others: Mapping[str, Values]
) -> Estimate | float | None:
    if isinstance(side, Elsewhere):
        return others.get(side.name, {}).get((side.row, side.column))
    return claim.quoted.get(side, values.get(side))


def _compare(
    claim: Claim, comparison: Comparison, a: Estimate | float, b: Estimate | float
) -> Compared:
    quoted = not isinstance(b, Estimate)
    if claim.score:
        a, b = (logarithm(e) if isinstance(e, Estimate) else math.log(e) for e in (a, b))
    found = outcome(a, b, comparison.wanted, len(claim.comparisons))
    d = difference(a, b)
    return Compared(comparison, found, d.value, d.low, d.high, quoted)
