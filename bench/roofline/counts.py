"""Bytes that an operator must move, and its floating-point operations.

A multiply-add is two operations, and so is it in the ceilings. What surrounds batch norm is counted
as the fused kernels compute it: a subtraction, product, sum, comparison or selection of one element
is one operation; what is done once a channel is not counted. These figures are approximate, and
nothing hangs on them: such operators have about two operations a byte, where a GPU needs tens
before arithmetic costs time.
"""

from __future__ import annotations

from ..layers.sites import Site

# sum of (x - centre) and of its square: a subtraction, a sum, a multiply-add
STATISTICS = 4
# g, and g * (x - mean), each added to its sum
GRADIENT_SUMS = 4
# constant + (x - mean) * slope, subtracted
STATISTICS_TERMS = 4


def norm_flops(site: Site) -> dict[str, int]:
    """Operations of ``bn_mask_add_relu`` forward and backward."""
    branches = 2 if site.kind == "projection" else 1
    masks = branches * site.masked
    # (x - mean) * scale + bias, times the mask, the branches or the residual added
    value = 3 * branches + masks + (site.kind != "none")
    forward = value + site.relu
    past_relu = 0
    if site.relu:
        # A saved bit selects, or the value is computed again and compared.
        past_relu = 1 if site.kind == "residual" else value + 2
    backward = past_relu + masks + branches  # the gradient masked and scaled
    if site.training:
        forward += STATISTICS * branches
        backward += STATISTICS_TERMS * branches
        backward += past_relu + masks + GRADIENT_SUMS * branches  # the pass for the sums
    return {"forward": forward * site.elements, "backward": backward * site.elements}


def convolution_flops(out_elements: int, in_channels: int, kernel: int) -> int:
    """Of a convolution without groups, and of each of its two gradients: padding is counted."""
    return 2 * out_elements * in_channels * kernel * kernel


def linear_flops(batch: int, in_features: int, out_features: int) -> int:
    """Of a linear layer, and of each of its two gradients."""
    return 2 * batch * in_features * out_features
