"""Accuracy under Gaussian noise: Figure 4."""

from __future__ import annotations

from ....train.robustness.protocols import PAPER_EPSILONS
from ....train.robustness.tables import levels
from ..artefacts import Result
from ..experiment import Definition, Experiment, Measure, Place
from ..setup import Setup
from . import notes

DEFECTS = {
    "ResNet-18": "standard",
    "0.5-Bottom": "0.5-Bottom",
    "0.3-Bottom": "0.3-Bottom",
    "0.1-Bottom": "0.1-Bottom",
}


def build_noise(setup: Setup) -> Experiment:
    """Four networks on the images that all of them classify right. Columns are 2 sigma."""
    columns = tuple(levels(epsilon) for epsilon in PAPER_EPSILONS)

    def of_seed(seed: int) -> dict[Place, Measure]:
        models = tuple(
            setup.target(name, "resnet18", defects, seed=seed) for name, defects in DEFECTS.items()
        )
        sample = setup.sample("cifar10", models)
        cells = {}
        for model in models:
            result = Result.noise(model, sample, PAPER_EPSILONS, setup.budget.draws)
            for index, column in enumerate(columns):
                cells[model.name, column] = Measure(result, "accuracy", index)
        return cells

    return Experiment(
        rows=tuple(DEFECTS),
        columns=columns,
        axes=("network", "2 sigma"),
        cells=setup.each_seed(of_seed),
        settings=(
            f"Accuracy on up to {setup.budget.samples:,} test images that all four networks "
            f"classify right, under {setup.budget.draws} draws of noise that are the same for all.",
            "Columns: twice the standard deviation, in levels of 255, where the noise is clipped.",
        ),
        notes=(
            *notes.NETWORKS,
            "The release draws the noise once, and makes it up to 1.5 % stronger in red and blue "
            "than in green.",
        ),
    )


DEFINITIONS = [
    Definition(
        "figure4",
        "accuracy under Gaussian noise",
        "A.2",
        ("cifar10",),
        "4 ResNet-18",
        build_noise,
    ),
]
