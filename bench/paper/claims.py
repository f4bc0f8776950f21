"""The paper's claims about its tables and figures, as comparisons of places.

The claims of a table are what its function here returns, by :data:`_CLAIMS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from itertools import pairwise

from .judge import ABOVE, Claim, Comparison, Elsewhere, Interval, Side
from .published import Published, published
from .setup import ARCHITECTURES

POINTS = 0.05
"""What still counts as alike, as no gain or as no loss: five points. The paper names no margin."""
MOST = 0.10
"""What a network may lose that keeps most of its accuracy on clean images; the paper's own lose up
to 4.9 points (Table 3). Also what accuracy under noise may lose, and not fall sharply."""
FACTOR = 1.25
"""What is no gain of scores, whose differences are ratios."""
MARGIN, MOST_MARGIN = f"{100 * POINTS:g} points", f"{100 * MOST:g} points"

NO_GAIN: Interval = (-math.inf, POINTS)
NO_LOSS: Interval = (-POINTS, math.inf)
KEEPS_MOST: Interval = (-MOST, math.inf)
ALIKE: Interval = (-POINTS, POINTS)

Pairs = Iterable[tuple[str, str]]


@cache
def claims_of(name: str) -> tuple[Claim, ...]:
    """The claims about a table or figure, named as in "table4" or "figure5".

    Empty where the paper makes none that numbers decide: figures of images, and of curves.
    """
    return tuple(_CLAIMS[name]()) if name in _CLAIMS else ()


def down(pairs: Pairs, columns: Iterable[str], wanted: Interval = ABOVE) -> tuple[Comparison, ...]:
    """In each column, each pair's first row against its second."""
    pairs = list(pairs)
    return tuple(Comparison((a, c), (b, c), wanted) for c in columns for a, b in pairs)


def across(rows: Iterable[str], pairs: Pairs, wanted: Interval = ABOVE) -> tuple[Comparison, ...]:
    """In each row, each pair's first column against its second."""
    pairs = list(pairs)
    return tuple(Comparison((r, a), (r, b), wanted) for r in rows for a, b in pairs)


