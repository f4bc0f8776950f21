"""Fused operators for batch norm, fixed neuron masks, residual addition and ReLU.

This floor stands alone: it imports torch and einops, and Triton at the first call that uses it, and
nothing else of scotoma.
"""

from .autotune import measure_convolutions
from .convolution import conv_bn_mask_add_relu
from .masking import apply_mask
from .operator import bn_mask_add_relu
from .reference import Projection

__all__ = [
    "Projection",
    "apply_mask",
    "bn_mask_add_relu",
    "conv_bn_mask_add_relu",
    "measure_convolutions",
]


def __dir__() -> list[str]:
    return __all__
