"""Launchers: tensors in, tensors out, nothing known of autograd.

The kernels are in ``device/``, imported at the first launch.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor

from . import geometry
from .call import NO_BRANCH, Branch
from .geometry import Tiling, tiling


@cache
def device_kernels() -> SimpleNamespace:
    """Every kernel by name. Imports Triton."""
    from .device import backward, convolution, forward, masking, statistics

    kernels = (
        statistics.partial_statistics,
        statistics.merge_statistics,
        forward.apply_forward,
        backward.partial_gradients,
        backward.merge_gradients,
        backward.apply_backward,
        masking.multiply_mask,
        convolution.convolve,
    )
    return SimpleNamespace(**{kernel.__name__: kernel for kernel in kernels})


def memory_format(x: Tensor) -> torch.memory_format:
    """The format that the kernels work in: the tensor's own, channels_last if it has neither."""
    if x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    if x.is_contiguous():
        return torch.contiguous_format
    return torch.channels_last


def tiling_of(x: Tensor) -> Tiling:
    """The tiling of an activation that is dense in one of the two memory formats."""
    last = x.is_contiguous(memory_format=torch.channels_last)
    return tiling(x.shape, last, x.element_size())


def on_device(x: Tensor):
    """Triton launches on the current device: make it the tensor's."""
    if x.is_cuda and x.device.index != torch.cuda.current_device():
        return torch.cuda.device(x.device)
    return nullcontext()


def mask_bytes(*masks: Tensor | None) -> tuple[list[Tensor | None], bool]:
    """The masks as bytes, and whether their memory order is that of channels_last images.

    Read as they lie, if they all lie alike in one of the two orders. A network that runs in
    channels_last should keep its masks in that order: then eight mask bytes are one load.
    """
    masks = [None if m is None else m.view(torch.uint8) for m in masks]
    given = [m for m in masks if m is not None]
    if all(_ordered_like_channels_last(m) for m in given):
        return masks, True
    if all(m.is_contiguous() for m in given):
        return masks, False
    permuted = [None if m is None else m.permute(1, 2, 0).contiguous() for m in masks]
    return [None if m is None else m.permute(2, 0, 1) for m in permuted], True


def _ordered_like_channels_last(mask: Tensor) -> bool:
    return mask.permute(1, 2, 0).is_contiguous()


def batch_statistics(branches: list[Branch], momentum: float) -> list[tuple[Tensor, Tensor]]:
    """Mean and biased variance [C] in float32 of one branch or two.

    A branch's ``mean`` and ``var`` are its running statistics, updated in place unless None.
    Two launches, whatever the number of branches; reads each activation once.
    """
    x = branches[0].x
    tiles = tiling_of(x)
    # No mask is read here, so the tile may be larger: more loads are under way at once.
    tiles = tiles._replace(block_m=2 * tiles.block_m)
    partials = _partial_buffer(x, 2 * len(branches), tiles)
    device_kernels().partial_statistics[(tiles.chunks * tiles.channel_blocks, len(branches))](
        x,
        branches[1].x if len(branches) > 1 else None,
        partials,
        *tiles.sizes,
        tiles.chunk // tiles.row_unit,
        tiles.chunks,
        **tiles.constants,
        STAGES=geometry.STAGES,
    )
    running = [(branch.mean, branch.var) for branch in branches]
    return merge_statistics(partials, tiles.rows, tiles.chunk, running, momentum)


def _partial_buffer(x: Tensor, sums: int, tiles: Tiling) -> Tensor:
    return x.new_empty((sums, tiles.chunks, tiles.channels), dtype=torch.float32)


def merge_statistics(
    partials: Tensor,
    rows: int,
    chunk: int,
    running: list[tuple[Tensor | None, Tensor | None]],
    momentum: float,
) -> list[tuple[Tensor, Tensor]]:
    """Merge partial statistics [2 * branches,chunks,C] of ``chunk`` rows each, the last shorter.

    Mean and biased variance [C] of each branch; its running statistics are updated in place
    unless they are None. One launch.
    """
    _, chunks, channels = partials.shape
    merged = [(partials.new_empty(channels), partials.new_empty(channels)) for _ in running]
    outputs = []
    for new, old in zip(merged, running, strict=True):
        outputs += [*new, *old]
    outputs += [None] * (8 - len(outputs))
    device_kernels().merge_statistics[(-(-channels // geometry.MERGE_CHANNELS), len(running))](
        partials,
        *outputs,
        float(momentum),  # an integer would be another kernel
        rows,
        channels,
        chunk,
        chunks,
        BLOCK_S=geometry.merge_chunks(chunks),
        BLOCK_C=geometry.MERGE_CHANNELS,
        num_warps=geometry.WARPS,
    )
    for pair in running:
        if pair[0] is not None:
            # Autograd must notice that tensors which it saved before have changed.
            torch.autograd.graph.increment_version(pair)
    return merged


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
    tiles = tiling_of(out)
    masks, masks_last = mask_bytes(main.mask, second.mask)
    bits = None
    if save_bits:
        bits = out.new_empty((tiles.rows, -(-tiles.channels // 8)), dtype=torch.uint8)
    device_kernels().apply_forward[(tiles.programs,)](
        main.x,
        *main.vectors(),
        masks[0],
        residual,
        second.x,
        *second.vectors(),
        masks[1],
        out,
        bits,
        float(eps),
        *tiles.sizes,
        **tiles.constants,
        MASK_CHANNELS_LAST=masks_last,
        RELU=relu,
        REVERSE=reverse,
        TILES=geometry.TILES,
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
    tiles = tiling_of(main.x)
    masks, masks_last = mask_bytes(main.mask, second.mask)
    partials = _partial_buffer(main.x, 2 * branches, tiles)
    kernels = device_kernels()
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
        float(eps),
        *tiles.sizes,
        tiles.chunk // tiles.row_unit,
        tiles.chunks,
        **tiles.constants,
        MASK_CHANNELS_LAST=masks_last,
        RELU=relu,
        STAGES=geometry.STAGES,
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
        float(eps),
        tiles.channels,
        tiles.chunks,
        BLOCK_S=geometry.merge_chunks(tiles.chunks),
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
    tiles = tiling_of(main.x)
    masks, masks_last = mask_bytes(main.mask, second.mask)
    grads = [torch.empty_like(main.x) if wants else None for wants in wanted]
    device_kernels().apply_backward[(tiles.programs,)](
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
        float(eps),
        1.0 / count,
        *tiles.sizes,
        **tiles.constants,
        MASK_CHANNELS_LAST=masks_last,
        RELU=relu,
        REVERSE=sums is not None,
        TILES=geometry.TILES,
    )
    return tuple(grads)
