"""Gaussian noise: Figure 4. Its columns are 2 sigma, in levels of 255."""

from __future__ import annotations

import math

from .building import across, down
from .claim import Claim

STANDARD, DEFECTIVE = "ResNet-18", ("0.5-Bottom", "0.3-Bottom", "0.1-Bottom")
_FEWEST, _MIDDLE = "2", "32"
_SHARP = ("24", "32", "40", "48", "56", "64")
_HIGH = 0.10

CLAIMS = {
    "figure4": (
        Claim(
            "From sigma = 12 on, where the standard network loses its accuracy, defective "
            "networks are more robust against Gaussian noise.",
            "A.2",
            down([(each, STANDARD) for each in DEFECTIVE], _SHARP),
        ),
        Claim(
            "0.1-Bottom keeps a high accuracy up to sigma = 16 "
            f"(less than {100 * _HIGH:g} points below that at sigma = 1).",
            "A.2",
            across(["0.1-Bottom"], [(_MIDDLE, _FEWEST)], (-_HIGH, math.inf)),
        ),
    )
}
