"""The search for the constant of Carlini and Wagner's loss: ten times more, then halving."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

MOST = 1e10
"""The largest constant; beside it the distance no longer counts."""
REPEATS_FROM = 10
"""Searches of this many steps end at the smallest constant that succeeded."""


@dataclass
class ConstantSearch:
    """The constants that one image's search tries, one after the other (on the host).

    Ten times the one before until one succeeds, then the middle between the largest that failed and
    the smallest that succeeded (Carlini and Wagner, 2017, section VI). The last of ten or more is
    the smallest that succeeded once more, as in the authors' code.

    Attributes:
        value: the constant to try now.
        steps: how many may be tried, this one included.
        digits: rounds a constant as the optimisation sees it. Given where an optimisation depends
            on nothing but its constant: one that was tried is then not tried again, since its
            outcome is known; it still uses up its step. None where trying again can change it.
        tolerance: the search is over when the smallest constant that succeeded is at most this
            share above the largest that failed.
    """

    value: float
    steps: int
    digits: type | None = None
    tolerance: float = 0.0
    lower: float = 0.0
    upper: float = math.inf
    _tried: int = field(default=0, init=False)

    def advance(self, found: bool) -> bool:
        """Take the outcome of ``value`` and go to the next; False if there is none to try."""
        while True:
            if found:
                self.upper = self.value
            else:
                self.lower = self.value
            self._tried += 1
            if self._tried == self.steps or self._close():
                return False
            self.value = self._next()
            outcome = self._known()
            if outcome is None:
                return True
            found = outcome

    def _close(self) -> bool:
        return self.tolerance > 0 and self.upper <= self.lower * (1 + self.tolerance)

    def _next(self) -> float:
        if self._tried == self.steps - 1 and self.steps >= REPEATS_FROM:
            return min(self.upper, MOST)
        if math.isinf(self.upper):
            return min(10 * self.value, MOST)
        return (self.lower + self.upper) / 2

    def _known(self) -> bool | None:
        """Whether ``value`` succeeds, if it was tried before."""
        if self.digits is None:
            return None
        value = self.digits(self.value)
        if value == self.digits(self.upper):
            return True
        return False if value == self.digits(self.lower) else None
