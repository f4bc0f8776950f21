"""Whether numbers support a claim of the paper.

A claim is a conjunction. To support it, each comparison has to hold at 95 %, unadjusted (an
intersection-union test; Berger, 1982): a claim that is false anywhere is supported in at most 2.5 %
of reproductions. To refute it, one is enough, and among 75 comparisons one goes wrong by chance: so
a comparison is reversed only at a level adjusted for their number m, 1 - 0.05/m (Bonferroni), and a
claim that is true everywhere is refuted in at most 5 % of reproductions. Student's intervals of
three seeds are wide at such levels: only a reversal far beyond their spread refutes.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import NamedTuple

from .estimates import (
    LEVEL,
    Difference,
    Estimate,
    Interval,
    difference,
    exact,
    logarithm,
    pairable,
    paired,
)

SUPPORTED, NOT_SUPPORTED = "supported", "not supported"
NOT_DECIDABLE = "not decidable at this budget"
UNDECIDED = "undecided"
"""Of verdicts :func:`at_scale`."""
HOLDS, OPEN, REVERSED = OUTCOMES = "holds", "open", "reversed"
"""Of one comparison, the worst last."""

RULES = (
    "A claim is a number of comparisons, each a difference of two numbers with an interval. It is "
    "supported if all of them hold at 95 %.",
    "Rates are compared as pairs, seed by seed and image by image: the interval is Student's over "
    "the differences of the seeds, together with that for the choice of images, where an image "
    "counts with all that both rates and every seed have of it (the variance of a bootstrap of "
    "images, in closed form). Where results do not tell which images they count, it is "
    "Newcombe's, from the intervals of both, as if of other images: rather too wide.",
    "It is not supported if one of them is reversed at a level that is adjusted for their number "
    "(Bonferroni), so that among many none is by chance. All else is not decidable.",
    "Of one seed, intervals are for the choice of images: a verdict is about these very networks, "
    "and others, trained anew, may differ by more.",
    "Numbers that the paper quotes from others count as exact, and go before our own runs of the "
    "same defence, which have claims of their own.",
)
"""For people: how a verdict is reached."""

Place = tuple[str, str]
"""(row, column)."""
ABOVE: Interval = (0.0, math.inf)
_LISTED = 3
"""Missing numbers that are named in a line of evidence; the others are counted."""


def outcome(a: Estimate, b: Estimate, wanted: Interval, comparisons: int) -> str:
    """Whether a - b lies within ``wanted``, an open interval: one of :data:`OUTCOMES`.

    It holds if the interval of 95 % is within, and is reversed if that of the level adjusted for
    ``comparisons``, of which it is one, is wholly outside.
    """
    low, high = wanted
    found = difference(a, b)
    if low < found.low and found.high < high:
        return HOLDS
    found = difference(a, b, 1 - (1 - LEVEL) / comparisons)
    return REVERSED if found.high < low or found.low > high else OPEN


class Elsewhere(NamedTuple):
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
        text: the claim, margins included. comparisons: all of them have to hold.
        section: of the paper; "" for that of the table.
        stated: whether the paper's text says so; if not, its tables show it. ours: whether it is
            about runs that the paper has not, so that neither does.
        quoted: constants of the paper for places that it took from others. They go before a
            measured value in such a place, which is our own run of somebody else's defence, and
            count as exact, since the paper does not say over how many images they are.
        score: whether values are positive scores, which are compared as ratios.
    """

    text: str
    comparisons: tuple[Comparison, ...]
    section: str = ""
    stated: bool = True
    ours: bool = False
    quoted: Mapping[Place, float] = field(default_factory=dict)
    score: bool = False

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Names of the other tables and figures that it needs."""
        sides = [side for each in self.comparisons for side in (each.a, each.b)]
        return tuple(dict.fromkeys(s.name for s in sides if isinstance(s, Elsewhere)))

    def within(self, rows: Container[str]) -> Claim | None:
        """The claim about these rows of its table only, and it says so; None if it is about others.
        Rows of other tables stay."""
        found = tuple(
            each
            for each in self.comparisons
            if all(isinstance(s, Elsewhere) or s[0] in rows for s in (each.a, each.b))
        )
        if len(found) == len(self.comparisons):
            return self
        text = f"Of the rows that were chosen: {self.text[:1].lower()}{self.text[1:]}"
        return replace(self, text=text, comparisons=found) if found else None


@dataclass(frozen=True)
class Effect:
    """A difference for people.

    Attributes:
        value, low, high: points, or times where ``unit`` says so; None where there is no end.
        n: images behind it, of its numbers the fewest; 0 if that is not known. seeds: behind it.
        where: the places.
    """

    value: float
    low: float | None
    high: float | None
    unit: str
    n: int
    seeds: int
    where: str

    @classmethod
    def of(cls, found: Difference, sides: Sequence[Estimate], score: bool, where: str) -> Effect:
        """Args: sides: the numbers that it is a difference of; ``score``: ln of their ratio."""
        value, low, high = (_in_unit(x, score) if math.isfinite(x) else None for x in found)
        measured = [each for each in sides if each.n] or sides  # what is quoted has no number
        n, seeds = (min(x) for x in zip(*((e.n, len(e.per_seed)) for e in measured), strict=True))
        return cls(value, low, high, "times" if score else "points", n, seeds, where)

    @property
    def told(self) -> str:
        """ "+1.20 points", or "4.79 times"."""
        return f"{self.value:{'.2f' if self.unit == 'times' else '+.2f'}} {self.unit}"

    @property
    def interval(self) -> str:
        """ "[-0.80, 3.10]"; "" without one."""
        known = self.low is not None and self.high is not None
        return f"[{self.low:.2f}, {self.high:.2f}]" if known else ""


@dataclass(frozen=True)
class Verdict:
    """What the numbers say of a claim.

    Attributes:
        claim, section, stated, ours: of the claim. verdict: one of this module's three words.
        evidence: a line for people. holds, open, reversed: numbers of comparisons; those that lack
            a number are in none of them. missing: the places that they lack, for people.
        effect: of the comparison that stands worst; None without any. mean: of all comparisons
            that have their numbers. Where outcomes are not known image by image, its interval is
            the mean of theirs, as if all varied together: rather too wide. Of scores it is the
            geometric mean of the ratios.
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
    effect: Effect | None = None
    mean: Effect | None = None


