"""The paper's claims about its tables and figures, as comparisons of places.

The claims of a table are what its function here returns, by :data:`_CLAIMS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise, product

from .estimates import Interval
from .judge import ABOVE, Claim, Comparison, Elsewhere, Side
from .published import DEFENCE_RATE, TEST_ACCURACY, Published, facts, published
from .setup import ARCHITECTURES
from .transfer_tables import SCALES

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
    if name not in _CLAIMS:
        return ()
    section = facts()[name]["section"]
    return tuple(
        replace(each, section=each.section or section, stated=each.stated and name != _UNTOLD)
        for each in _CLAIMS[name]()
    )


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


def _texture(pairs: Mapping[str, str]) -> Iterable[Claim]:
    """Args: pairs: {standard row: its defective one}."""
    yield Claim(
        "Without shapes, defective networks are worse than standard ones: on images of shuffled "
        "patches, of each size.",
        down(pairs.items(), ("2x2", "4x4", "8x8")),
    )
    yield Claim(
        "Without textures, defective networks are better: on stylised images.",
        down([(d, s) for s, d in pairs.items()], ["IN->SIN"]),
    )


# Beside other defences: Tables 2, 3 and 7, and the boundary attack of Table 6.

PLAIN, DEFECTIVE = "Standard CNN", "Defective CNN"
DROPOUT = ("Standard CNN + SD", "Standard CNN + DB")


def _defences(
    number: int,
    trained: Sequence[str],
    ours: Sequence[str],
    variants: str = "and its variants",
    others: Sequence[str] = (),
    networks: Mapping[str, str] | None = None,
) -> Iterable[Claim]:
    """Of Tables 2, 3 and 7.

    Args:
        trained: rows of adversarial training and its variants, as the paper quotes them; others: of
            further defences. ours: which of them we train ourselves.
        networks: {defective row: what claims call it}.
    """
    table = published(number)
    *attacks, accuracy = table.columns

    def quoted(row: str, text: str, others: Sequence[str], columns: Sequence[str]) -> Claim:
        """That a row is above others which the table quotes, wherever it does."""
        known = {
            (other, column): value
            for column, other in product(columns, others)
            if other in table.quoted and (value := table.value(other, column)) is not None
        }
        comparisons = (Comparison((row, column), (other, column)) for other, column in known)
        return Claim(text, tuple(comparisons), quoted=known)

    yield Claim(
        "Spatial dropout and DropBlock do not make a standard network more robust "
        f"(gain less than {MARGIN}).",
        down([(each, PLAIN) for each in DROPOUT], attacks, NO_GAIN),
    )
    for row, name in (networks or {DEFECTIVE: "A defective network"}).items():
        yield Claim(f"{name} defends better than a standard one.", down([(row, PLAIN)], attacks))
        yield Claim(
            f"{name} defends better than one with spatial dropout or DropBlock.",
            down(over(row, DROPOUT), attacks),
        )
        yield Claim(
            f"{name} keeps most of the accuracy on clean images (loss less than {MOST_MARGIN}).",
            down([(row, PLAIN)], [accuracy], KEEPS_MOST),
        )
        better = f"{name} defends better than adversarial training {variants}, as quoted."
        yield quoted(row, better, trained, attacks)
        yield quoted(
            row,
            f"{name} is more accurate on clean images than adversarially trained ones, as quoted.",
            *(trained, [accuracy]),
        )
        yield Claim(
            f"{name} defends better than our own runs of {_and(ours)}.",
            down(over(row, ours), attacks),
            stated=False,
            ours=True,
        )
        if others:
            yield quoted(
                row,
                f"{name} defends better than most methods that clean the input: than "
                f"{_and(others)} (EGC-FL, the paper says, is competitive).",
                *(others, attacks),
            )


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _boundary() -> Iterable[Claim]:
    score = ["S(M)"]
    others = (*DROPOUT, "Standard CNN + LS")
    yield Claim(
        "The boundary attack ends farther from the image on a defective network than on a standard "
        "one.",
        down([(DEFECTIVE, PLAIN)], score),
        score=True,
    )
    yield Claim(
        "The boundary attack ends farther on a defective network than on those with spatial "
        "dropout, DropBlock or label smoothing.",
        down(over(DEFECTIVE, others), score),
        stated=False,
        score=True,
    )
    yield Claim(
        "Spatial dropout, DropBlock and label smoothing do not help against the boundary attack "
        f"(score less than {FACTOR:g} times the standard network's).",
        down([(each, PLAIN) for each in others], score, (-math.inf, math.log(FACTOR))),
        score=True,
    )


# Transfer between architectures: Tables 4, 8 and 9, and 11, which is a part of Table 4. Table 10
# stands beside that.


def _matrix(smaller_is_stated: bool = False) -> Iterable[Claim]:
    names = tuple(ARCHITECTURES.values())
    both = [(f"{name} {keep}-Bottom", name) for keep in (0.5, 0.3) for name in names]
    yield Claim(
        "Defective layers in the bottom make every architecture more robust, against every source.",
        down(both, names),
    )
    yield Claim(
        "A keep probability of 0.3 defends better than 0.5, in every architecture and against "
        "every source.",
        down([(f"{name} 0.3-Bottom", f"{name} 0.5-Bottom") for name in names], names),
        stated=smaller_is_stated,
    )
    yield Claim(
        "Defective networks keep most of the accuracy on clean images "
        f"(loss less than {MOST_MARGIN}).",
        down(both, ["Test Accuracy"], KEEPS_MOST),
        stated=False,
    )


_GRAY = ("0.5-Bottom", "0.3-Bottom")


def _gray_defective() -> Iterable[Claim]:
    yield Claim(
        "Against a defective source of the same keep probability it makes little difference "
        f"whether the target has the source's masks or others (less than {MARGIN}).",
        tuple(Comparison((f"{name}DIF", name), (name, name), ALIKE) for name in _GRAY),
    )
    yield _stronger("table10")


def _gray_standard() -> Iterable[Claim]:
    one, other = "ResNet-18", "DenseNet-121"
    yield Claim(
        "A standard network is weaker against a source of its own architecture than against "
        "another one.",
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
        tuple(
            Comparison(side("table10", f"{name}{masks}", name), standard)
            for name in _GRAY
            for masks in ("", "DIF")
        ),
    )


# Variants of ResNet-18: Tables 5 and 14 to 18, and Figure 5, whose columns are Acc and PGD16 of
# Table 14.

ACCURACIES = ("Acc", "Test Accuracy")
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
    yield Claim(_SMALLER_DEFENDS, down(rising(bottom), [DEFENCE_RATE]))
    yield Claim(_SMALLER_COSTS, down(rising(bottom[::-1]), [TEST_ACCURACY]))


def _variants(number: int) -> Iterable[Claim]:
    table = published(number)
    standard, bottom = table.rows[0], _bottom(table)
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
        down([(row, standard) for row in bottom], attacks),
    )
    smaller = rising((standard, *bottom))
    yield Claim(_SMALLER_DEFENDS, down(smaller, pgd))
    yield Claim(
        "The smaller the keep probability of the bottom, the better the defence against the other "
        "attacks, too.",
        down(smaller, [column for column in attacks if column not in pgd]),
    )
    yield Claim(_SMALLER_COSTS, down(rising((*bottom[::-1], standard)), accuracy))
    tops = rows("-Top")
    yield Claim(
        "Defective layers in the bottom defend better than in the top, at equal keep "
        "probabilities.",
        down([(row.replace("Top", "Bottom"), row) for row in tops], attacks),
    )
    yield Claim(
        f"Defective layers in the top do not help (gain less than {MARGIN}).",
        down([(row, standard) for row in tops], attacks, NO_GAIN),
    )
    mixed = [row for row in table.rows if "," in row]
    yield Claim(
        "Defective layers in the top do not help a network whose bottom is defective, either "
        f"(gain less than {MARGIN}).",
        down([(row, row.partition(",")[0]) for row in mixed], attacks, NO_GAIN),
        stated=False,
    )
    yield Claim(
        "Defective neurons defend better than defective channels, at equal keep probabilities.",
        down(above("DC"), attacks),
    )
    yield Claim(
        "Defective channels cost less accuracy than defective neurons.",
        down(below("DC"), accuracy),
    )
    yield Claim(
        "One mask for all channels of a layer has a lower accuracy than one for each.",
        down(above("SM"), accuracy),
    )
    yield Claim(
        "At a keep probability of 0.1, one mask for all channels defends worse than many.",
        down([(many, one) for many, one in above("SM") if keep(one) == 0.1], attacks),
        stated=False,
    )
    # Names have the scale at the end; PGD2,16 is another step size.
    scales = rising(("PGD32", "PGD16") if "PGD32" in pgd else ())
    scales += rising([column for column in attacks[::-1] if column.startswith("FGSM")])
    yield Claim(
        "The larger the scale of a perturbation, the stronger the attack.",
        across(table.rows, scales),
        section="A.10",
    )
    if number == 5:  # the others have more rows and columns
        return
    yield Claim(
        "At equal scale, PGD of the smaller step (1 instead of 2) is the stronger attack.",
        across(table.rows, [("PGD2,16", "PGD16")]),
    )
    yield Claim(
        "Twice as many channels in the defective blocks raise the accuracy.",
        down(below("x2"), accuracy),
        stated=False,
    )
    yield Claim(
        "Twice as many channels in the defective blocks lower the defence.",
        down(above("x2"), attacks),
        stated=False,
    )
    defective = [pair for pair in below("EN") if pair[1] != standard]
    yield Claim(
        "Five defective networks together are more accurate than one.",
        down(defective, accuracy),
        section="A.9",
    )
    yield Claim(
        "Five defective networks together are more robust than one.",
        down(defective, attacks),
        section="A.9",
    )
    yield Claim(
        f"Five standard networks together are not more robust (gain less than {MARGIN}).",
        down([pair for pair in below("EN") if pair[1] == standard], attacks, NO_GAIN),
        section="A.9",
    )


def _perturbation() -> Iterable[Claim]:
    """Of the figure of ours by perturbation scale."""
    bottom, top = ([f"{p}-{where}" for p in (0.5, 0.3, 0.1)] for where in ("Bottom", "Top"))
    claim = partial(Claim, stated=False, ours=True)
    yield claim(
        "At every scale, defective layers in the bottom defend better than in the top, at equal "
        "keep probabilities.",
        down(zip(bottom, top, strict=True), SCALES),
    )
    yield claim(
        "At every scale, the smaller the keep probability of the bottom, the better the defence "
        "against PGD.",
        down(rising(("ResNet-18", *bottom)), SCALES),
    )
    yield claim(
        f"At no scale do defective layers in the top help (gain less than {MARGIN}).",
        down([(row, "ResNet-18") for row in top], SCALES, NO_GAIN),
    )


# White-box attacks: Table 12 and what section A.7 tells beside it.


def _white_box() -> Iterable[Claim]:
    standard, half, third = rows = ("ResNet-18", "0.5-Bottom", "0.3-Bottom")
    attacks = ("FGSM1", "FGSM2", "FGSM4", "PGD2", "PGD4", "PGD8")
    trained = " + Adv. Training"
    yield Claim(
        "Attacked itself, a defective network is not weaker than a standard one "
        f"(loss less than {MARGIN}).",
        down([(half, standard), (third, standard)], attacks, NO_LOSS),
        stated=False,
    )
    yield Claim(
        "Attacked itself, a network defends better the smaller its keep probability.",
        down(rising(rows), attacks),
        stated=False,
    )
    yield Claim(
        "No sign of obfuscated gradients: on the network itself many steps are stronger than one "
        "of the same size, and larger scales stronger than smaller ones.",
        across(rows, [("FGSM2", "PGD2"), ("FGSM4", "PGD4"), *pairwise(("PGD2", "PGD4", "PGD8"))]),
    )
    yield Claim(
        "Adversarial training makes a defective network more robust than a standard one.",
        down([(half + trained, standard + trained)], ["PGD (2,7,8)"]),
    )


# Gaussian noise: Figure 4. Its columns are 2 sigma, in levels of 255.


def _noise() -> Iterable[Claim]:
    standard, fewest = "ResNet-18", "0.1-Bottom"
    within = f"(less than {MOST_MARGIN} below that at sigma = 1)"
    yield Claim(
        f"A standard network is robust against Gaussian noise up to sigma = 8 {within}.",
        across([standard], [("16", "2")], KEEPS_MOST),
    )
    yield Claim(
        f"From there its accuracy drops sharply (from sigma = 8 to 16 by more than {MOST_MARGIN}).",
        across([standard], [("16", "32")], (MOST, math.inf)),
    )
    # All images are right without noise, so that losing less is the same as being above.
    defective = ("0.5-Bottom", "0.3-Bottom", fewest)
    yield Claim(
        "From sigma = 12 on, defective networks are more accurate than the standard one.",
        down([(row, standard) for row in defective], ("24", "32", "40", "48", "56", "64")),
    )
    yield Claim(
        f"{fewest} keeps a high accuracy up to sigma = 16 {within}.",
        across([fewest], [("32", "2")], KEEPS_MOST),
    )


_UNTOLD = "table7"
"""The paper's text draws no conclusion from it."""
_TRAINED = ("Adversarial Training", "Thermometer(16)", "Thermometer(32)")
_CLAIMS: dict[str, Callable[[], Iterable[Claim]]] = {
    "table1": partial(_texture, {PLAIN: DEFECTIVE}),
    "table2": partial(
        _defences,
        2,
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
        _defences, 3, trained=("Adv. Training", "ALP", "TLA"), ours=("Adv. Training", "ALP")
    ),
    "table4": partial(_matrix, smaller_is_stated=True),
    "table6": _boundary,
    "table7": partial(_defences, 7, _TRAINED, _TRAINED, variants="and thermometer encoding"),
    "table8": _matrix,
    "table9": _matrix,
    "table10": _gray_defective,
    "table11": _gray_standard,
    "table12": _white_box,
    "table13": partial(_texture, {name: f"{name} 0.1-Bottom" for name in ARCHITECTURES.values()}),
    **{f"table{number}": partial(_variants, number) for number in (5, 14, 15, 16, 17, 18)},
    "figure4": _noise,
    "figure5": _figure5,
    "perturbation": _perturbation,
}
