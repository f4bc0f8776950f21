"""Numbers with intervals, and their differences.

Two rates whose outcomes are known image by image are compared as pairs: seed by seed, and on the
images that they share (:func:`paired`). The interval of any other difference is the hybrid of
Newcombe (1998, method 10), in its general form MOVER (Zou and Donner, 2008): from the two
intervals, whatever they are. The two numbers count there as independent. They are not quite, for
what is hard for one network is hard for another; true intervals are then narrower than ours, which
err on the side of caution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from statistics import NormalDist, fmean
from typing import NamedTuple

import numpy as np

from ...defective.errors import UserError

LEVEL = 0.95
Interval = tuple[float, float]


class Outcomes(NamedTuple):
    """What one seed's rate counts, image by image.

    Attributes:
        images: int [N], numbers in the test split, each once. right, among: bool [N]; the rate is
            the share of ``right`` among ``among``.
    """

    images: np.ndarray
    right: np.ndarray
    among: np.ndarray

    def influence(self) -> np.ndarray:
        """float [N]: how the rate changes with an image's weight."""
        count = self.among.sum()
        return (self.right - self.among * (self.right.sum() / count)) / count


@dataclass(frozen=True)
class Estimate:
    """A cell's number.

    Attributes:
        value: a fraction or a score; the mean over seeds. low, high: a 95 % interval, or None where
            there is none. Of one seed it is the interval for the choice of images (Wilson's for
            rates). Of several it is Student's over the seeds together with that for the choice of
            images, which the seeds share, so that their spread does not show it: errors that know
            nothing of each other add up as squares do, here on each side for itself.
        n: images behind the value; of several seeds the fewest. per_seed: each seed's value.
        rate: whether it is a share of ``n`` images, and no score.
        spans: of several seeds' scores, each seed's own interval of 95 %; empty if one has none.
        outcomes: of rates, each seed's, image by image; empty where they are not known.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    per_seed: tuple[float, ...]
    rate: bool = False
    spans: tuple[Interval, ...] = ()
    outcomes: tuple[Outcomes, ...] = field(default=(), repr=False, compare=False)

    def interval(self, level: float = LEVEL) -> Interval | None:
        """The interval of another level, such as 0.999; None where there is none.

        Intervals of scores for the choice of images are stretched as a normal distribution's.

        Raises:
            UserError: a level that is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise UserError(f"level is {level!r}; expected a number between 0 and 1, such as 0.95")
        if self.low is None or self.high is None:
            return None
        below, above = self._reach_of_images(level)
        if len(self.per_seed) > 1:
            half = _half_of_seeds(self.per_seed, level)
            below, above = math.hypot(half, below), math.hypot(half, above)
        low, high = self.value - below, self.value + above
        return (max(0.0, low), min(1.0, high)) if self.rate else (low, high)

    def _reach_of_images(self, level: float) -> Interval:
        """How far the interval for the choice of images reaches below and above the value."""
        if self.rate:
            low, high = wilson(self.value, self.n, level)
            return self.value - low, high - self.value
        spans = self.spans if len(self.per_seed) > 1 else ((self.low, self.high),)
        if not spans:
            return 0.0, 0.0
        stretch = _normal(level) / _normal(LEVEL)
        low, high = (fmean(ends) for ends in zip(*spans, strict=True))
        return stretch * (self.value - low), stretch * (high - self.value)


def share(value: float, n: int) -> Estimate:
    """A rate of one seed, from the fraction itself, such as one that was printed rounded."""
    return Estimate(value, *wilson(value, n), n, (value,), rate=True)


def exact(value: float) -> Estimate:
    """A constant, whose interval is itself."""
    return Estimate(value, value, value, 0, (value,))


def combined(found: Sequence[Estimate]) -> Estimate | None:
    """One estimate from those of single seeds."""
    if len(found) <= 1:
        return found[0] if found else None
    values = tuple(each.value for each in found)
    rate = all(each.rate for each in found)
    spans = () if rate else tuple((each.low, each.high) for each in found)
    if any(None in span for span in spans):
        spans = ()
    mean = fmean(values)
    # Not None: from several seeds there always is an interval, which comes from their values.
    outcomes = tuple(one for each in found for one in each.outcomes)
    if len(outcomes) < len(found):
        outcomes = ()
    few = min(each.n for each in found)
    whole = Estimate(mean, mean, mean, few, values, rate, spans, outcomes)
    low, high = whole.interval()
    return replace(whole, low=max(0.0, low), high=high)  # no score is below 0


