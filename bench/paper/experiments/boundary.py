"""The decision-based boundary attack: Table 6."""

from __future__ import annotations

from typing import Any

from ..experiment import Definition, Experiment, Measure, Place
from ..graph.protocol_results import BoundaryScore
from ..setup import Setup

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

    def of_seed(seed: int) -> dict[Place, Measure]:
        models = tuple(
            setup.target(name, "resnet18", seed=seed, **how) for name, how in ROWS.items()
        )
        sample = setup.sample("cifar10", models, count)
        return {
            (model.name, COLUMN): Measure(BoundaryScore(model, attack, sample), "score_median")
            for model in models
        }

    return Experiment(
        rows=tuple(ROWS),
        columns=(COLUMN,),
        cells=setup.each_seed(of_seed),
        settings=(
            f"{attack} on up to {count:,} test images that all five networks classify right.",
            "S(M): the median over the images of the squared Euclidean distance to what the attack "
            "ends at, divided by the number of pixel values; pixels in [0,1]. More is better.",
        ),
        notes=(
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
