"""The paper's claims, each judged from measured numbers.

:mod:`.claim` holds what a claim is and how it is judged, :mod:`.statistics` when a comparison
holds, :mod:`.own_numbers` what the paper printed, to judge its claims by it; the other files hold
the claims of a family of tables each. Another family is a file here with ``CLAIMS``, {name of a
table or figure: claims}, and its name in ``_FAMILIES``.
"""

from __future__ import annotations

from . import ablations, defences, gray_box, matrices, noise, texture, white_box
from .claim import Claim, Verdict, judge

__all__ = ["RULES", "Claim", "Verdict", "claims_of", "judge"]

_FAMILIES = (texture, defences, matrices, ablations, gray_box, white_box, noise)
_CLAIMS = {name: claims for family in _FAMILIES for name, claims in family.CLAIMS.items()}

RULES = (
    "A claim is a number of comparisons, each a difference of two numbers with an interval "
    "(Newcombe's, from the intervals of both). It is supported if all of them hold at 95 %.",
    "It is not supported if one of them is reversed at a level that is adjusted for their number "
    "(Bonferroni), so that among many none is by chance. All else is not decidable.",
    "Of one seed, intervals are for the choice of images: a verdict is about these very networks, "
    "and others, trained anew, may differ by more.",
    "Numbers count as independent, though networks see the same images: intervals are rather too "
    "wide. Numbers that the paper quotes from others count as exact, and go before our own runs of "
    "the same defence, which have claims of their own.",
)
"""For people: how a verdict is reached."""


def claims_of(name: str) -> tuple[Claim, ...]:
    """The claims about a table or figure, named as in "table4" or "figure5".

    Empty where the paper makes none that numbers decide: figures of images, and of curves.
    """
    return _CLAIMS.get(name, ())
