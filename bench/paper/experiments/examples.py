"""Adversarial images to look at: Figures 3, 6 and 7."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ..experiment import Definition, Experiment
from ..pictures import draw_examples
from ..setup import Setup, mifgsm
from ..work import Artefact
from . import notes

CIFAR, TINY = "cifar10", "tiny-imagenet"
PLAIN = "standard"
MOST = 100
"""Images that are attacked, so that enough of them fool every network of a picture."""
SMALL, MIDDLE, LARGE = mifgsm(1, 20, 16), mifgsm(1, 40, 32), mifgsm(1, 80, 64)

_FREE = (
    "The paper shows chosen images of each network. Here all networks get the same, the first of a "
    "random order on which every network is right, and wrong after the attack."
)
_STEPS = "The paper does not give the number of steps: 20 for scale 16, 40 for scale 32."


def build_examples(
    setup: Setup,
    networks: Mapping[str, tuple[str, ...]],
    attacks: Mapping[str, tuple[str, ...]],
    more_notes: tuple[str, ...],
) -> Experiment:
    """Adversarial images that each network is the source of, from the first of the seeds.

    Args:
        networks: {role: defects of the ResNet-18s}. attacks: {role: their attacks}.
    """
    attached: dict[str, Artefact] = {}
    for role, several in networks.items():
        # Of no network's choice, so that another figure's networks have the same sets.
        sample = setup.sample(role, (), min(MOST, setup.budget.samples))
        for attack in attacks[role]:
            for defects in several:
                name = "ResNet-18" if defects == PLAIN else defects
                model = setup.target(name, "resnet18", defects, seed=setup.seeds[0], role=role)
                attached[f"{role} {attack} {name}"] = setup.adversarial(model, attack, sample)
    tiny = (notes.TINY,) if TINY in networks else ()
    settings = ("Each network is attacked itself; images are rounded to 256 levels.",)
    return Experiment((), (), {}, attached, settings, (notes.EXACT, *tiny, _FREE, *more_notes))


DEFINITIONS = [
    Definition(
        "figure3",
        "adversarial images of defective and standard networks",
        "3.2",
        (CIFAR, TINY),
        "4 ResNet-18; MI-FGSM",
        partial(
            build_examples,
            networks={CIFAR: ("0.1-{1,2}", PLAIN), TINY: ("0.1-{1,2}", PLAIN)},
            attacks={CIFAR: (SMALL, MIDDLE), TINY: (SMALL, MIDDLE)},
            more_notes=(
                _STEPS,
                "The paper does not say which defective network this is; 0.1-{1,2} is the one that "
                "both of Figures 6 and 7 have.",
            ),
        ),
        draw=draw_examples,
    ),
    Definition(
        "figure6",
        "more adversarial images, CIFAR-10",
        "B",
        (CIFAR,),
        "3 ResNet-18; MI-FGSM",
        partial(
            build_examples,
            networks={CIFAR: ("0.2-Bottom", "0.1-{1,2}", PLAIN)},
            attacks={CIFAR: (SMALL, MIDDLE)},
            more_notes=(_STEPS,),
        ),
        draw=draw_examples,
    ),
    Definition(
        "figure7",
        "more adversarial images, Tiny-ImageNet",
        "B",
        (TINY,),
        "2 ResNet-18; MI-FGSM",
        partial(
            build_examples,
            networks={TINY: ("0.1-{1,2}", PLAIN)},
            attacks={TINY: (MIDDLE, LARGE)},
            more_notes=(
                "The paper gives scales 64 and 32 with 40 and 80 steps of 1, but 40 steps reach no "
                "further than 40: here 80 steps for scale 64 and 40 for scale 32.",
            ),
        ),
        draw=draw_examples,
    ),
]
