"""Fused operators for batch norm, fixed neuron masks, residual addition and ReLU.

This floor stands alone: it imports torch and einops, and Triton at the first call that uses it, and
nothing else of scotoma.
"""

from .autotune import measure_convolutions
from .batch_norm import BNMaskAddReLU
from .convolution import conv_bn_mask_add_relu
from .fuse import fuse, unfuse
from .masking import apply_mask
from .operator import bn_mask_add_relu
from .reference import Projection

__all__ = [
    "BNMaskAddReLU",
    "Projection",
    "apply_mask",
    "bn_mask_add_relu",
    "conv_bn_mask_add_relu",
    "fuse",
    "measure_convolutions",
    "unfuse",
]


def __dir__() -> list[str]:
    return __all__
