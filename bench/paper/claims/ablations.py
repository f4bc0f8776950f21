"""Variants of ResNet-18: Tables 5 and 14 to 18, and Figure 5."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .ablation_table import Table, keep
from .building import NO_GAIN, POINTS, across, down, rising
from .claim import Claim

MIXES = (
    "0.5-Bottom,0.5-Top",
    "0.7-Bottom,0.7-Top",
    "0.7-Bottom,0.3-Top",
    "0.3-Bottom,0.3-Top",
    "0.3-Bottom,0.7-Top",
)
FIGURE5 = ("Defence Rate", "Test Accuracy")
"""Columns: of Table 14, PGD16 and Acc."""
MARGIN = f"{100 * POINTS:g} points"


def _pairs(rows: Iterable[str], other: Callable[[str], str]) -> list[tuple[str, str]]:
    return [(other(row), row) for row in rows]


def _keep_probability(t: Table) -> tuple[Claim, ...]:
    pgd = t.attacks("PGD")
    return (
        Claim(
            "Defective bottom layers make the network more robust, at every keep probability.",
            t.section,
            down([(row, t.standard) for row in t.bottom], t.attacks()),
        ),
        Claim(
            "The smaller the keep probability of the bottom, the better the defence against PGD.",
            t.section,
            down(rising((t.standard, *t.bottom)), pgd),
        ),
        Claim(
            "The smaller the keep probability of the bottom, the better the defence against the "
            "other attacks, too.",
            t.section,
            down(rising((t.standard, *t.bottom)), [a for a in t.attacks() if a not in pgd]),
        ),
        Claim(
            "The smaller the keep probability of the bottom, the lower the accuracy on clean "
            "images.",
            t.section,
            down(rising((*reversed(t.bottom), t.standard)), t.accuracy),
        ),
    )


def _top(t: Table) -> tuple[Claim, ...]:
    tops = t.with_ending("-Top")
    mixes = [row for row in MIXES if row in t.rows]
    return (
        Claim(
            "Defective layers in the bottom defend better than in the top, at equal keep "
            "probabilities.",
            t.section,
            down(_pairs(tops, lambda row: row.replace("Top", "Bottom")), t.attacks()),
        ),
        Claim(
            f"Defective layers in the top do not help (gain less than {MARGIN}).",
            t.section,
            down([(row, t.standard) for row in tops], t.attacks(), NO_GAIN),
        ),
        Claim(
            "Defective layers in the top do not help a network whose bottom is defective, either "
            f"(gain less than {MARGIN}).",
            t.section,
            down([(row, row.partition(",")[0]) for row in mixes], t.attacks(), NO_GAIN),
            stated=False,
        ),
    )


def _variants(t: Table) -> tuple[Claim, ...]:
    channels, shared = t.with_ending("DC"), t.with_ending("SM")
    fewest = [row for row in shared if keep(row) == 0.1]
    return (
        Claim(
            "Defective neurons defend better than defective channels, at equal keep probabilities.",
            t.section,
            down(_pairs(channels, lambda row: row.removesuffix("DC")), t.attacks()),
        ),
        Claim(
            "Defective channels cost less accuracy than defective neurons.",
            t.section,
            down([(row, row.removesuffix("DC")) for row in channels], t.accuracy),
        ),
        Claim(
            "One mask for all channels of a layer has a lower accuracy than one for each.",
            t.section,
            down(_pairs(shared, lambda row: row.removesuffix("SM")), t.accuracy),
        ),
        Claim(
            "At a keep probability of 0.1, one mask for all channels defends worse than many.",
            t.section,
            down(_pairs(fewest, lambda row: row.removesuffix("SM")), t.attacks()),
            stated=False,
        ),
    )


def _scale(t: Table) -> Claim:
    pgd, fgsm = t.attacks("PGD"), t.attacks("FGSM")
    # Names have the scale at the end; PGD2,16 is another step size.
    pairs = rising(("PGD32", "PGD16") if "PGD32" in pgd else ()) + rising(tuple(reversed(fgsm)))
    return Claim(
        "The larger the scale of a perturbation, the stronger the attack.",
        "A.10",
        across(t.rows, pairs),
    )


def _appendix(t: Table) -> tuple[Claim, ...]:
    """Of Tables 14 to 18, which have more rows and columns than Table 5."""
    wide = t.with_ending("x2")
    single = {row: row.removesuffix("EN") for row in t.with_ending("EN")}
    defective = [(row, one) for row, one in single.items() if one != t.standard]
    standard = [(row, one) for row, one in single.items() if one == t.standard]
    return (
        Claim(
            "At equal scale, PGD of the smaller step (1 instead of 2) is the stronger attack.",
            t.section,
            across(t.rows, [("PGD2,16", "PGD16")]),
        ),
        Claim(
            "Twice as many channels in the defective blocks raise the accuracy.",
            t.section,
            down([(row, row.removesuffix("x2")) for row in wide], t.accuracy),
            stated=False,
        ),
        Claim(
            "Twice as many channels in the defective blocks lower the defence.",
            t.section,
            down(_pairs(wide, lambda row: row.removesuffix("x2")), t.attacks()),
            stated=False,
        ),
        Claim(
            "Five defective networks together are more accurate than one.",
            "A.9",
            down(defective, t.accuracy),
        ),
        Claim(
            "Five defective networks together are more robust than one.",
            "A.9",
            down(defective, t.attacks()),
        ),
        Claim(
            f"Five standard networks together are not more robust (gain less than {MARGIN}).",
            "A.9",
            down(standard, t.attacks(), NO_GAIN),
        ),
    )


def _claims(number: int) -> tuple[Claim, ...]:
    t = Table(number)
    more = _appendix(t) if number > 5 else ()
    return (*_keep_probability(t), *_top(t), *_variants(t), _scale(t), *more)


def _figure5() -> tuple[Claim, ...]:
    t = Table(14)
    return (
        Claim(
            "The smaller the keep probability of the bottom, the better the defence against PGD.",
            "A.9",
            down(rising(t.bottom), [FIGURE5[0]]),
        ),
        Claim(
            "The smaller the keep probability of the bottom, the lower the accuracy on clean "
            "images.",
            "A.9",
            down(rising(tuple(reversed(t.bottom))), [FIGURE5[1]]),
        ),
    )


CLAIMS = {
    **{f"table{number}": _claims(number) for number in (5, 14, 15, 16, 17, 18)},
    "figure5": _figure5(),
}
