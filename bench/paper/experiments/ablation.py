"""Variants of defective ResNet-18: Tables 5 and 14 to 18."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ..artefacts import Model
from ..experiment import Definition, Experiment, Measure, Place
from ..setup import ARCHITECTURES, Setup, cw, fgsm, pgd
from . import notes
from .asides import Beside, apart, fooled, of_source
from .cells import accuracy, defence, transfer_settings

STANDARD = ("ResNet-18", "Standard CNN")
"""Names of the network without defects: in the appendix, and in the main text."""
BOTTOM = tuple(f"{keep}-Bottom" for keep in (0.7, 0.5, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05))
ROWS = (
    "ResNet-18",
    *BOTTOM,
    *("0.7-Top", "0.5-Top", "0.3-Top"),
    "0.5-Bottom,0.5-Top",
    "0.7-Bottom,0.7-Top",
    "0.7-Bottom,0.3-Top",
    "0.3-Bottom,0.3-Top",
    "0.3-Bottom,0.7-Top",
    *("0.5-BottomDC", "0.3-BottomDC", "0.1-BottomDC"),
    *("0.5-BottomSM", "0.3-BottomSM", "0.1-BottomSM"),
    *("0.5-Bottomx2", "0.3-Bottomx2", "0.1-Bottomx2"),
    *("ResNet-18EN", "0.5-Bottomx2EN", "0.5-BottomEN", "0.3-BottomEN", "0.1-BottomEN"),
)
"""Of Tables 14 to 18."""
ROWS_OF_TABLE_5 = (
    "Standard CNN",
    *("0.7-Bottom", "0.5-Bottom", "0.3-Bottom"),
    *("0.7-Top", "0.5-Top", "0.3-Top"),
    "0.7-Bottom,0.7-Top",
    "0.7-Bottom,0.3-Top",
    "0.3-Bottom,0.3-Top",
    "0.3-Bottom,0.7-Top",
    "0.1-Bottom",
    *("0.5-BottomDC", "0.1-BottomDC"),
    *("0.5-BottomSM", "0.1-BottomSM"),
)

ATTACKS = {
    "FGSM8": fgsm(8),
    "FGSM16": fgsm(16),
    "FGSM32": fgsm(32),
    "PGD16": pgd(1, 20, 16),
    "PGD2,16": pgd(2, 10, 16),
    "PGD32": pgd(1, 40, 32),
}
CONFIDENCES = {"densenet121": 40, "resnet18": 20, "resnet50": 40, "senet18": 40}
"""Of Carlini and Wagner's attack, by source; the paper has none for VGG-19 (section A.10)."""
ACCURACIES = {
    "densenet121": 95.62,
    "resnet18": 95.27,
    "resnet50": 95.69,
    "senet18": 95.15,
    "vgg19": 94.04,
}
"""Of the paper's sources, in percent (captions of Tables 14 to 18)."""
TABLES = {14: "densenet121", 15: "resnet18", 16: "resnet50", 17: "senet18", 18: "vgg19"}

_VARIANTS = (
    "DC is a narrower network, as in the release; the paper's text masks whole channels.",
    "DC and x2 have a projection in block 1 that the standard network lacks, as in the release.",
)
_ENSEMBLES = (
    "EN is the mean of the logits of five networks; the first is that of the row without EN.",
)


def network(setup: Setup, row: str, seed: int) -> Model:
    """The ResNet-18 of a row, or the ensemble."""
    defects = row.removesuffix("EN")
    if defects in STANDARD:
        defects = "standard"
    if row.endswith("EN"):
        return setup.ensemble(row, "resnet18", defects, seed=seed)
    return setup.target(row, "resnet18", defects, seed=seed)


def attacks_of(source: str) -> dict[str, str]:
    """{column: attack} of the table of a source."""
    if source not in CONFIDENCES:
        return dict(ATTACKS)
    confidence = CONFIDENCES[source]
    return {**ATTACKS, f"CW{confidence}": cw(confidence)}


def cells_of(
    setup: Setup,
    source: str,
    rows: tuple[str, ...],
    attacks: Mapping[str, str],
    accuracy_name: str,
) -> dict[Place | Beside, tuple[Measure, ...]]:
    """Success defence rates of ``rows`` under {column: attack} from a source, and accuracies.

    Beside them how often the attacks fool their source, and its accuracy.
    """

    def of_seed(seed: int) -> dict[Place | Beside, Measure]:
        attacker = setup.source(source, seed=seed)
        sample = setup.attacked_sample(attacker, seed=seed)
        sets = {name: setup.adversarial(attacker, text, sample) for name, text in attacks.items()}
        first = network(setup, rows[0], seed)
        found = {**of_source(accuracy_name, attacker)}
        for column, images in sets.items():
            found |= fooled(column, first, images)
        for row in rows:
            target = network(setup, row, seed)
            for column, images in sets.items():
                found[row, column] = defence(target, images)
            found[row, accuracy_name] = accuracy(target)
        return found

    return setup.each_seed(of_seed)


def build_ablation(
    setup: Setup,
    source: str,
    rows: tuple[str, ...] = ROWS,
    columns: tuple[str, ...] | None = None,
    accuracy_name: str = "Acc",
) -> Experiment:
    """Variants of ResNet-18 under attacks from one source.

    Args:
        columns: of the source's attacks; None for all.
    """
    attacks = {k: v for k, v in attacks_of(source).items() if columns is None or k in columns}
    carlini = any(name.startswith("CW") for name in attacks)
    settings = transfer_settings(setup, attacks)
    settings += (
        f"The paper's {ARCHITECTURES[source]} that attacks has an accuracy of "
        f"{ACCURACIES[source]:.2f} %.",
    )
    cells, asides = apart(cells_of(setup, source, rows, attacks, accuracy_name))
    if carlini:
        settings += (f"CW attacks the first {_cw_images(setup):,} of these images.",)
    return Experiment(
        rows=rows,
        columns=(*attacks, accuracy_name),
        cells=cells,
        asides=asides,
        settings=settings,
        notes=(
            *notes.transfer(setup),
            notes.FGSM,
            *(notes.CARLINI if carlini else ()),
            *_VARIANTS,
            *(_ENSEMBLES if any(row.endswith("EN") for row in rows) else ()),
        ),
    )


def _cw_images(setup: Setup) -> int:
    return min(setup.budget.cw_samples, setup.budget.samples)


def _appendix(number: int, source: str) -> Definition:
    name = ARCHITECTURES[source]
    if source == "resnet18":
        name = f"another {name}"
    return Definition(
        f"table{number}",
        f"variants of ResNet-18, attacked from {name}",
        "A.10",
        ("cifar10",),
        f"5 sources and 46 ResNet-18, 20 of them for ensembles; {', '.join(attacks_of(source))}",
        partial(build_ablation, source=source),
        of_table=number,
    )


DEFINITIONS = [
    Definition(
        "table5",
        "ablations of ResNet-18, attacked from DenseNet-121",
        "4.2",
        ("cifar10",),
        "5 sources and 16 variants of ResNet-18; FGSM16, PGD16, PGD32, CW40",
        partial(
            build_ablation,
            source="densenet121",
            rows=ROWS_OF_TABLE_5,
            columns=("FGSM16", "PGD16", "PGD32", "CW40"),
            accuracy_name="Test Accuracy",
        ),
        of_table=5,
    ),
    *(_appendix(number, source) for number, source in TABLES.items()),
]
