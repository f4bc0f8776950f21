"""The few exact statistics that a small study needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A mean over n people, with the interval of 95 % for the mean over people like them.

    Attributes:
        low, high: None for fewer than two people, who tell nothing of how people differ.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def sign(self) -> int:
        """1 or -1 if the interval lies above or below zero, 0 if it does not or there is none."""
        if self.low is None or self.high is None:
            return 0
        return (self.low > 0) - (self.high < 0)


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Student's interval for the mean of at least one value, each of another person."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Interval(mean, None, None, n)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = t_quantile((1 + level) / 2, n - 1) * math.sqrt(variance / n)
    return Interval(mean, mean - half, mean + half, n)


def sign_test(more: int, less: int) -> float:
    """Two-sided p: how often fair coins split ``more + less`` people as unevenly or more so.

    Exact binomial; whoever chose both equally often is left out beforehand.
    """
    n, extreme = more + less, max(more, less)
    tail = sum(math.comb(n, k) for k in range(extreme, n + 1))
    return min(1.0, 2 * tail / 2**n)


def t_quantile(p: float, degrees: int) -> float:
    """Student's t quantile for 0.5 <= p < 1 and a whole number of degrees of freedom."""
    # t = sqrt(degrees) tan(angle): bisecting the angle needs no upper bound for t.
    low, high, wanted = 0.0, math.pi / 2, 2 * p - 1
    for _ in range(100):
        middle = (low + high) / 2
        if _within(middle, degrees) < wanted:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan(low)


def _within(angle: float, degrees: int) -> float:
    """P(|T| < sqrt(degrees) tan(angle)), a finite sum of positive terms for whole degrees.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total, k = (cosine, 0.0, 2) if odd else (1.0, 0.0, 1)
    for _ in range(degrees // 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
        k += 2
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
