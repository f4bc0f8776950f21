"""Transfer between architectures: Tables 4, 8 and 9, and 11, which is a part of Table 4."""

from __future__ import annotations

from ..setup import ARCHITECTURES
from .building import KEEPS_MOST, MOST, across, down
from .claim import Claim
from .gray_box import stronger

NAMES = tuple(ARCHITECTURES.values())
ACCURACY = ("Test Accuracy",)
_HALF = [(f"{name} 0.5-Bottom", name) for name in NAMES]
_THIRD = [(f"{name} 0.3-Bottom", name) for name in NAMES]
_SMALLER = [(f"{name} 0.3-Bottom", f"{name} 0.5-Bottom") for name in NAMES]


def _claims(section: str, sources: tuple[str, ...], smaller_is_stated: bool) -> tuple[Claim, ...]:
    return (
        Claim(
            "Defective layers in the bottom make every architecture more robust, against every "
            "source.",
            section,
            down([*_HALF, *_THIRD], sources),
        ),
        Claim(
            "A keep probability of 0.3 defends better than 0.5, in every architecture and against "
            "every source.",
            section,
            down(_SMALLER, sources),
            stated=smaller_is_stated,
        ),
        Claim(
            "Defective networks keep most of the accuracy on clean images "
            f"(loss less than {100 * MOST:g} points).",
            section,
            down([*_HALF, *_THIRD], ACCURACY, KEEPS_MOST),
            stated=False,
        ),
    )


_PAIR = ("ResNet-18", "DenseNet-121")
TABLE11 = (
    Claim(
        "A standard network is weaker against a source of its own architecture than against "
        "another one.",
        "A.6",
        (
            *across(_PAIR[:1], [(_PAIR[1], _PAIR[0])]),
            *across(_PAIR[1:], [_PAIR]),
        ),
        stated=False,
    ),
    stronger("table11"),
)

CLAIMS = {
    "table4": _claims("4.1.2", NAMES, True),
    "table8": _claims("A.4", NAMES, False),
    "table9": _claims("A.5", NAMES, False),
    "table11": TABLE11,
}
