"""Launcher of the convolution kernel: tensors in, tensors out, nothing known of autograd."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .call import Branch
from .geometry import power_of_two
from .launch import device_kernels, mask_bytes


class ConvTile(NamedTuple):
    """Tile of output rows, output channels, and of the inner dimension; pipeline stages.

    ``k`` is for half precision: float32 takes half as many, which are as many bytes.
    """

    m: int
    n: int
    k: int
    stages: int

    @property
    def name(self) -> str:
        return f"{self.m}x{self.n}x{self.k}s{self.stages}"


# Among these a shape's tile is chosen by measurement; the first is taken without any. Larger ones
# spill registers on some GPU.
CONV_TILES = (ConvTile(128, 64, 64, 3), ConvTile(64, 64, 64, 4), ConvTile(64, 128, 64, 3))
# Four, and no more: flattened convolution loops over eight warps gave wrong results on Hopper
# with several releases of Triton (triton-lang/triton issue 1254, pytorch/pytorch issue 173068).
CONV_WARPS = 4


class Window(NamedTuple):
    """Stride and padding of a square convolution, both the same in height and width."""

    stride: int
    padding: int


def output_shape(x: Tensor, kernel: Tensor, window: Window) -> tuple[int, int, int, int]:
    def size(n: int, taps: int) -> int:
        return (n + 2 * window.padding - taps) // window.stride + 1

    n, _, height, width = x.shape
    return n, kernel.shape[0], size(height, kernel.shape[2]), size(width, kernel.shape[3])


def convolve(
    x: Tensor,
    kernel: Tensor,
    kernel_bias: Tensor | None,
    window: Window,
    tile: ConvTile,
    *,
    branch: Branch | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
    eps: float = 0.0,
) -> tuple[Tensor, Tensor | None]:
    """Convolution with one of the two epilogues of ``device/convolution.py``. One launch.

    All activations channels_last; ``kernel`` in the dtype of ``x``, channels_last.

    Args:
        branch: the affine parameters, statistics and mask that the epilogue applies (its ``x`` is
            ignored); None to return ``conv(x) + kernel_bias`` and partial statistics instead.

    Returns: the output, and partial statistics [2, ceil(rows / tile.m), C_out] or None.
    """
    n, channels, height, width = output_shape(x, kernel, window)
    out = torch.empty(
        (n, channels, height, width),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )
    rows, chunks = n * height * width, -(-(n * height * width) // tile.m)
    partials, vectors, masks, masks_last = None, (None,) * 4, [None], True
    if branch is None:
        partials = x.new_empty((2, chunks, channels), dtype=torch.float32)
    else:
        vectors = branch.vectors()
        masks, masks_last = mask_bytes(branch.mask)
    in_unit, out_unit = _unit(kernel.shape[1]), _unit(channels)
    # tl.dot takes an inner dimension of 16 at least; a narrow input needs no more.
    block_k = min(tile.k * 2 // x.element_size(), max(16, power_of_two(kernel.shape[1])))
    # A narrow output needs no wider tile, nor its registers.
    block_n = min(tile.n, max(16, power_of_two(channels)))
    device_kernels().convolve[(chunks * -(-channels // block_n),)](
        x,
        kernel,
        kernel_bias,
        *vectors,
        masks[0],
        residual,
        out,
        partials,
        float(eps),
        rows,
        kernel.shape[1] // in_unit,
        channels // out_unit,
        x.shape[2],
        x.shape[3],
        height,
        width,
        chunks,
        IN_UNIT=in_unit,
        OUT_UNIT=out_unit,
        KH=kernel.shape[2],
        KW=kernel.shape[3],
        STRIDE=window.stride,
        PADDING=window.padding,
        MASK_CHANNELS_LAST=masks_last,
        RELU=relu,
        PRECISION=precision(x),
        BLOCK_M=tile.m,
        BLOCK_N=block_n,
        BLOCK_K=block_k,
        num_warps=CONV_WARPS,
        num_stages=tile.stages,
    )
    return out, partials


def precision(x: Tensor) -> str:
    """float32 is multiplied as TF32 on a GPU: anything else has no tensor cores, and no use."""
    return "tf32" if x.dtype == torch.float32 and x.device.type != "cpu" else "ieee"


def _unit(channels: int) -> int:
    return next(u for u in (8, 4, 2, 1) if channels % u == 0)
