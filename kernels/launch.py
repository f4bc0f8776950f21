"""Launchers: tensors in, tensors out, nothing known of autograd.

The kernels are in ``device/``, imported at the first launch.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from . import geometry
from .geometry import Tiling, tiling


class Branch(NamedTuple):
    """One batch norm branch. ``mean`` and ``var`` are the statistics that normalise, once known."""

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor | None
    var: Tensor | None
    mask: Tensor | None

    def vectors(self):
        return self.weight, self.bias, self.mean, self.var


NO_BRANCH = Branch(None, None, None, None, None, None)


@cache
def device_kernels():
    from .device import backward, forward, statistics

    return statistics, forward, backward


def memory_format(x: Tensor) -> torch.memory_format:
    """The format that the kernels work in: the tensor's own, channels_last if it has neither."""
    if x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    if x.is_contiguous():
        return torch.contiguous_format
    return torch.channels_last


def on_device(x: Tensor):
    """Triton launches on the current device: make it the tensor's."""
    if x.is_cuda and x.device.index != torch.cuda.current_device():
        return torch.cuda.device(x.device)
    return nullcontext()


def mask_bytes(branches, channels_last: bool) -> tuple[list[Tensor | None], bool]:
    """The masks as bytes, and whether their memory order is that of channels_last images."""
    masks = [None if b.mask is None else b.mask.view(torch.uint8) for b in branches]
    given = [m for m in masks if m is not None]
    if all(_ordered_like_channels_last(m) for m in given):
        return masks, True
    if all(m.is_contiguous() for m in given):
        return masks, False
    permuted = [None if m is None else m.permute(1, 2, 0).contiguous() for m in masks]
    return [None if m is None else m.permute(2, 0, 1) for m in permuted], True


def _ordered_like_channels_last(mask: Tensor) -> bool:
    return mask.permute(1, 2, 0).is_contiguous()


def partial_buffer(x: Tensor, tiles: Tiling, sums: int) -> Tensor:
    return x.new_empty((sums, tiles.chunks, tiles.channels), dtype=torch.float32)


def batch_statistics(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, momentum: float
) -> Tensor:
    """Mean and biased variance [2,C] in float32; running statistics are updated in place.

    Two launches; reads ``x`` once.
    """
    tiles = tiling(x.shape, x.is_contiguous(memory_format=torch.channels_last))
    # No mask is read here, so the tile may be larger: more loads are under way at once.
    tiles = tiles._replace(block_m=2 * tiles.block_m)
    partials = partial_buffer(x, tiles, 2)
    device_kernels()[0].partial_statistics[(tiles.chunks * tiles.channel_blocks,)](
        x,
        partials,
        tiles.rows,
        tiles.channels // tiles.channel_unit,
        tiles.positions,
        tiles.chunk,
        tiles.chunks,
        C_UNIT=tiles.channel_unit,
        CHANNELS_LAST=tiles.channels_last,
        WIDE=tiles.wide,
        BLOCK_M=tiles.block_m,
        BLOCK_C=tiles.block_c,
        STAGES=geometry.STAGES,
        num_warps=geometry.WARPS,
    )
    return merge_statistics(partials, tiles, running_mean, running_var, momentum)


