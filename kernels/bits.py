"""One bit for each element, as the forward kernel saves them and plain torch reads them."""

from __future__ import annotations

import torch
from torch import Tensor


def unpack_bits(bits: Tensor, like: Tensor) -> Tensor:
    """Saved bits [N*H*W, ceil(C/8)] as a bool tensor of the shape of ``like`` [N,C,H,W]."""
    n, channels, height, width = like.shape
    shifts = torch.arange(8, device=bits.device, dtype=torch.uint8)
    flags = (bits.unsqueeze(-1) >> shifts) & 1
    flags = flags.reshape(n, height, width, -1)[..., :channels]
    return flags.bool().permute(0, 3, 1, 2)


def pack_bits(flags: Tensor) -> Tensor:
    """The inverse of :func:`unpack_bits`."""
    rows = flags.permute(0, 2, 3, 1).reshape(-1, flags.shape[1])
    padded = torch.nn.functional.pad(rows.to(torch.uint8), (0, -rows.shape[1] % 8))
    weights = 1 << torch.arange(8, device=flags.device, dtype=torch.uint8)
    return (padded.reshape(rows.shape[0], -1, 8) * weights).sum(-1).to(torch.uint8)
