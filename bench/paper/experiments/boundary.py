"""The decision-based boundary attack: Table 6."""

from __future__ import annotations

from typing import Any

from ..artefacts import Result
from ..experiment import Definition, Experiment, Measure, Place
from ..setup import Setup
from . import notes
from .asides import Beside, apart

COLUMN = "S(M)"
ROWS: dict[str, dict[str, Any]] = {
    "Standard CNN": {},
    "Standard CNN + SD": {"regularizer": "spatial-dropout"},
    "Standard CNN + DB": {"regularizer": "dropblock"},
    "Standard CNN + LS": {"label_smoothing": 0.1},
    "Defective CNN": {"defects": "0.1-Bottom"},
}
"""{row: settings of its ResNet-18} (section A.1.1)."""


def build_boundary(setup: Setup) -> Experiment:
    """Five networks on the images that all of them classify right."""
    count, attack = setup.budget.boundary_samples, setup.budget.attack("boundary")

    def of_seed(seed: int) -> dict[Place | Beside, Measure]:
        models = tuple(
            setup.target(name, "resnet18", seed=seed, **how) for name, how in ROWS.items()
        )
        sample = setup.sample("cifar10", models, count)
        found: dict[Place | Beside, Measure] = {}
        for model in models:
            result = Result.boundary(model, attack, sample)
            found[model.name, COLUMN] = Measure(result, "score_median")
            found[Beside(f"{model.name}, mean", COLUMN)] = Measure(result, "score_mean")
        return found

    cells, asides = apart(setup.each_seed(of_seed))

    return Experiment(
        rows=tuple(ROWS),
        columns=(COLUMN,),
        axes=("network", "score"),
        cells=cells,
        asides=asides,
        settings=(
            f"{attack} on up to {count:,} test images that all five networks classify right.",
            "S(M): the median over the images of the squared Euclidean distance to what the attack "
            "ends at, divided by the number of pixel values; pixels in [0,1]. More is better.",
        ),
        notes=(
            *notes.NETWORKS,
            notes.DROPBLOCK,
            "All networks get the same images; the release takes other ones for each.",
            "The attack is foolbox 3's with its number of steps; the release calls foolbox 1, "
            "whose 5,000 steps try 25 directions each. The scores hang on how long it walks.",
        ),
    )


DEFINITIONS = [
    Definition(
        "table6",
        "the boundary attack, which sees decisions only",
        "A.1",
        ("cifar10",),
        "5 ResNet-18; boundary attack",
        build_boundary,
        of_table=6,
    ),
]
