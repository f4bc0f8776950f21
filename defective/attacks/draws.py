"""Random numbers that belong to an image, not to its place in a batch.

Torch's generators give a batch one stream, so that an image's numbers depend on its neighbours.
Here every image has a stream of its own: SplitMix64 (Steele, Lea and Flood, 2014), begun at a hash
of (seed, the image's key, the number of the draw). Integer arithmetic only, so the bits are the
same on every device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# SplitMix64's constants as signed 64-bit integers: tensors have no unsigned arithmetic.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64
_LOW24 = 2**24 - 1


def content_keys(images: Tensor) -> Tensor:
    """A key for each image from its pixels: int64 [N]. Equal images have equal keys.

    The default of every attack, so that an image's result is the same alone and in any batch.
    """
    integers = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}[
        images.element_size()
    ]
    words = images.detach().contiguous().view(integers).flatten(1).long()
    return _mix(
        (words * _stream(torch.zeros(1, dtype=torch.int64), words.shape[1]).to(words)).sum(1)
    )


def uniform(keys: Tensor, seed: int, draw: int, shape: tuple[int, ...], dtype=torch.float32):
    """Uniform numbers in [0,1), of 24 random bits each (53 for float64).

    Args:
        keys: int64 [N], one for each image. seed: of the attack.
        draw: which draw of the image this is; different draws are independent.
        shape: of one image's numbers.

    Returns:
        [N, *shape] on the device of ``keys``.
    """
    bits = 53 if dtype == torch.float64 else 24
    words = _stream(_begin(keys, seed, draw), math.prod(shape))
    return (_shift(words, 64 - bits).to(dtype) * 2.0**-bits).view(len(keys), *shape)


def normal(keys: Tensor, seed: int, draw: int, shape: tuple[int, ...], dtype=torch.float32):
    """Standard normal numbers [N, *shape], by Box and Muller; arguments as :func:`uniform`.

    They come from 24-bit uniform numbers, so none is beyond 5.8.
    """
    count = math.prod(shape)
    words = _stream(_begin(keys, seed, draw), (count + 1) // 2)
    radius = ((_shift(words, 40) + 1).to(dtype) * 2.0**-24).log_().mul_(-2).sqrt_()
    angle = (words & _LOW24).to(dtype) * (2 * math.pi * 2.0**-24)
    both = torch.cat([radius * angle.cos(), radius * angle.sin()], 1)
    return both[:, :count].reshape(len(keys), *shape)


def _begin(keys: Tensor, seed: int, draw: int) -> Tensor:
    """The state [N] at which each image's stream starts."""
    seeded = _mix(keys.long() + _mix(torch.tensor(_signed(seed + 1), device=keys.device)))
    return _mix(seeded + _signed((draw + 1) * _GOLDEN))


def _stream(start: Tensor, count: int) -> Tensor:
    """The next ``count`` words of each stream: int64 [N, count]."""
    steps = torch.arange(1, count + 1, device=start.device) * _GOLDEN
    return _mix(start[:, None] + steps)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right without the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """A whole number modulo 2^64, as a signed one."""
    return (value + 2**63) % 2**64 - 2**63
