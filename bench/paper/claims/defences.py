"""Beside other defences: Tables 2, 3 and 7, and the boundary attack of Table 6."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .building import (
    FACTOR,
    KEEPS_MOST,
    MOST,
    NO_GAIN,
    NO_GAIN_OF_SCORE,
    POINTS,
    down,
    over,
    quoted,
)
from .claim import Claim, Comparison

STANDARD, DEFECTIVE = "Standard CNN", "Defective CNN"
DROPOUT = ("Standard CNN + SD", "Standard CNN + DB")
MARGIN = f"{100 * POINTS:g} points"

_NETWORK = {DEFECTIVE: "A defective network"}
_TWO = {
    DEFECTIVE: "A defective network (0.1-Bottom)",
    "Defective CNN {1,2}": "A defective network (0.1, with a whole stem)",
}
"""Of Table 2: its text and its numbers are of different networks, and both are claimed for."""


@dataclass(frozen=True)
class _Table:
    """Tables 2, 3 and 7: what claims about them have in common.

    Attributes:
        number: of the table. section: of the paper. attacks, accuracy: columns. stated: whether the
            paper's text draws conclusions from it. networks: {row: what claims call it}.
        trained: rows of adversarial training and its variants, as the paper quotes them; others:
            of further defences. ours: which of them we train ourselves.
    """

    number: int
    section: str
    attacks: Sequence[str]
    accuracy: str
    trained: Sequence[str]
    ours: Sequence[str]
    variants: str = "and its variants"
    others: Sequence[str] = ()
    stated: bool = True
    networks: Mapping[str, str] = field(default_factory=_NETWORK.copy)

    def claims(self) -> tuple[Claim, ...]:
        alike = self._claim(
            "Spatial dropout and DropBlock do not make a standard network more robust "
            f"(gain less than {MARGIN}).",
            down([(each, STANDARD) for each in DROPOUT], self.attacks, NO_GAIN),
        )
        each = [claim for row, name in self.networks.items() for claim in self._of(row, name)]
        return (alike, *each)

    def _of(self, row: str, name: str) -> list[Claim]:
        """Of one defective network."""
        attacks, accuracy = self.attacks, [self.accuracy]
        found = [
            self._claim(
                f"{name} defends better than a standard one.", down([(row, STANDARD)], attacks)
            ),
            self._claim(
                f"{name} defends better than one with spatial dropout or DropBlock.",
                down(over(row, DROPOUT), attacks),
            ),
            self._claim(
                f"{name} keeps most of the accuracy on clean images "
                f"(loss less than {100 * MOST:g} points).",
                down([(row, STANDARD)], accuracy, KEEPS_MOST),
            ),
            self._quoted(
                f"{name} defends better than adversarial training {self.variants}, as quoted.",
                *(row, self.trained, attacks),
            ),
            self._quoted(
                f"{name} is more accurate on clean images than adversarially trained ones, as "
                "quoted.",
                *(row, self.trained, accuracy),
            ),
            self._claim(
                f"{name} defends better than our own runs of {_listed(self.ours)}.",
                down(over(row, self.ours), attacks),
                stated=False,
                ours=True,
            ),
        ]
        if self.others:
            text = (
                f"{name} defends better than most methods that clean the input: than "
                f"{' and '.join(self.others)} (EGC-FL, the paper says, is competitive)."
            )
            found.append(self._quoted(text, row, self.others, attacks))
        return found

    def _claim(self, text: str, comparisons: tuple[Comparison, ...], **more) -> Claim:
        return Claim(text, self.section, comparisons, **({"stated": self.stated} | more))

    def _quoted(self, text: str, row: str, others: Sequence[str], columns: Sequence[str]) -> Claim:
        """That a row is above others which the paper quotes, wherever it does."""
        known = quoted(self.number)
        places = [(other, column) for column in columns for other in others]
        places = [place for place in places if place in known]
        comparisons = tuple(Comparison((row, place[1]), place) for place in places)
        return self._claim(text, comparisons, quoted={place: known[place] for place in places})


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


TABLE2 = _Table(
    number=2,
    section="4.1.2",
    attacks=("FGSM", "PGD"),
    accuracy="Clean Acc",
    trained=("Adv. Training", "TLA"),
    ours=("Adv. Training",),
    others=("BPFC", "Adv. Network"),
    networks=_TWO,
)
TABLE3 = _Table(
    number=3,
    section="4.1.2",
    attacks=("PGD",),
    accuracy="Clean Acc",
    trained=("Adv. Training", "ALP", "TLA"),
    ours=("Adv. Training", "ALP"),
)
_THERMOMETERS = ("Thermometer(16)", "Thermometer(32)")
TABLE7 = _Table(
    number=7,
    section="A.3",
    attacks=("FGSM", "PGD"),
    accuracy="Test Accuracy",
    trained=("Adversarial Training", *_THERMOMETERS),
    ours=("Adversarial Training", *_THERMOMETERS),
    variants="and thermometer encoding",
    stated=False,
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
        stated=False,
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

CLAIMS = {
    "table2": TABLE2.claims(),
    "table3": TABLE3.claims(),
    "table6": TABLE6,
    "table7": TABLE7.claims(),
}
