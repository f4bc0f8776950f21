"""Where our numbers come about differently from the paper's, in words that several tables share."""

from __future__ import annotations

from ..setup import Setup

_LAST = "Networks are those of the last epoch; the release takes the best epoch on the test images."
EXACT = "Masks have an exact share of zeros, as in the release; the paper's text draws each neuron."
_ALIKE = (
    "A network's masks come from its seed and architecture: variants of one seed are nested, what "
    "0.3-Bottom keeps, 0.5-Bottom keeps too, and they begin with the same weights. The release "
    "draws them apart, but some of its architectures share files of masks."
)
NETWORKS = (_LAST, EXACT, _ALIKE)
"""On how all networks are trained."""

ROUNDING = (
    "Adversarial images are rounded to 8 bits before anything is judged; the release rounds "
    "between the verdicts of source and target."
)
FGSM = (
    "FGSM moves every channel by epsilon; the release's, one step in normalised pixels, moves red "
    "and blue by up to 1.5 % more."
)
DROPBLOCK = (
    "DropBlock drops its full share; the release's integer division drops about half as much at "
    "8x8 positions."
)
CARLINI = (
    "Carlini and Wagner's attack starts anew for each constant, within pixels of [0,1], measures "
    "distances there, and takes steps of 0.01. The release's goes on from the constant before, in "
    "a box of normalised pixels that is too wide for some channels, by steps of 0.0005.",
    "Images that this attack does not turn fool no source, and count nowhere: see n, and the rate "
    "at which it fools its source.",
)
SITES = (
    "DenseNet-121 and SENet-18 are defective where the release has masks: before the 1x1 "
    "convolutions of dense blocks 1 and 2, and in the residual units of stages 1 and 2. The "
    "paper's text and figures place them elsewhere."
)
TINY = (
    "Not comparable: neither paper nor release says how networks for Tiny-ImageNet are built and "
    "trained. Ours are those for CIFAR-10 (a 3x3 stem without pooling) at 64x64, sources and "
    "targets, trained with the recipe for CIFAR-10."
)
IMAGENET = (
    "Not comparable to the last digit: neither paper nor release gives learning rate, batch size "
    "and weight decay for ImageNet; ours are customary. The release has no evaluation on "
    "stylised images, and the paper no number of images."
)


def transfer(setup: Setup) -> tuple[str, ...]:
    """Of tables of success defence rates."""
    common = (
        "The paper attacks images that the source of the attack classifies right; ours are common "
        "to all sources, so that columns differ by attacks alone (--images source: the paper's "
        "way)."
    )
    return (*NETWORKS, ROUNDING, *((common,) if setup.images == "common" else ()))
