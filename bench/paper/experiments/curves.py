"""Curves of training: Figure 14."""

from __future__ import annotations

from ..experiment import Definition, Experiment
from ..pictures import draw_training_curves
from ..setup import Setup
from ..work import Artefact

ROLES = ("cifar10", "mnist")
DEFECTS = ("standard", "0.1-Bottom")


def build_curves(setup: Setup) -> Experiment:
    """Two networks on two data sets, a curve for each seed."""
    attached: dict[str, Artefact] = {
        f"{role} {defects} {seed}": setup.training("resnet18", defects, seed=seed, role=role)
        for role in ROLES
        for defects in DEFECTS
        for seed in setup.seeds
    }
    return Experiment(
        (),
        (),
        {},
        attached,
        settings=(
            "Accuracy after each epoch: on test images, and on the training images as they were "
            "augmented and met during the epoch.",
        ),
        notes=(
            "The paper does not say which defective network this is; section 4.1.1, which has "
            "0.1-Bottom, refers to these curves.",
        ),
    )


DEFINITIONS = [
    Definition(
        "figure14",
        "training and test curves",
        "D",
        ROLES,
        "4 ResNet-18",
        build_curves,
        draw=draw_training_curves,
    ),
]
