"""White-box attacks: Table 12, and the adversarial training that section A.7 tells of."""

from __future__ import annotations

from ..artefacts import Result
from ..experiment import Definition, Experiment, Measure, Place
from ..setup import Setup, fgsm, pgd
from . import notes
from .defences import ADVERSARIAL

ATTACKS = {
    "FGSM1": fgsm(1),
    "FGSM2": fgsm(2),
    "FGSM4": fgsm(4),
    "PGD2": pgd(1, 4, 2),
    "PGD4": pgd(1, 6, 4),
    "PGD8": pgd(1, 10, 8),
}
DEFECTS = {"ResNet-18": "standard", "0.5-Bottom": "0.5-Bottom", "0.3-Bottom": "0.3-Bottom"}
ACCURACY = "Test Accuracy"

TRAINED = {
    "ResNet-18 + Adv. Training": "standard",
    "0.5-Bottom + Adv. Training": "0.5-Bottom",
}
"""Rows that Table 12 has not: the paper gives their numbers in its text."""
TRAINED_COLUMN = "PGD (2,7,8)"
TRAINED_ATTACK = pgd(2, 7, 8) + ",random_start=true"
"""As in training (Madry et al., 2018)."""


def build_white_box(setup: Setup) -> Experiment:
    """Each network attacked itself."""
    sample = setup.sample("cifar10", ())

    def of_seed(seed: int) -> dict[Place, Measure]:
        cells = {}
        for name, defects in DEFECTS.items():
            model = setup.target(name, "resnet18", defects, seed=seed)
            for column, attack in ATTACKS.items():
                result = Result.white_box(model, setup.budget.attack(attack), sample)
                cells[name, column] = Measure(result, "defence")
            cells[name, ACCURACY] = Measure(Result.clean(model), "accuracy")
        for name, defects in TRAINED.items():
            model = setup.target(name, "resnet18", defects, seed=seed, **ADVERSARIAL)
            result = Result.white_box(model, setup.budget.attack(TRAINED_ATTACK), sample)
            cells[name, TRAINED_COLUMN] = Measure(result, "defence")
        return cells

    return Experiment(
        rows=(*DEFECTS, *TRAINED),
        columns=(*ATTACKS, ACCURACY, TRAINED_COLUMN),
        cells=setup.each_seed(of_seed),
        settings=(
            f"Of {setup.budget.samples:,} random test images, those that a network classifies "
            "right; of them, the share that it classifies right after the attack on itself.",
            "FGSM by its scale; PGD (1, 4, 2), (1, 6, 4) and (1, 10, 8) from the image.",
            f"{TRAINED_COLUMN}: networks trained on PGD images of scale 8 (7 steps of 2 from a "
            "random point), attacked with the same.",
        ),
        notes=(
            *notes.NETWORKS,
            notes.FGSM,
            f"{', '.join(TRAINED)} are not in Table 12. The paper's text has 50.0 % for the "
            "standard network and 51.6 % for a defective one. Not comparable: it does not say how "
            "they are trained, of which keep probability the defective one is (here 0.5), nor "
            "whether shares are of all images or of those that are right before the attack (here "
            "the latter, as in the table).",
        ),
    )


DEFINITIONS = [
    Definition(
        "table12",
        "white-box attacks on ResNet-18",
        "A.7",
        ("cifar10",),
        "5 ResNet-18, of them 2 adversarially trained; FGSM and PGD",
        build_white_box,
        of_table=12,
    ),
]
