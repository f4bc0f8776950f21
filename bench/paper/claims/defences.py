"""Beside other defences: Tables 2, 3 and 7, and the boundary attack of Table 6."""

from __future__ import annotations

from collections.abc import Sequence

from .building import (
    FACTOR,
    NO_GAIN,
    NO_GAIN_OF_SCORE,
    NO_LOSS,
    POINTS,
    down,
    over,
    quoted,
)
from .claim import Claim, Comparison

STANDARD, DEFECTIVE = "Standard CNN", "Defective CNN"
DROPOUT = ("Standard CNN + SD", "Standard CNN + DB")
MARGIN = f"{100 * POINTS:g} points"


def _own(section: str, attacks: Sequence[str], accuracy: str) -> tuple[Claim, ...]:
    """What Tables 2, 3 and 7 have in common: their networks are the paper's own."""
    return (
        Claim(
            "A defective network defends better than a standard one.",
            section,
            down([(DEFECTIVE, STANDARD)], attacks),
        ),
        Claim(
            "A defective network defends better than one with spatial dropout or DropBlock.",
            section,
            down(over(DEFECTIVE, DROPOUT), attacks),
        ),
        Claim(
            "Spatial dropout and DropBlock do not make a standard network more robust "
            f"(gain less than {MARGIN}).",
            section,
            down([(each, STANDARD) for each in DROPOUT], attacks, NO_GAIN),
        ),
        Claim(
            "A defective network keeps most of the accuracy on clean images "
            f"(loss less than {MARGIN}).",
            section,
            down([(DEFECTIVE, STANDARD)], [accuracy], NO_LOSS),
        ),
    )


def _better(text: str, table: int, section: str, rows: Sequence[str], columns: Sequence[str]):
    """That the defective network is above rows which the paper quotes, wherever it does."""
    known = quoted(table)
    places = [(row, column) for column in columns for row in rows if (row, column) in known]
    return Claim(
        text,
        section,
        tuple(Comparison((DEFECTIVE, column), (row, column)) for row, column in places),
        quoted={place: known[place] for place in places},
    )


_ADVERSARIAL = "A defective network defends better than adversarial training and its variants."
_ACCURATE = "A defective network is more accurate on clean images than adversarially trained ones."

TABLE2 = (
    *_own("4.1.2", ("FGSM", "PGD"), "Clean Acc"),
    _better(_ADVERSARIAL, 2, "4.1.2", ("Adv. Training", "TLA"), ("FGSM", "PGD")),
    _better(_ACCURATE, 2, "4.1.2", ("Adv. Training", "TLA"), ("Clean Acc",)),
    _better(
        "A defective network defends better than most methods that clean the input: than BPFC and "
        "Adv. Network (EGC-FL, the paper says, is competitive).",
        2,
        "4.1.2",
        ("BPFC", "Adv. Network"),
        ("FGSM", "PGD"),
    ),
)

TABLE3 = (
    *_own("4.1.2", ("PGD",), "Clean Acc"),
    _better(_ADVERSARIAL, 3, "4.1.2", ("Adv. Training", "ALP", "TLA"), ("PGD",)),
    _better(_ACCURATE, 3, "4.1.2", ("Adv. Training", "ALP", "TLA"), ("Clean Acc",)),
)

_THERMOMETERS = ("Thermometer(16)", "Thermometer(32)")
TABLE7 = (
    *_own("A.3", ("FGSM", "PGD"), "Test Accuracy"),
    _better(
        "A defective network defends better than adversarial training and thermometer encoding.",
        7,
        "A.3",
        ("Adversarial Training", *_THERMOMETERS),
        ("FGSM", "PGD"),
    ),
    _better(_ACCURATE, 7, "A.3", ("Adversarial Training", *_THERMOMETERS), ("Test Accuracy",)),
)

_SCORE = ("S(M)",)
_OTHERS = (*DROPOUT, "Standard CNN + LS")
TABLE6 = (
    Claim(
        "The boundary attack ends farther from the image on a defective network than on a "
        "standard one.",
        "A.1",
        down([(DEFECTIVE, STANDARD)], _SCORE),
        score=True,
    ),
    Claim(
        "The boundary attack ends farther on a defective network than on those with spatial "
        "dropout, DropBlock or label smoothing.",
        "A.1",
        down(over(DEFECTIVE, _OTHERS), _SCORE),
        score=True,
    ),
    Claim(
        "Spatial dropout, DropBlock and label smoothing do not help against the boundary attack "
        f"(score less than {FACTOR:g} times the standard network's).",
        "A.1",
        down([(each, STANDARD) for each in _OTHERS], _SCORE, NO_GAIN_OF_SCORE),
        score=True,
    ),
)

CLAIMS = {"table2": TABLE2, "table3": TABLE3, "table6": TABLE6, "table7": TABLE7}
