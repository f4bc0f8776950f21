"""Tables of attacks that are made with one network and turned on others: 2 to 5, 7 to 11, 14 to 18,
Figure 5, and "perturbation", which is ours. Each is rows of networks, and columns of a source and
an attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from .artefacts import AdversarialImages, Model, Result
from .experiment import Content, Measure, Places
from .published import DEFENCE_RATE, TEST_ACCURACY
from .setup import ARCHITECTURES, MEMBER_SEED, Setup, cw, fgsm, pgd

FOOLED, OF_SOURCE = "fooled: the source itself", "accuracy of the source"
"""Rows of ours beside a table."""


class Target(NamedTuple):
    """A network that is defended with, or an ensemble of several with masks of their own.

    ``settings`` are those of training, over the budget's recipe. ``shift`` is added to the seed.
    """

    arch: str = "resnet18"
    defects: str = "standard"
    settings: Mapping[str, Any] = {}
    members: int = 1
    shift: int = 0


class Source(NamedTuple):
    """A network that attacks are made with; several architectures are an ensemble."""

    archs: tuple[str, ...]
    defects: str = "standard"


@dataclass(frozen=True)
class Transfer:
    """A table of targets under the attacks of sources.

    Attributes:
        targets: {row: network}. sources: {name: network}. columns: {column: (source's name,
            attack)}. accuracy: name of the column of clean accuracies, or None. role: of the data.
        judges: whose right images are attacked, where ``--images`` is "common": all five
            architectures, or the table's sources; or nobody's: then all images are, and all count
            (P2).
    """

    targets: Mapping[str, Target]
    sources: Mapping[str, Source]
    columns: Mapping[str, tuple[str, str]]
    accuracy: str | None = None
    role: str = "cifar10"
    judges: Literal["five", "sources", "nobody"] = "five"

    def fill(self, setup: Setup, seed: int) -> Content:
        """Defence rates and accuracies, and beside them how often each attack fools its source."""
        sources = {
            name: setup.source(*archs, seed=seed, name=name, defects=defects, role=self.role)
            for name, (archs, defects) in self.sources.items()
        }
        targets = {
            name: setup.target(
                *(name, target.arch, target.defects),
                seed=seed + target.shift,
                members=target.members,
                role=self.role,
                **target.settings,
            )
            for name, target in self.targets.items()
        }
        sets = {
            column: self._set(setup, sources, name, attack, seed)
            for column, (name, attack) in self.columns.items()
        }
        cells, beside = self._cells(targets, sets)
        first = next(iter(targets.values()))
        # Nothing is evaluated for these shares: they are in results that the table needs anyway.
        fooled: Places = {
            (FOOLED, column): Measure(Result.transfer(first, images), "fooled_source")
            for column, images in sets.items()
        }
        several = len(sources) > 1
        accurate: Places = {
            (OF_SOURCE, column if several else self.accuracy): Measure(
                Result.clean(images.source), "accuracy"
            )
            for column, images in sets.items()
        }
        is_ablation = self.judges == "five" and not several
        asides = accurate | fooled if is_ablation else fooled | accurate
        columns = [*self.columns, *([] if self.accuracy is None else [self.accuracy])]
        attacks = {
            "PGD" if several else column: setup.budget.attack(attack)
            for column, (_, attack) in self.columns.items()
        }
        return Content(targets, columns, cells, asides | beside, attacks=attacks)

    def _cells(
        self, targets: Mapping[str, Model], sets: Mapping[str, AdversarialImages]
    ) -> tuple[Places, Places]:
        """(the table, P1 beside a table of P2)"""
        cells: Places = {}
        beside: Places = {}
        for row, target in targets.items():
            for column, images in sets.items():
                result = Result.transfer(target, images)
                if self.judges == "nobody":
                    cells[row, column] = Measure(result, "defence_all")
                    beside[f"{row}, P1", column] = Measure(result, "defence")
                else:
                    cells[row, column] = Measure(result, "defence")
            if self.accuracy is not None:
                cells[row, self.accuracy] = Measure(Result.clean(target), "accuracy")
        return cells, beside

    def _set(
        self, setup: Setup, sources: Mapping[str, Model], name: str, attack: str, seed: int
    ) -> AdversarialImages:
        source = sources[name]
        if self.judges == "nobody":
            sample = setup.sample(self.role, (), setup.budget.all_samples)
        elif self.judges == "five" or setup.images == "source":
            sample = setup.attacked_sample(source, seed=seed, role=self.role)
        else:
            sample = setup.sample(self.role, tuple(sources.values()))
        return setup.adversarial(source, attack, sample)


# Tables 4, 8, 9 and 11: between architectures.

FIVE = {name: Source((arch,)) for arch, name in ARCHITECTURES.items()}
PGD16, PGD8 = pgd(1, 20, 16), pgd(2, 7, 8)
MNIST_PGD = "pgd:eps=0.3,step=0.01,steps=40"
"""The paper's step 0.01 x 255 and scale 0.3 x 255 (section A.5)."""
KEEP = (0.5, 0.3)
ALL_BUT_ONE = {
    f"all but {left}": Source(tuple(a for a, name in ARCHITECTURES.items() if name != left))
    for left in FIVE
}


