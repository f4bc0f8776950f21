"""White-box attacks: Table 12 and what section A.7 tells beside it."""

from __future__ import annotations

from itertools import pairwise

from .building import NO_LOSS, POINTS, across, down, rising
from .claim import Claim

STANDARD, HALF, THIRD = "ResNet-18", "0.5-Bottom", "0.3-Bottom"
ATTACKS = ("FGSM1", "FGSM2", "FGSM4", "PGD2", "PGD4", "PGD8")
TRAINED = " + Adv. Training"

CLAIMS = {
    "table12": (
        Claim(
            "Attacked itself, a defective network is not weaker than a standard one "
            f"(loss less than {100 * POINTS:g} points).",
            "A.7",
            down([(HALF, STANDARD), (THIRD, STANDARD)], ATTACKS, NO_LOSS),
            stated=False,
        ),
        Claim(
            "Attacked itself, a network defends better the smaller its keep probability.",
            "A.7",
            down(rising((STANDARD, HALF, THIRD)), ATTACKS),
            stated=False,
        ),
        Claim(
            "No sign of obfuscated gradients: on the network itself many steps are stronger than "
            "one of the same size, and larger scales stronger than smaller ones.",
            "A.7",
            across(
                (STANDARD, HALF, THIRD),
                [("FGSM2", "PGD2"), ("FGSM4", "PGD4"), *pairwise(("PGD2", "PGD4", "PGD8"))],
            ),
        ),
        Claim(
            "Adversarial training makes a defective network more robust than a standard one.",
            "A.7",
            down([(HALF + TRAINED, STANDARD + TRAINED)], ["PGD (2,7,8)"]),
        ),
    )
}
