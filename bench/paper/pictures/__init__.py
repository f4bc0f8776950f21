"""Pictures of the paper's figures, each from the artefacts that it is made of."""

from __future__ import annotations

from ..graph.data import Data

_NAMES = {
    "cifar10": "CIFAR-10",
    "mnist": "MNIST",
    "tiny-imagenet": "Tiny-ImageNet",
    "imagenet": "ImageNet",
}


def data_name(data: Data) -> str:
    """The paper's name of a data set, and what stands in its place if something does."""
    name = _NAMES.get(data.role, data.role)
    return name if data.label == data.role else f"{data.label} (in the place of {name})"
