"""Fused operators for batch norm, fixed neuron masks, residual addition and ReLU.

This floor stands alone: it imports torch and nothing else of scotoma.
"""

from .operator import apply_mask, bn_mask_add_relu
from .reference import Projection

__all__ = ["Projection", "apply_mask", "bn_mask_add_relu"]