def matrix(attack: str, sources: Mapping[str, Source] = FIVE, role: str = "cifar10") -> Transfer:
    """Sources against five architectures, standard and with two keep probabilities."""
    targets = {}
    for arch, name in ARCHITECTURES.items():
        targets[name] = Target(arch)
        targets |= {f"{name} {keep}-Bottom": Target(arch, f"{keep}-Bottom") for keep in KEEP}
    columns = {column: (name, attack) for column, name in zip(FIVE, sources, strict=True)}
    return Transfer(targets, sources, columns, "Test Accuracy", role)


_PAIR = {ARCHITECTURES[arch]: arch for arch in ("resnet18", "densenet121")}
TABLE_11 = Transfer(
    {name: Target(arch) for name, arch in _PAIR.items()},
    {name: FIVE[name] for name in _PAIR},
    {name: (name, PGD16) for name in _PAIR},
)

# Table 10: between defective networks; "DIF" has other masks than the source of its name.

_BOTTOMS = tuple(f"{keep}-Bottom" for keep in KEEP)
TABLE_10 = Transfer(
    # An ensemble's second member has masks and weights of its own, and is there for Table 14.
    {
        f"{name}{more}": Target("resnet18", name, shift=shift)
        for name in _BOTTOMS
        for more, shift in (("", 0), ("DIF", MEMBER_SEED))
    },
    {name: Source(("resnet18",), name) for name in _BOTTOMS},
    {name: (name, PGD16) for name in _BOTTOMS},
    judges="sources",
)

# Tables 5 and 14 to 18, and Figure 5: variants of defective ResNet-18.

BOTTOM = tuple(f"{keep}-Bottom" for keep in (0.7, 0.5, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05))
PAIRS = ("0.7-Bottom,0.7-Top", "0.7-Bottom,0.3-Top", "0.3-Bottom,0.3-Top", "0.3-Bottom,0.7-Top")
ROWS = (
    "ResNet-18",
    *BOTTOM,
    *("0.7-Top", "0.5-Top", "0.3-Top"),
    "0.5-Bottom,0.5-Top",
    *PAIRS,
    *(f"{keep}-Bottom{kind}" for kind in ("DC", "SM", "x2") for keep in (0.5, 0.3, 0.1)),
    *("ResNet-18EN", "0.5-Bottomx2EN", "0.5-BottomEN", "0.3-BottomEN", "0.1-BottomEN"),
)
"""Of Tables 14 to 18."""
ROWS_OF_TABLE_5 = (
    "Standard CNN",
    *("0.7-Bottom", "0.5-Bottom", "0.3-Bottom"),
    *("0.7-Top", "0.5-Top", "0.3-Top"),
    *PAIRS,
    "0.1-Bottom",
    *("0.5-BottomDC", "0.1-BottomDC"),
    *("0.5-BottomSM", "0.1-BottomSM"),
)
ATTACKS = {
    "FGSM8": fgsm(8),
    "FGSM16": fgsm(16),
    "FGSM32": fgsm(32),
    "PGD16": PGD16,
    "PGD2,16": pgd(2, 10, 16),
    "PGD32": pgd(1, 40, 32),
}
SCALES = {
    "PGD2": pgd(1, 4, 2),
    "PGD4": pgd(1, 6, 4),
    "PGD8": pgd(1, 10, 8),
    "PGD16": PGD16,
    "PGD32": ATTACKS["PGD32"],
}
"""Steps as in Table 12, and as in Table 5."""
CONFIDENCES = {"densenet121": 40, "resnet18": 20, "resnet50": 40, "senet18": 40, "vgg19": None}
"""{source of the appendix: confidence of Carlini and Wagner's attack}; the paper has none for
VGG-19 (section A.10)."""


