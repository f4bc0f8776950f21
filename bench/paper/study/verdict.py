"""What a study says about the paper's claim."""

from __future__ import annotations

from dataclasses import dataclass

from .intervals import Interval, sign_test

CLAIM = "adversarial examples of defective networks look more like their predicted class"
SUPPORTED, NOT_SUPPORTED, NOT_DECIDABLE = "supported", "not supported", "not decidable"
SIGNIFICANT = 0.05
FEWEST = 6
"""People from which on the sign test can reach that at all: 2 / 2^6 = 0.03."""


@dataclass(frozen=True)
class Published:
    """What the paper reports (appendix B): people, how many chose more of the defective source's
    images, and how many more of ``per_person`` on average."""

    people: int = 13
    prefer_a: int = 13
    difference: float = 14.0
    per_person: int = 50

    def difference_of(self, pairs: int) -> float:
        """The same preference, in so many pairs."""
        return self.difference / self.per_person * pairs


PAPER = Published()


def judge(difference: Interval, more: int, less: int, published: float) -> tuple[str, str]:
    """(verdict on :data:`CLAIM`, why).

    Supported, if the interval of the mean difference lies above zero and the sign test agrees. Not
    supported, if the interval lies below zero; or if it holds zero and leaves out a difference as
    large as the paper's. All else needs more people.

    Args:
        difference: a - b over people. more, less: how many people chose a, b more often.
        published: the paper's difference, of as many pairs.
    """
    p = sign_test(more, less)
    signs = 0 if p >= SIGNIFICANT else 1 if more > less else -1
    if difference.n < FEWEST:
        return NOT_DECIDABLE, (
            f"fewer than {FEWEST} people: even if all agreed, it might be chance; ask more"
        )
    if difference.sign > 0 and signs > 0:
        return SUPPORTED, "the interval lies above zero, and the sign test agrees"
    if difference.sign < 0 and signs <= 0:
        return NOT_SUPPORTED, "the interval lies below zero: people choose the other group"
    if difference.sign == 0 and signs <= 0 and difference.high < published:
        return NOT_SUPPORTED, (
            f"the interval holds zero, but not the {published:.3g} that the paper found"
        )
    if difference.sign == 0 and signs == 0:
        return NOT_DECIDABLE, "the interval holds zero and is wide; ask more people"
    return NOT_DECIDABLE, "the interval and the sign test do not agree; ask more people"