def merge_statistics(partials, tiles, running_mean, running_var, momentum) -> Tensor:
    """Merge partial statistics [2,chunks,C] of ``tiles.chunk`` rows each, the last one shorter."""
    statistics = partials.new_empty((2, tiles.channels))
    device_kernels()[0].merge_statistics[(-(-tiles.channels // geometry.MERGE_CHANNELS),)](
        partials,
        statistics,
        running_mean,
        running_var,
        momentum,
        tiles.rows,
        tiles.channels,
        tiles.chunk,
        tiles.chunks,
        BLOCK_S=tiles.merge_chunks,
        BLOCK_C=geometry.MERGE_CHANNELS,
        num_warps=geometry.WARPS,
    )
    for tensor in (running_mean, running_var):
        if tensor is not None:
            # Autograd must notice that a tensor saved before has changed.
            torch.autograd.graph.increment_version(tensor)
    return statistics


def apply_forward(
    main: Branch,
    other: Branch | None,
    residual: Tensor | None,
    *,
    relu: bool,
    eps: float,
    save_bits: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor | None]:
    """``relu(mask * BN(x) + residual)`` by given statistics, and where its gradient passes ReLU.

    One launch.
    """
    second = other or NO_BRANCH
    out = torch.empty_like(main.x)
    tiles = tiling(out.shape, out.is_contiguous(memory_format=torch.channels_last))
    masks, masks_last = mask_bytes([main, second], tiles.channels_last)
    bits = None
    if save_bits:
        bits = out.new_empty((tiles.rows, -(-tiles.channels // 8)), dtype=torch.uint8)
    device_kernels()[1].apply_forward[(tiles.programs,)](
        main.x,
        *main.vectors(),
        masks[0],
        residual,
        second.x,
        *second.vectors(),
        masks[1],
        out,
        bits,
        eps,
        tiles.rows,
        tiles.channels // tiles.channel_unit,
        tiles.positions,
        C_UNIT=tiles.channel_unit,
        CHANNELS_LAST=tiles.channels_last,
        MASK_CHANNELS_LAST=masks_last,
        WIDE=tiles.wide,
        RELU=relu,
        REVERSE=reverse,
        BLOCK_M=tiles.block_m,
        BLOCK_C=tiles.block_c,
        TILES=geometry.TILES,
        num_warps=geometry.WARPS,
    )
    return out, bits


class ParameterGradients(NamedTuple):
    """Sums [2 or 4,C] in float32, and the gradients that were asked for."""

    sums: Tensor
    weight: Tensor | None
    bias: Tensor | None
    weight2: Tensor | None
    bias2: Tensor | None


def reduce_gradients(
    grad_out: Tensor,
    main: Branch,
    other: Branch | None,
    bits: Tensor | None,
    *,
    relu: bool,
    eps: float,
    wanted: tuple[bool, bool, bool, bool],
) -> ParameterGradients:
    """The sums over rows that every other gradient needs. Two launches.

    wanted: which of weight, bias, weight2, bias2 need a gradient.
    """
    second = other or NO_BRANCH
    branches = 1 if other is None else 2
    tiles = tiling(main.x.shape, main.x.is_contiguous(memory_format=torch.channels_last))
    masks, masks_last = mask_bytes([main, second], tiles.channels_last)
    partials = partial_buffer(main.x, tiles, 2 * branches)
    kernels = device_kernels()[2]
    kernels.partial_gradients[(tiles.chunks * tiles.channel_blocks,)](
        grad_out,
        main.x,
        *main.vectors(),
        masks[0],
        second.x,
        *second.vectors(),
        masks[1],
        bits,
        partials,
        eps,
        tiles.rows,
        tiles.channels // tiles.channel_unit,
        tiles.positions,
        tiles.chunk,
        tiles.chunks,
        C_UNIT=tiles.channel_unit,
        CHANNELS_LAST=tiles.channels_last,
        MASK_CHANNELS_LAST=masks_last,
        WIDE=tiles.wide,
        RELU=relu,
        BLOCK_M=tiles.block_m,
        BLOCK_C=tiles.block_c,
        STAGES=geometry.STAGES,
        num_warps=geometry.WARPS,
    )
    sums = partials.new_empty((2 * branches, tiles.channels))
    parameters = (main.weight, main.bias, second.weight, second.bias)
    grads = [
        torch.empty_like(p) if wants else None for p, wants in zip(parameters, wanted, strict=True)
    ]
    kernels.merge_gradients[(-(-tiles.channels // geometry.MERGE_CHANNELS), branches)](
        partials,
        sums,
        main.var,
        *grads[:2],
        second.var,
        *grads[2:],
        eps,
        tiles.channels,
        tiles.chunks,
        BLOCK_S=tiles.merge_chunks,
        BLOCK_C=geometry.MERGE_CHANNELS,
        num_warps=geometry.WARPS,
    )
    return ParameterGradients(sums, *grads)


def apply_backward(
    grad_out: Tensor,
    main: Branch,
    other: Branch | None,
    bits: Tensor | None,
    sums: Tensor | None,
    *,
    count: float,
    relu: bool,
    eps: float,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, residual and x2, each where ``wanted``. One launch.

    sums: of :func:`reduce_gradients` over ``count`` rows, or None where the statistics were
    constants.
    """
    second = other or NO_BRANCH
    tiles = tiling(main.x.shape, main.x.is_contiguous(memory_format=torch.channels_last))
    masks, masks_last = mask_bytes([main, second], tiles.channels_last)
    grads = [torch.empty_like(main.x) if wants else None for wants in wanted]
    device_kernels()[2].apply_backward[(tiles.programs,)](
        grad_out,
        main.x,
        *main.vectors(),
        masks[0],
        second.x,
        *second.vectors(),
        masks[1],
        bits,
        sums,
        *grads,
        eps,
        1.0 / count,
        tiles.rows,
        tiles.channels // tiles.channel_unit,
        tiles.positions,
        C_UNIT=tiles.channel_unit,
        CHANNELS_LAST=tiles.channels_last,
        MASK_CHANNELS_LAST=masks_last,
        WIDE=tiles.wide,
        RELU=relu,
        REVERSE=sums is not None,
        BLOCK_M=tiles.block_m,
        BLOCK_C=tiles.block_c,
        TILES=geometry.TILES,
        num_warps=geometry.WARPS,
    )
    return tuple(grads)