def ablation(
    arch: str,
    rows: Sequence[str] = ROWS,
    columns: Sequence[str] = (),
    accuracy: str = "Acc",
) -> Transfer:
    """Variants of ResNet-18 under attacks from one source; ``columns`` of them, or all."""
    name, confidence = ARCHITECTURES[arch], CONFIDENCES[arch]
    attacks = ATTACKS | ({} if confidence is None else {f"CW{confidence}": cw(confidence)})
    targets = {}
    for row in rows:
        defects = row.removesuffix("EN")
        defects = "standard" if defects in ("ResNet-18", "Standard CNN") else defects
        targets[row] = Target("resnet18", defects, members=5 if row.endswith("EN") else 1)
    chosen = {column: (name, attacks[column]) for column in columns or attacks}
    return Transfer(targets, {name: FIVE[name]}, chosen, accuracy)


# Tables 2, 3 and 7: beside other defences.

ADVERSARIAL = {"adversarial_eps": 8 / 255, "adversarial_step": 2 / 255, "adversarial_steps": 7}
"""Madry et al. (2017) on CIFAR-10."""
PAIRING = ADVERSARIAL | {"logit_pairing": 0.5}
"""Kannan et al. (2018), with the weight of their release."""
DROPPED = {
    "Standard CNN": {},
    "Standard CNN + SD": {"regularizer": "spatial-dropout"},
    "Standard CNN + DB": {"regularizer": "dropblock"},
}
DEFECTIVE = {"Defective CNN": {"defects": "0.1-Bottom"}}


def comparison(
    arch: str,
    rows: Mapping[str, Mapping[str, Any]],
    attacks: Mapping[str, str],
    accuracy: str,
    role: str = "cifar10",
) -> Transfer:
    """Networks of one architecture, as {row: settings of its training}, under attacks from a
    standard one of it."""
    name = ARCHITECTURES.get(arch, arch)
    targets = {}
    for row, settings in rows.items():
        more = dict(settings)
        targets[row] = Target(arch, more.pop("defects", "standard"), more)
    columns = {column: (name, attack) for column, attack in attacks.items()}
    return Transfer(targets, {name: Source((arch,))}, columns, accuracy, role, "nobody")


FGSM_AND_PGD = {"FGSM": fgsm(8), "PGD": PGD8}
TRANSFERS = {
    "table2": comparison(
        "resnet18",
        DROPPED
        | {"Adv. Training": ADVERSARIAL}
        | DEFECTIVE
        | {"Defective CNN {1,2}": {"defects": "0.1-{1,2}"}},
        FGSM_AND_PGD,
        "Clean Acc",
    ),
    "table3": comparison(
        "resnet50",
        DROPPED | {"Adv. Training": ADVERSARIAL, "ALP": PAIRING} | DEFECTIVE,
        {"PGD": pgd(2, 20, 8)},
        "Clean Acc",
        role="tiny-imagenet",
    ),
    "table4": matrix(PGD16),
    "table5": ablation(
        "densenet121", ROWS_OF_TABLE_5, ("FGSM16", "PGD16", "PGD32", "CW40"), "Test Accuracy"
    ),
    "table7": comparison(
        "wrn32_4",
        DROPPED
        | {
            "Adversarial Training": ADVERSARIAL,
            "Thermometer(16)": ADVERSARIAL | {"thermometer": 16},
            "Thermometer(32)": ADVERSARIAL | {"thermometer": 32},
        }
        | DEFECTIVE,
        FGSM_AND_PGD,
        "Test Accuracy",
    ),
    "table8": matrix(PGD8, ALL_BUT_ONE),
    "table9": matrix(MNIST_PGD, role="mnist"),
    "table10": TABLE_10,
    "table11": TABLE_11,
    **{f"table{number}": ablation(arch) for number, arch in enumerate(CONFIDENCES, 14)},
    "figure5": replace(
        ablation("densenet121", ("ResNet-18", *BOTTOM), accuracy=TEST_ACCURACY),
        columns={DEFENCE_RATE: ("DenseNet-121", PGD16)},
    ),
    "perturbation": replace(
        ablation(
            "densenet121",
            ("ResNet-18", *(f"{p}-{w}" for w in ("Bottom", "Top") for p in (0.5, 0.3, 0.1))),
            accuracy=TEST_ACCURACY,
        ),
        columns={column: ("DenseNet-121", attack) for column, attack in SCALES.items()},
    ),
}
