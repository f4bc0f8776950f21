"""Gaussian noise: Figure 4. Its columns are 2 sigma, in levels of 255."""

from __future__ import annotations

import math

from .building import across, down
from .claim import Claim

STANDARD, DEFECTIVE = "ResNet-18", ("0.5-Bottom", "0.3-Bottom", "0.1-Bottom")
_FEWEST, _SMALL, _MIDDLE = "2", "16", "32"
_SHARP = ("24", "32", "40", "48", "56", "64")
_HIGH = 0.10
_WITHIN = f"(less than {100 * _HIGH:g} points below that at sigma = 1)"

CLAIMS = {
    "figure4": (
        Claim(
            f"A standard network is robust against Gaussian noise up to sigma = 8 {_WITHIN}.",
            "A.2",
            across([STANDARD], [(_SMALL, _FEWEST)], (-_HIGH, math.inf)),
        ),
        Claim(
            "From there its accuracy drops sharply "
            f"(from sigma = 8 to 16 by more than {100 * _HIGH:g} points).",
            "A.2",
            across([STANDARD], [(_SMALL, _MIDDLE)], (_HIGH, math.inf)),
        ),
        # All images are right without noise, so that losing less is the same as being above.
        Claim(
            "From sigma = 12 on, defective networks are more accurate than the standard one.",
            "A.2",
            down([(each, STANDARD) for each in DEFECTIVE], _SHARP),
        ),
        Claim(
            f"0.1-Bottom keeps a high accuracy up to sigma = 16 {_WITHIN}.",
            "A.2",
            across(["0.1-Bottom"], [(_MIDDLE, _FEWEST)], (-_HIGH, math.inf)),
        ),
    )
}