def judge(claim: Claim, values: Mapping[Side, Estimate], decides: bool) -> Verdict:
    """The verdict of numbers on a claim.

    Supported, if every comparison holds; not supported, if one is reversed, whatever is missing;
    otherwise not decidable.

    Args:
        values: of the claim's own table or figure, and of others (:attr:`Claim.elsewhere`).
        decides: whether numbers of this budget, on these images, can decide at all; the counts are
            evidence even if they cannot.

    Raises:
        UserError: a score of 0 or below.
    """
    values = {**values, **{place: exact(value) for place, value in claim.quoted.items()}}
    compared: list[_Compared] = []
    missing: dict[str, None] = {}
    for each in claim.comparisons:
        if absent := [side for side in (each.a, each.b) if side not in values]:
            missing |= dict.fromkeys(map(_told, absent))
            continue
        a, b = values[each.a], values[each.b]
        if claim.score:
            a, b = logarithm(a), logarithm(b)
        found = outcome(a, b, each.wanted, len(claim.comparisons))
        quoted = each.b in claim.quoted
        compared.append(_Compared(each, found, difference(a, b), (a, b), quoted))
    counts = {kind: sum(each.outcome == kind for each in compared) for kind in OUTCOMES}
    verdict = NOT_DECIDABLE
    if decides and counts[REVERSED]:
        verdict = NOT_SUPPORTED
    elif decides and counts[HOLDS] == len(claim.comparisons):
        verdict = SUPPORTED
    effect = mean = None
    if compared:
        worst = max(compared, key=lambda each: (OUTCOMES.index(each.outcome), -each.slack))
        effect = Effect.of(worst.difference, worst.sides, claim.score, _where(worst))
        pairs = [each.sides for each in compared]
        if pairable(pairs):
            found = paired(pairs, LEVEL)
        else:
            ends = zip(*(each.difference for each in compared), strict=True)
            found = Difference(*map(fmean, ends))
        both = [each for pair in pairs for each in pair]
        where = f"over {len(pairs)} of {len(claim.comparisons)}"
        mean = Effect.of(found, both, claim.score, where)
    evidence = _evidence(claim, compared, counts, list(missing), effect)
    if not decides:
        evidence += "; these numbers decide nothing about the paper"
    head = claim.text, claim.section, claim.stated, verdict, evidence
    told = {"missing": tuple(missing), "ours": claim.ours, "effect": effect, "mean": mean}
    return Verdict(*head, **counts, **told)


