"""Thermometer encoding of pixels (Buckman, Roy, Raffel and Goodfellow, ICLR 2018).

[0,1] is cut into L equal bins: a pixel x is in bin min(floor(L x), L - 1), so that an edge k/L
belongs to the bin above it. Its code has L numbers: number k is 1 where the pixel's bin is k or
above, so where x >= k/L, and 0 elsewhere; that is the one-hot code of the bin, summed from the top
down, as in the authors' release. Number 0 is always 1. Brighter pixels have more ones, as a warmer
thermometer has.

A code is laid out as channels: channel c's number k is channel ``c * L + k``. There is no
normalisation by mean and standard deviation: codes are 0 and 1.
"""

from __future__ import annotations

import warnings

import torch
from einops import rearrange, repeat
from torch import Tensor

AS_CHANNELS = "n c l h w -> n (c l) h w"
"""Where the numbers of a code go."""

NO_GRADIENT = (
    "thermometer encoding has no gradient for the pixels (it is zero): gradient attacks do not "
    "move them and robustness is overstated; attack with ls-pga"
)


def bins(pixels: Tensor, levels: int) -> Tensor:
    """The bin of each pixel: whole numbers from 0 to ``levels - 1`` in the pixels' dtype."""
    return (pixels * levels).floor().clamp(0, levels - 1)


def encode(pixels: Tensor, levels: int) -> Tensor:
    """The thermometer code of pixels in [0,1].

    Gradients for the pixels are zero, as steps have no slope; whoever asks for them is warned
    (RuntimeWarning), since attacks by such gradients prove nothing.

    Args:
        pixels: floating [N,C,H,W]. levels: L, 2 or more.

    Returns:
        [N,C*L,H,W] of zeros and ones, in the pixels' dtype and, of several channels, memory format.
    """
    ladder = rearrange(torch.arange(levels, device=pixels.device), "l -> l 1 1")
    reached = rearrange(bins(pixels.detach(), levels), "n c h w -> n c 1 h w") >= ladder
    code = rearrange(reached.to(pixels.dtype), AS_CHANNELS)
    if not pixels.is_contiguous() and pixels.is_contiguous(memory_format=torch.channels_last):
        code = code.contiguous(memory_format=torch.channels_last)
    if torch.is_grad_enabled() and pixels.requires_grad:
        warnings.warn(NO_GRADIENT, RuntimeWarning, stacklevel=2)
        # A path of slope zero: no path at all would be an error far from its cause.
        code = code + repeat(pixels * 0, "n c h w -> n (c l) h w", l=levels)
    return code


def soft_code(weights: Tensor) -> Tensor:
    """The expected code of pixels whose bins are random.

    Differentiable. For weights of 0 and 1 it is :func:`encode` of a pixel in that bin.

    Args:
        weights: [N,C,L,H,W], probabilities of each pixel's bins, of sum 1 over L.

    Returns:
        [N,C*L,H,W]: number k is the probability of bin k or one above.
    """
    return rearrange(weights.flip(2).cumsum(2).flip(2), AS_CHANNELS)


def reachable(images: Tensor, levels: int, eps: float) -> tuple[Tensor, Tensor]:
    """Which bins each pixel can get to when it moves by eps at most, and where to go for that.

    Another bin's pixel is in the middle between the ends of what can be reached of it. So it stays
    in its bin and within eps when it is rounded to 256 levels, where these images lie, eps is a
    multiple of 1/255, and 1/255 of the bin can be reached.

    Args:
        images: [N,C,H,W], pixels in [0,1]. levels: L. eps: in units of pixels.

    Returns:
        Pixels [N,C,L,H,W] in the dtype of ``images``, and bool [N,C,L,H,W]. Where that is True the
        pixel is in bin k, in [0,1] and no more than eps from the image, in the arithmetic of this
        dtype. The image's own bin is always True, with the image's own pixel.
    """
    own = rearrange(images, "n c h w -> n c 1 h w")
    number = torch.arange(levels, device=images.device, dtype=images.dtype)
    number = rearrange(number, "l -> l 1 1")
    low = torch.maximum(own - eps, number / levels)
    high = torch.minimum(own + eps, (number + 1) / levels)
    pixels = torch.where(bins(own, levels) == number, own, (low + high) / 2)
    # Looked up and not derived, so that rounding has no say in it.
    return pixels, (bins(pixels, levels) == number) & ((pixels - own).abs() <= eps)
