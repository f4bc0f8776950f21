"""Convolution as an implicit matrix product, with the rest of the layer in its epilogue.

Rows are output positions (image, height, width), columns output channels, and the inner dimension
runs over kernel taps and input channels. Everything is channels_last; the weight is
[C_out, KH, KW, C_in] in memory, which is what channels_last makes of a weight [C_out,C_in,KH,KW].
"""

import triton
import triton.language as tl

from .tiles import (
    load_affine,
    load_channel,
    load_mask,
    load_tile,
    masked_branch,
    passes_relu,
    positions,
    tile_pointers,
)


@triton.jit(do_not_specialize=["M", "CHUNKS"])
def convolve(
    x,
    kernel,
    kernel_bias,
    branch,
    residual,
    out,
    partials,
    eps,
    M,
    IN_UNITS,
    OUT_UNITS,
    H,
    W,
    OUT_H,
    OUT_W,
    CHUNKS,
    IN_UNIT: tl.constexpr,
    OUT_UNIT: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    MASK_CHANNELS_LAST: tl.constexpr,
    RELU: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One of two epilogues.

    partials is None: ``out = relu(mask * BN(conv(x) + kernel_bias) + residual)`` by the statistics
    of ``branch`` (which has no x of its own), all of it on the float32 accumulator, so nothing is
    rounded before ``out``.

    partials float32 [2, CHUNKS, C_out]: ``out = conv(x) + kernel_bias``, and mean and M2 of each
    tile's rows, as ``statistics.partial_statistics`` writes them for chunks of BLOCK_M rows.

    M = N * OUT_H * OUT_W rows. Grid: ceil(M / BLOCK_M) * ceil(C_out / BLOCK_N).
    """
    IN = IN_UNITS * IN_UNIT
    OUT = OUT_UNITS * OUT_UNIT
    column_blocks = tl.cdiv(OUT, BLOCK_N)
    # Neighbouring programs share the rows of x, which are larger than the kernel.
    row_block = tl.program_id(0) // column_blocks
    c = (tl.program_id(0) % column_blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    r = tl.arange(0, BLOCK_M)
    first = row_block.to(tl.int64) * BLOCK_M
    rows = tl.minimum(M - first, BLOCK_M).to(tl.int32)

    m = first + r
    top = (m // OUT_W % OUT_H).to(tl.int32) * STRIDE - PADDING
    left = (m % OUT_W).to(tl.int32) * STRIDE - PADDING
    image = m // (OUT_W * OUT_H)
    corner = ((image * H + top) * W + left) * IN

    k = tl.arange(0, BLOCK_K)
    slices = tl.cdiv(IN, BLOCK_K)
    accumulator = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(0, KH * KW * slices):
        tap = step // slices
        channel = (step % slices) * BLOCK_K + k
        dy = tap // KW
        dx = tap % KW
        here = (r < rows) & (top + dy >= 0) & (top + dy < H) & (left + dx >= 0) & (left + dx < W)
        pointers = x + corner[:, None] + ((dy * W + dx) * IN + channel)[None, :]
        a = tl.load(pointers, mask=here[:, None] & (channel < IN)[None, :], other=0.0)
        pointers = kernel + c[None, :] * (KH * KW * IN) + (tap * IN + channel)[:, None]
        b = tl.load(pointers, mask=(channel < IN)[:, None] & (c < OUT)[None, :], other=0.0)
        accumulator = tl.dot(a, b, accumulator, input_precision=PRECISION)

    if kernel_bias is not None:
        accumulator += load_channel(kernel_bias, c, OUT, 0.0)[None, :]
    if partials is not None:
        store_with_statistics(accumulator, out, partials, first, row_block, rows, r, c, OUT,
                              OUT_H * OUT_W, CHUNKS)  # fmt: skip
    else:
        # In two halves of the columns: a whole tile of addresses beside the accumulator would
        # not fit the registers.
        left_half, right_half = tl.split(
            tl.permute(tl.reshape(accumulator, (BLOCK_M, 2, BLOCK_N // 2)), (0, 2, 1))
        )
        c = (tl.program_id(0) % column_blocks) * BLOCK_N + tl.arange(0, BLOCK_N // 2)
        store_normalised(left_half, branch, residual, out, eps, first, rows, r, c, OUT,
                         OUT_H * OUT_W, MASK_CHANNELS_LAST, RELU)  # fmt: skip
        store_normalised(right_half, branch, residual, out, eps, first, rows, r, c + BLOCK_N // 2,
                         OUT, OUT_H * OUT_W, MASK_CHANNELS_LAST, RELU)  # fmt: skip


@triton.jit
def store_with_statistics(value, out, partials, first, chunk, rows, r, c, C, HW, CHUNKS):
    """Store the convolution's output; mean and M2 of its rows, as rounded, as one chunk."""
    inside = (r < rows)[:, None] & (c < C)[None, :]
    value = value.to(out.dtype.element_ty)
    tl.store(tile_pointers(out, first, r, c, C, HW, True), value, mask=inside)
    value = tl.where(inside, value.to(tl.float32), 0.0)
    mean = tl.sum(value, axis=0) / rows.to(tl.float32)
    deviation = tl.where(inside, value - mean[None, :], 0.0)
    chunk_out = partials + chunk.to(tl.int64) * C + c
    tl.store(chunk_out, mean, mask=c < C)
    m2 = tl.sum(deviation * deviation, axis=0)
    tl.store(chunk_out + CHUNKS.to(tl.int64) * C, m2, mask=c < C)


@triton.jit
def store_normalised(value, branch, residual, out, eps, first, rows, r, c, C, HW,
                     MASK_CHANNELS_LAST: tl.constexpr, RELU: tl.constexpr):  # fmt: skip
    """Store ``relu(mask * BN(value) + residual)``, rounded once."""
    inside = (r < rows)[:, None] & (c < C)[None, :]
    position = positions(first, r, HW)
    keep = load_mask(branch.mask, position, c, inside, C, HW, MASK_CHANNELS_LAST)
    value = masked_branch(value, load_affine(branch, c, C, eps), keep)
    if residual is not None:
        value += load_tile(residual, first, r, c, inside, C, HW, True)
    value = value.to(out.dtype.element_ty)
    if RELU:
        value = tl.where(passes_relu(value), value, 0.0).to(out.dtype.element_ty)
    tl.store(tile_pointers(out, first, r, c, C, HW, True), value, mask=inside)