def rising(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs that say that each is above the one before it."""
    return [(b, a) for a, b in pairwise(names)]


def over(name: str, others: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs that say that one is above each of the others."""
    return [(name, other) for other in others]


# Less texture, more shape: Tables 1 and 13.


def _texture(section: str, pairs: Mapping[str, str]) -> Iterable[Claim]:
    """Args: pairs: {standard row: its defective one}."""
    yield Claim(
        "Without shapes, defective networks are worse than standard ones: on images of shuffled "
        "patches, of each size.",
        section,
        down(pairs.items(), ("2x2", "4x4", "8x8")),
    )
    yield Claim(
        "Without textures, defective networks are better: on stylised images.",
        section,
        down([(d, s) for s, d in pairs.items()], ["IN->SIN"]),
    )


# Beside other defences: Tables 2, 3 and 7, and the boundary attack of Table 6.

PLAIN, DEFECTIVE = "Standard CNN", "Defective CNN"
DROPOUT = ("Standard CNN + SD", "Standard CNN + DB")


def _defences(
    number: int,
    attacks: Sequence[str],
    accuracy: str,
    trained: Sequence[str],
    ours: Sequence[str],
    variants: str = "and its variants",
    others: Sequence[str] = (),
    stated: bool = True,
    networks: Mapping[str, str] | None = None,
) -> Iterable[Claim]:
    """Of Tables 2, 3 and 7.

    Args:
        attacks, accuracy: columns. trained: rows of adversarial training and its variants, as the
            paper quotes them; others: of further defences. ours: which of them we train ourselves.
        stated: whether the paper's text draws conclusions from the table.
        networks: {defective row: what claims call it}.
    """
    section = published(number).section
    yield Claim(
        "Spatial dropout and DropBlock do not make a standard network more robust "
        f"(gain less than {MARGIN}).",
        section,
        down([(each, PLAIN) for each in DROPOUT], attacks, NO_GAIN),
        stated,
    )
    for row, name in (networks or {DEFECTIVE: "A defective network"}).items():
        quoted = partial(_quoted, number, row, stated)
        yield Claim(
            f"{name} defends better than a standard one.",
            section,
            down([(row, PLAIN)], attacks),
            stated,
        )
        yield Claim(
            f"{name} defends better than one with spatial dropout or DropBlock.",
            section,
            down(over(row, DROPOUT), attacks),
            stated,
        )
        yield Claim(
            f"{name} keeps most of the accuracy on clean images (loss less than {MOST_MARGIN}).",
            section,
            down([(row, PLAIN)], [accuracy], KEEPS_MOST),
            stated,
        )
        yield quoted(
            f"{name} defends better than adversarial training {variants}, as quoted.",
            *(trained, attacks),
        )
        yield quoted(
            f"{name} is more accurate on clean images than adversarially trained ones, as quoted.",
            *(trained, [accuracy]),
        )
        yield Claim(
            f"{name} defends better than our own runs of {_and(ours)}.",
            section,
            down(over(row, ours), attacks),
            stated=False,
            ours=True,
        )
        if others:
            yield quoted(
                f"{name} defends better than most methods that clean the input: than "
                f"{_and(others)} (EGC-FL, the paper says, is competitive).",
                *(others, attacks),
            )


def _quoted(
    number: int, row: str, stated: bool, text: str, others: Sequence[str], columns: Sequence[str]
) -> Claim:
    """That a row is above others which the paper's table quotes, wherever it does."""
    table = published(number)
    places = [(other, column) for column in columns for other in others]
    known = {place: table.value(*place) for place in places if place[0] in table.quoted}
    known = {place: value for place, value in known.items() if value is not None}
    comparisons = tuple(Comparison((row, place[1]), place) for place in known)
    return Claim(text, table.section, comparisons, stated, quoted=known)


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _boundary() -> Iterable[Claim]:
    score = ["S(M)"]
    others = (*DROPOUT, "Standard CNN + LS")
    yield Claim(
        "The boundary attack ends farther from the image on a defective network than on a standard "
        "one.",
        "A.1",
        down([(DEFECTIVE, PLAIN)], score),
        score=True,
    )
    yield Claim(
        "The boundary attack ends farther on a defective network than on those with spatial "
        "dropout, DropBlock or label smoothing.",
        "A.1",
        down(over(DEFECTIVE, others), score),
        stated=False,
        score=True,
    )
    yield Claim(
        "Spatial dropout, DropBlock and label smoothing do not help against the boundary attack "
        f"(score less than {FACTOR:g} times the standard network's).",
        "A.1",
        down([(each, PLAIN) for each in others], score, (-math.inf, math.log(FACTOR))),
        score=True,
    )


# Transfer between architectures: Tables 4, 8 and 9, and 11, which is a part of Table 4. Table 10
# stands beside that.


def _matrix(section: str, smaller_is_stated: bool) -> Iterable[Claim]:
    names = tuple(ARCHITECTURES.values())
    both = [(f"{name} {keep}-Bottom", name) for keep in (0.5, 0.3) for name in names]
    yield Claim(
        "Defective layers in the bottom make every architecture more robust, against every source.",
        section,
        down(both, names),
    )
    yield Claim(
        "A keep probability of 0.3 defends better than 0.5, in every architecture and against "
        "every source.",
        section,
        down([(f"{name} 0.3-Bottom", f"{name} 0.5-Bottom") for name in names], names),
        stated=smaller_is_stated,
    )
    yield Claim(
        "Defective networks keep most of the accuracy on clean images "
        f"(loss less than {MOST_MARGIN}).",
        section,
        down(both, ["Test Accuracy"], KEEPS_MOST),
        stated=False,
    )


_GRAY = ("0.5-Bottom", "0.3-Bottom")


def _gray_defective() -> Iterable[Claim]:
    yield Claim(
        "Against a defective source of the same keep probability it makes little difference "
        f"whether the target has the source's masks or others (less than {MARGIN}).",
        "A.6",
        tuple(Comparison((f"{name}DIF", name), (name, name), ALIKE) for name in _GRAY),
    )
    yield _stronger("table10")


def _gray_standard() -> Iterable[Claim]:
    one, other = "ResNet-18", "DenseNet-121"
    yield Claim(
        "A standard network is weaker against a source of its own architecture than against "
        "another one.",
        "A.6",
        (*across([one], [(other, one)]), *across([other], [(one, other)])),
        stated=False,
    )
    yield _stronger("table11")


def _stronger(table: str) -> Claim:
    """A claim of Tables 10 and 11, as one of ``table``: it needs the other one's values too."""

    def side(name: str, row: str, column: str) -> Side:
        return (row, column) if name == table else Elsewhere(name, row, column)

    standard = side("table11", "ResNet-18", "ResNet-18")
    return Claim(
        "Against a source of its own kind, a defective network (Table 10) defends better than a "
        "standard one (Table 11).",
        "A.6",
        tuple(
            Comparison(side("table10", f"{name}{masks}", name), standard)
            for name in _GRAY
            for masks in ("", "DIF")
        ),
    )


# Variants of ResNet-18: Tables 5 and 14 to 18, and Figure 5, whose columns are Acc and PGD16 of
# Table 14.

ACCURACIES = ("Acc", "Test Accuracy")
DEFENCE_RATE, TEST_ACCURACY = "Defence Rate", "Test Accuracy"
"""Columns of Figure 5."""
_SMALLER_DEFENDS = (
    "The smaller the keep probability of the bottom, the better the defence against PGD."
)
_SMALLER_COSTS = (
    "The smaller the keep probability of the bottom, the lower the accuracy on clean images."
)


def keep(row: str) -> float:
    """The keep probability of a row such as "0.5-BottomDC"."""
    return float(row.partition("-")[0])


def _bottom(table: Published) -> list[str]:
    """p-Bottom of falling p; Table 5 has them not in order."""
    return sorted([r for r in table.rows if r.endswith("-Bottom")], key=keep, reverse=True)


def _figure5() -> Iterable[Claim]:
    bottom = _bottom(published(14))
    yield Claim(_SMALLER_DEFENDS, "A.9", down(rising(bottom), [DEFENCE_RATE]))
    yield Claim(_SMALLER_COSTS, "A.9", down(rising(bottom[::-1]), [TEST_ACCURACY]))


def _variants(number: int) -> Iterable[Claim]:
    table = published(number)
    section, standard, bottom = table.section, table.rows[0], _bottom(table)
    accuracy = [column for column in table.columns if column in ACCURACIES]
    attacks = [column for column in table.columns if column not in ACCURACIES]
    pgd = [column for column in attacks if column.startswith("PGD")]

    def rows(ending: str) -> list[str]:
        """Variants of one network: rows like "0.5-BottomDC"."""
        return [row for row in table.rows if row.endswith(ending) and "," not in row]

    def above(ending: str) -> list[tuple[str, str]]:
        """Pairs that say that networks are above their variants."""
        return [(row.removesuffix(ending), row) for row in rows(ending)]

    def below(ending: str) -> list[tuple[str, str]]:
        return [(row, plain) for plain, row in above(ending)]

    yield Claim(
        "Defective bottom layers make the network more robust, at every keep probability.",
        section,
        down([(row, standard) for row in bottom], attacks),
    )
    smaller = rising((standard, *bottom))
    yield Claim(_SMALLER_DEFENDS, section, down(smaller, pgd))
    yield Claim(
        "The smaller the keep probability of the bottom, the better the defence against the other "
        "attacks, too.",
        section,
        down(smaller, [column for column in attacks if column not in pgd]),
    )
    yield Claim(_SMALLER_COSTS, section, down(rising((*bottom[::-1], standard)), accuracy))
    tops = rows("-Top")
    yield Claim(
        "Defective layers in the bottom defend better than in the top, at equal keep "
        "probabilities.",
        section,
        down([(row.replace("Top", "Bottom"), row) for row in tops], attacks),
    )
    yield Claim(
        f"Defective layers in the top do not help (gain less than {MARGIN}).",
        section,
        down([(row, standard) for row in tops], attacks, NO_GAIN),
    )
    mixed = [row for row in table.rows if "," in row]
    yield Claim(
        "Defective layers in the top do not help a network whose bottom is defective, either "
        f"(gain less than {MARGIN}).",
        section,
        down([(row, row.partition(",")[0]) for row in mixed], attacks, NO_GAIN),
        stated=False,
    )
    yield Claim(
        "Defective neurons defend better than defective channels, at equal keep probabilities.",
        section,
        down(above("DC"), attacks),
    )
    yield Claim(
        "Defective channels cost less accuracy than defective neurons.",
        section,
        down(below("DC"), accuracy),
    )
    yield Claim(
        "One mask for all channels of a layer has a lower accuracy than one for each.",
        section,
        down(above("SM"), accuracy),
    )
    yield Claim(
        "At a keep probability of 0.1, one mask for all channels defends worse than many.",
        section,
        down([(many, one) for many, one in above("SM") if keep(one) == 0.1], attacks),
        stated=False,
    )
    # Names have the scale at the end; PGD2,16 is another step size.
    scales = rising(("PGD32", "PGD16") if "PGD32" in pgd else ())
    scales += rising([column for column in attacks[::-1] if column.startswith("FGSM")])
    yield Claim(
        "The larger the scale of a perturbation, the stronger the attack.",
        "A.10",
        across(table.rows, scales),
    )
    if number == 5:  # the others have more rows and columns
        return
    yield Claim(
        "At equal scale, PGD of the smaller step (1 instead of 2) is the stronger attack.",
        section,
        across(table.rows, [("PGD2,16", "PGD16")]),
    )
    yield Claim(
        "Twice as many channels in the defective blocks raise the accuracy.",
        section,
        down(below("x2"), accuracy),
        stated=False,
    )
    yield Claim(
        "Twice as many channels in the defective blocks lower the defence.",
        section,
        down(above("x2"), attacks),
        stated=False,
    )
    defective = [pair for pair in below("EN") if pair[1] != standard]
    yield Claim(
        "Five defective networks together are more accurate than one.",
        "A.9",
        down(defective, accuracy),
    )
    yield Claim(
        "Five defective networks together are more robust than one.",
        "A.9",
        down(defective, attacks),
    )
    yield Claim(
        f"Five standard networks together are not more robust (gain less than {MARGIN}).",
        "A.9",
        down([pair for pair in below("EN") if pair[1] == standard], attacks, NO_GAIN),
    )


# White-box attacks: Table 12 and what section A.7 tells beside it.


def _white_box() -> Iterable[Claim]:
    standard, half, third = rows = ("ResNet-18", "0.5-Bottom", "0.3-Bottom")
    attacks = ("FGSM1", "FGSM2", "FGSM4", "PGD2", "PGD4", "PGD8")
    trained = " + Adv. Training"
    yield Claim(
        "Attacked itself, a defective network is not weaker than a standard one "
        f"(loss less than {MARGIN}).",
        "A.7",
        down([(half, standard), (third, standard)], attacks, NO_LOSS),
        stated=False,
    )
    yield Claim(
        "Attacked itself, a network defends better the smaller its keep probability.",
        "A.7",
        down(rising(rows), attacks),
        stated=False,
    )
    yield Claim(
        "No sign of obfuscated gradients: on the network itself many steps are stronger than one "
        "of the same size, and larger scales stronger than smaller ones.",
        "A.7",
        across(rows, [("FGSM2", "PGD2"), ("FGSM4", "PGD4"), *pairwise(("PGD2", "PGD4", "PGD8"))]),
    )
    yield Claim(
        "Adversarial training makes a defective network more robust than a standard one.",
        "A.7",
        down([(half + trained, standard + trained)], ["PGD (2,7,8)"]),
    )


# Gaussian noise: Figure 4. Its columns are 2 sigma, in levels of 255.


def _noise() -> Iterable[Claim]:
    standard, fewest = "ResNet-18", "0.1-Bottom"
    within = f"(less than {MOST_MARGIN} below that at sigma = 1)"
    yield Claim(
        f"A standard network is robust against Gaussian noise up to sigma = 8 {within}.",
        "A.2",
        across([standard], [("16", "2")], KEEPS_MOST),
    )
    yield Claim(
        f"From there its accuracy drops sharply (from sigma = 8 to 16 by more than {MOST_MARGIN}).",
        "A.2",
        across([standard], [("16", "32")], (MOST, math.inf)),
    )
    # All images are right without noise, so that losing less is the same as being above.
    defective = ("0.5-Bottom", "0.3-Bottom", fewest)
    yield Claim(
        "From sigma = 12 on, defective networks are more accurate than the standard one.",
        "A.2",
        down([(row, standard) for row in defective], ("24", "32", "40", "48", "56", "64")),
    )
    yield Claim(
        f"{fewest} keeps a high accuracy up to sigma = 16 {within}.",
        "A.2",
        across([fewest], [("32", "2")], KEEPS_MOST),
    )


_ATTACKS = ("FGSM", "PGD")
_THERMOMETERS = ("Thermometer(16)", "Thermometer(32)")
_CLAIMS: dict[str, Callable[[], Iterable[Claim]]] = {
    "table1": partial(_texture, "3.2", {PLAIN: DEFECTIVE}),
    "table2": partial(
        _defences,
        2,
        _ATTACKS,
        "Clean Acc",
        trained=("Adv. Training", "TLA"),
        ours=("Adv. Training",),
        others=("BPFC", "Adv. Network"),
        # The table's text and its numbers are of different networks; both are claimed for.
        networks={
            DEFECTIVE: "A defective network (0.1-Bottom)",
            "Defective CNN {1,2}": "A defective network (0.1, with a whole stem)",
        },
    ),
    "table3": partial(
        _defences,
        3,
        ("PGD",),
        "Clean Acc",
        trained=("Adv. Training", "ALP", "TLA"),
        ours=("Adv. Training", "ALP"),
    ),
    "table4": partial(_matrix, "4.1.2", True),
    "table6": _boundary,
    "table7": partial(
        _defences,
        7,
        _ATTACKS,
        "Test Accuracy",
        trained=("Adversarial Training", *_THERMOMETERS),
        ours=("Adversarial Training", *_THERMOMETERS),
        variants="and thermometer encoding",
        stated=False,
    ),
    "table8": partial(_matrix, "A.4", False),
    "table9": partial(_matrix, "A.5", False),
    "table10": _gray_defective,
    "table11": _gray_standard,
    "table12": _white_box,
    "table13": partial(_texture, "A.8", {n: f"{n} 0.1-Bottom" for n in ARCHITECTURES.values()}),
    **{f"table{number}": partial(_variants, number) for number in (5, 14, 15, 16, 17, 18)},
    "figure4": _noise,
    "figure5": _figure5,
}