def _in_unit(difference: float, score: bool) -> float:
    """Points of percent, or how many times."""
    # No float holds more than e^709: only scores of an edited file are so far apart.
    return math.exp(min(difference, 700.0)) if score else 100 * difference


def at_scale(found: Verdict, scale: str) -> Verdict:
    """A verdict of :func:`judge` as one about networks of a ``scale`` of ours, such as "at small
    scale", whose word is never one about the paper's: "at small scale: supported"."""
    word = UNDECIDED if found.verdict == NOT_DECIDABLE else found.verdict
    return replace(found, verdict=f"{scale}: {word}")


class _Compared(NamedTuple):
    """A comparison whose two numbers are there: ``sides``. quoted: whether b is the paper's
    constant."""

    comparison: Comparison
    outcome: str
    difference: Difference
    sides: tuple[Estimate, Estimate]
    quoted: bool

    @property
    def slack(self) -> float:
        """How far the value is within what is wanted; negative outside."""
        low, high = self.comparison.wanted
        return min(self.difference.value - low, high - self.difference.value)


def _evidence(
    claim: Claim,
    compared: Sequence[_Compared],
    counts: Mapping[str, int],
    missing: Sequence[str],
    effect: Effect | None,
) -> str:
    """Counts, the comparison that stands worst, and what is missing.

    As in "18 of 20 comparisons hold, 2 open, 0 reversed; weakest: +1.20 points
    [-0.80, 3.10] (0.2-Bottom over 0.25-Bottom, PGD16)".
    """
    total = len(claim.comparisons)
    hold = "comparison holds" if total == 1 else "comparisons hold"
    parts = [f"{counts[HOLDS]} of {total} {hold}, {counts[OPEN]} open, {counts[REVERSED]} reversed"]
    if effect is not None:
        interval = f" {effect.interval}" if effect.interval else ", without an interval"
        parts.append(f"weakest: {effect.told}{interval} ({effect.where})")
    if quoted := sum(each.quoted for each in compared):
        parts.append(f"{quoted} with numbers that the paper quotes")
    if missing:
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        parts.append(f"missing: {' | '.join(missing[:_LISTED])}{more}")
    return "; ".join(parts)


def _where(found: _Compared) -> str:
    """ "0.2-Bottom over 0.25-Bottom, PGD16": what the two places share stands once."""
    a, b = found.comparison.a, found.comparison.b
    mark = " as quoted" if found.quoted else ""
    if not isinstance(a, Elsewhere) and not isinstance(b, Elsewhere):
        if a[1] == b[1]:
            return f"{a[0]} over {b[0]}{mark}, {a[1]}"
        if a[0] == b[0]:
            return f"{a[0]}, {a[1]} over {b[1]}{mark}"
    return f"{_told(a)} over {_told(b)}{mark}"


def _told(side: Side) -> str:
    """ "0.5-Bottom, PGD16", with the table's name before it if it is another."""
    if isinstance(side, Elsewhere):
        return f"{side.name}: {side.row}, {side.column}"
    return ", ".join(side)
