"""Which operators are measured on which shapes."""

from __future__ import annotations

from collections.abc import Callable

from ..layers.sites import HEADLINE_SHAPES, SMALL_SHAPES, headline_sites
from .case import Case
from .fused import FusedCase
from .network import network_layers
from .norms import MaskCase, NormCase
from .products import ConvolutionCase, LinearCase

NETWORKS = ("resnet18", "resnet50")
BATCH, IMAGE_SIZE = 128, 32
SMALL = {"batch": 2, "image_size": 16, "width": 8}
"""What a CPU can do in a moment."""


def cases(operators, *, small: bool) -> list[Case]:
    """The cases of some ``OPERATORS``, in their order."""
    return [case for name in OPERATORS if name in operators for case in OPERATORS[name](small)]


def norm_cases(small: bool) -> list[Case]:
    return [NormCase(site) for site in headline_sites(_shapes(small))]


def mask_cases(small: bool) -> list[Case]:
    return [MaskCase(shape) for shape in _shapes(small)]


def fused_cases(small: bool) -> list[Case]:
    """Every convolution of a ResNet-18; those that end a block with its residual."""
    found = []
    for layer in _layers(("resnet18",), small)[0]:
        found.append(FusedCase(layer, "none"))
        if layer.kernel == 3 and layer.shape == layer.out_shape:
            found.append(FusedCase(layer, "residual"))
    return found


def convolution_cases(small: bool) -> list[Case]:
    networks = NETWORKS[:1] if small else NETWORKS
    return [ConvolutionCase(layer) for layer in _layers(networks, small)[0]]


def linear_cases(small: bool) -> list[Case]:
    networks = NETWORKS[:1] if small else NETWORKS
    return [LinearCase(layer) for layer in _layers(networks, small)[1]]


OPERATORS: dict[str, Callable[[bool], list[Case]]] = {
    "bn_mask_add_relu": norm_cases,
    "apply_mask": mask_cases,
    "conv_bn_mask_add_relu": fused_cases,
    "convolution": convolution_cases,
    "linear": linear_cases,
}


def _shapes(small: bool):
    return SMALL_SHAPES if small else HEADLINE_SHAPES


def _layers(networks, small: bool):
    sizes = SMALL if small else {"batch": BATCH, "image_size": IMAGE_SIZE}
    return network_layers(networks, **sizes)