def wilson(value: float, n: int, level: float = LEVEL) -> Interval:
    """Wilson's interval (1927) of the fraction ``value`` of n images.

    The count ``value * n`` need not be whole, as SciPy's has to be: of means over seeds it is not.

    Raises:
        UserError: n below 1, or a value that is no fraction.
    """
    if n < 1 or not 0 <= value <= 1:
        raise UserError(f"value is {value!r} of n={n!r}; expected 0 <= value <= 1 and n >= 1")
    z = _normal(level)
    square = z * z / n
    centre = (value + square / 2) / (1 + square)
    half = z * math.sqrt((value * (1 - value) + square / 4) / n) / (1 + square)
    # The interval holds the value; at 0 and 1 rounding would leave it outside by 1e-17.
    return max(0.0, min(value, centre - half)), min(1.0, max(value, centre + half))


def _half_of_seeds(values: Sequence[float], level: float) -> float:
    """Half of Student's interval of the mean of several seeds' values."""
    seeds = len(values)
    spread = math.dist(values, [fmean(values)] * seeds)
    return _student(level, seeds - 1) * spread / math.sqrt(seeds * (seeds - 1))


@cache
def _student(level: float, freedom: int) -> float:
    """How many standard errors Student's interval of a level reaches to each side."""
    from scipy.special import stdtrit  # several seeds, and the study, have need of it only

    return float(stdtrit(freedom, (1 + level) / 2))


@cache
def _normal(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def logarithm(estimate: Estimate) -> Estimate:
    """The natural logarithm, so that a difference is a ratio: for scores that span magnitudes.

    Raises:
        UserError: a value of 0 or below.
    """
    if min(estimate.value, *estimate.per_seed) <= 0:
        raise UserError(f"a score is {estimate.value!r}; expected more than 0")

    def log(end: float | None) -> float | None:
        """Of an interval's end, which may be 0."""
        return end if end is None else math.log(end) if end > 0 else -math.inf

    values = tuple(map(math.log, estimate.per_seed))
    # The mean of logarithms, since that is what the seeds' spread has its interval about.
    value = fmean(values)
    if len(values) == 1:
        return Estimate(value, log(estimate.low), log(estimate.high), estimate.n, values)
    spans = tuple((log(low), log(high)) for low, high in estimate.spans)
    return Estimate(value, value, value, estimate.n, values, spans=spans)


class Difference(NamedTuple):
    """a - b with its interval; that reaches everywhere where a or b has none."""

    value: float
    low: float
    high: float


def difference(a: Estimate, b: Estimate, level: float = LEVEL) -> Difference:
    """a - b with the interval of a level. Raises UserError as :meth:`Estimate.interval`."""
    if pairable([(a, b)]):
        return paired([(a, b)], level)
    ends = (each.interval(level) or (-math.inf, math.inf) for each in (a, b))
    (low_a, high_a), (low_b, high_b) = ends
    value = a.value - b.value
    below = math.hypot(a.value - low_a, high_b - b.value)
    above = math.hypot(high_a - a.value, b.value - low_b)
    return Difference(value, value - below, value + above)


def paired(pairs: Sequence[tuple[Estimate, Estimate]], level: float) -> Difference:
    """The mean of a - b over pairs (a, b) of rates whose images are known, of the same seeds.

    The error for the choice of images is the bootstrap's over images, in closed form (the
    infinitesimal jackknife; Efron, 1982): an image is drawn with all that every seed and all rates
    have of it, so that what is hard for all cancels. One image more or less is added, since rates
    near 0 or 1 hardly vary. Seeds come on top as in :meth:`Estimate.interval`.
    """
    signed = [(sign, rate) for pair in pairs for sign, rate in zip((1, -1), pair, strict=True)]
    images, influence = [], []
    for sign, rate in signed:
        for one in rate.outcomes:
            images.append(one.images)
            influence.append(sign * one.influence() / len(rate.outcomes) / len(pairs))
    _, places = np.unique(np.concatenate(images), return_inverse=True)
    weights = np.bincount(places, np.concatenate(influence))
    half = _normal(level) * math.sqrt((weights**2).sum()) + 1 / min(rate.n for _, rate in signed)
    by_seed = zip(*([sign * x for x in rate.per_seed] for sign, rate in signed), strict=True)
    differences = [sum(values) / len(pairs) for values in by_seed]
    if len(differences) > 1:
        half = math.hypot(half, _half_of_seeds(differences, level))
    value = fmean(a.value - b.value for a, b in pairs)
    return Difference(value, max(-1.0, value - half), min(1.0, value + half))


def pairable(pairs: Sequence[tuple[Estimate, Estimate]]) -> bool:
    """Whether :func:`paired` takes them."""
    seeds = {len(rate.outcomes) for pair in pairs for rate in pair}
    return len(seeds) == 1 and seeds != {0}
