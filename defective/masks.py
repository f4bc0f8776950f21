"""Fixed 0/1 masks: how one is drawn, and from which seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, get_args

import torch
from einops import repeat
from torch import Tensor

from .errors import UserError

MaskKind = Literal["neuron", "channel", "shared"]


def sample_mask(
    shape: Sequence[int],
    keep_probability: float,
    kind: MaskKind = "neuron",
    exact: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw a mask: True where a neuron is kept, False where it is defective.

    Args:
        shape: (C, H, W) of the layer's output.
        keep_probability: p in (0, 1], the fraction of neurons kept.
        kind: "neuron" draws every neuron by itself; "channel" keeps or drops whole channels;
            "shared" draws one H x W pattern and repeats it on all channels (the paper's SM).
        exact: drop exactly floor(n (1 - p)) of the n units, uniformly without replacement, as the
            authors' release does; False draws each unit from Bernoulli(p), as the paper says.
        generator: CPU generator to draw from; None for torch's global one.

    Returns:
        Bool tensor [C,H,W] on the CPU.

    Raises:
        UserError: shape, keep_probability or kind is out of range.

    Source: paper section 3.1; docs/reference.md, section 2.
    """
    shape = tuple(int(n) for n in shape)
    if len(shape) != 3 or min(shape) < 1:
        raise UserError(f"shape is {list(shape)}; expected three positive sizes (C, H, W)")
    if not 0 < keep_probability <= 1:
        raise UserError(f"keep_probability is {keep_probability}; expected 0 < p <= 1")
    channels, height, width = shape
    # The units that are kept or dropped, and how they make up a mask.
    count, layout = {
        "neuron": (channels * height * width, "(c h w) -> c h w"),
        "channel": (channels, "c -> c h w"),
        "shared": (height * width, "(h w) -> c h w"),
    }.get(kind, (0, ""))
    if not count:
        raise UserError(f"kind is {kind!r}; expected one of {', '.join(get_args(MaskKind))}")
    if exact:
        kept = torch.ones(count, dtype=torch.bool)
        dropped = count - kept_count(count, keep_probability)
        kept[torch.randperm(count, generator=generator)[:dropped]] = False
    else:
        kept = torch.rand(count, generator=generator) < keep_probability
    return repeat(kept, layout, c=channels, h=height, w=width).contiguous()


def kept_count(count: int, keep_probability: float) -> int:
    """Units that an exact mask keeps: ``count - floor(count * (1 - p))``, in exact arithmetic.

    Binary floating point would drop 99 instead of 100 of 1000 at p = 0.9.
    """
    drop_probability = 1 - Fraction(repr(float(keep_probability)))
    return count - math.floor(count * drop_probability)


def site_generator(seed: int, model: str, site: str) -> torch.Generator:
    """A generator for one site's mask, a function of (seed, model name, site name) alone.

    Sites are thus independent of each other and of torch's global generator, and identical on
    every machine and every rank.
    """
    digest = hashlib.sha256(f"{seed}/{model}/{site}".encode()).digest()
    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return generator
