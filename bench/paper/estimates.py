"""From results of several seeds to one number with an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import NormalDist, fmean, stdev
from typing import Any

from ...defective.errors import UserError
from .experiment import Experiment, Measure, Place
from .graph.store import Store
from .study.intervals import t_quantile

LEVEL = 0.95
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


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
    """

    value: float
    low: float | None
    high: float | None
    n: int
    per_seed: tuple[float, ...]
    rate: bool = False
    spans: tuple[tuple[float, float], ...] = ()

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
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
            half = _student_half(self.per_seed, level)
            below, above = math.hypot(half, below), math.hypot(half, above)
        low, high = self.value - below, self.value + above
        return (max(0.0, low), min(1.0, high)) if self.rate else (low, high)

    def _reach_of_images(self, level: float) -> tuple[float, float]:
        """How far the interval for the choice of images reaches below and above the value."""
        if self.rate:
            low, high = wilson(self.value, self.n, level)
            return self.value - low, high - self.value
        spans = self.spans if len(self.per_seed) > 1 else ((self.low, self.high),)
        if not spans:
            return 0.0, 0.0
        stretch = _normal_quantile(level) / _Z
        low, high = (fmean(ends) for ends in zip(*spans, strict=True))
        return stretch * (self.value - low), stretch * (high - self.value)


def share(value: float, n: int) -> Estimate:
    """A rate of one seed, from the fraction itself, such as one that was printed rounded."""
    return Estimate(value, *wilson(value, n), n, (value,), rate=True)


def wilson(value: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's interval (1927) of the fraction ``value`` of n images.

    The count ``value * n`` need not be whole: of means over seeds it is not.

    Raises:
        UserError: n below 1, or a value that is no fraction.
    """
    if n < 1 or not 0 <= value <= 1:
        raise UserError(f"value is {value!r} of n={n!r}; expected 0 <= value <= 1 and n >= 1")
    z = _normal_quantile(level)
    square = z * z / n
    centre = (value + square / 2) / (1 + square)
    half = z * math.sqrt((value * (1 - value) + square / 4) / n) / (1 + square)
    # The interval holds the value; at 0 and 1 rounding would leave it outside by 1e-17.
    return max(0.0, min(value, centre - half)), min(1.0, max(value, centre + half))


def estimate(measures: Sequence[Measure], store: Store) -> Estimate | None:
    """The number of a cell; None where a result is not there, or counts no image.

    Raises:
        UserError: a damaged result.
    """
    found = []
    for measure in measures:
        if not measure.result.is_done(store):
            return None
        one = _read(measure, store)
        if one is None:
            return None
        found.append(one)
    return combined(found)


def combined(found: Sequence[Estimate]) -> Estimate | None:
    """One estimate from those of single seeds."""
    if len(found) <= 1:
        return found[0] if found else None
    values = tuple(each.value for each in found)
    mean, few = fmean(values), min(each.n for each in found)
    rate = all(each.rate for each in found)
    spans = () if rate else tuple((each.low, each.high) for each in found)
    if any(None in span for span in spans):
        spans = ()
    # Not None: from several seeds there always is an interval, which comes from their values.
    whole = Estimate(mean, mean, mean, few, values, rate, spans)
    low, high = whole.interval()
    return replace(whole, low=max(0.0, low), high=high)  # no score is below 0


def read_values(experiment: Experiment, store: Store) -> dict[Place, Estimate]:
    """The table's numbers that are there. Raises UserError as :func:`estimate`."""
    return read_places(experiment.cells, store)


def read_places(places: Mapping[Place, Sequence[Measure]], store: Store) -> dict[Place, Estimate]:
    """The numbers that are there. Raises UserError as :func:`estimate`."""
    found = {place: estimate(several, store) for place, several in places.items()}
    return {place: value for place, value in found.items() if value is not None}


def _student_half(values: Sequence[float], level: float) -> float:
    """Half the width of Student's interval of the mean of at least two values."""
    return _student_quantile(level, len(values) - 1) * stdev(values) / math.sqrt(len(values))


@cache
def _normal_quantile(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


@cache
def _student_quantile(level: float, freedom: int) -> float:
    return t_quantile((1 + level) / 2, freedom)


def _read(measure: Measure, store: Store) -> Estimate | None:
    cells = measure.result.read(store)
    try:
        results: Mapping[str, Any] = cells[measure.index]
        value = results[measure.quantity]
        if isinstance(value, Mapping):
            return _rate(value, results.get("per_draw"))
        if value is None:
            return None
        return _score(float(value), results, measure.quantity)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        path = measure.result.path(store)
        raise UserError(f"{path}: no result of a reproduction ({error!r}); remove it") from None


def _rate(rate: Mapping[str, Any], draws: Sequence[Mapping[str, Any]] | None) -> Estimate | None:
    if rate["rate"] is None:
        return None
    # Version 0.1.0 counted every draw of an image as an image at first; see mean_over_draws.
    n = int(draws[0]["n"]) if draws else int(rate["n"])
    return share(float(rate["rate"]), n)


def _score(value: float, results: Mapping[str, Any], quantity: str) -> Estimate:
    interval = results.get(f"{quantity}_interval")
    low, high = (None, None) if interval is None else map(float, interval)
    if not math.isfinite(value) or (interval is not None and not low <= value <= high):
        raise ValueError(f"{quantity} is {value!r} with the interval {interval!r}")
    return Estimate(value, low, high, int(results.get("n", 0)), (value,))
