"""The forward pass over the activations, in training and evaluation."""

import triton
import triton.language as tl

from .tiles import (
    channel_affine,
    load_tile,
    masked_branch,
    passes_relu,
    store_bits,
    tile_pointers,
)


@triton.jit(do_not_specialize=["M_UNITS"])
def apply_forward(
    x,
    weight,
    bias,
    mean,
    var,
    mask,
    residual,
    x2,
    weight2,
    bias2,
    mean2,
    var2,
    mask2,
    out,
    bits,
    eps,
    M_UNITS,
    C_UNITS,
    HW,
    M_UNIT: tl.constexpr,
    C_UNIT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    MASK_CHANNELS_LAST: tl.constexpr,
    WIDE: tl.constexpr,
    RELU: tl.constexpr,
    REVERSE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TILES: tl.constexpr,
):
    """``out = relu(mask * BN(x) + residual)``, the residual a tensor or ``mask2 * BN(x2)``.

    bits: uint8 [M, ceil(C/8)], set where the gradient passes ReLU, or None. Reads every input
    once, writes out (and bits) once. REVERSE starts at the end, which the pass for the statistics
    has left in the cache. Grid: ceil(M / (BLOCK_M * TILES)) * ceil(C / BLOCK_C).
    """
    M = M_UNITS.to(tl.int64) * M_UNIT
    C = C_UNITS * C_UNIT
    c_blocks = tl.cdiv(C, BLOCK_C)
    program = tl.program_id(0)
    if REVERSE:
        program = tl.num_programs(0) - 1 - program
    c_block = program % c_blocks
    c = c_block * BLOCK_C + tl.arange(0, BLOCK_C)
    r = tl.arange(0, BLOCK_M)
    mean_c, scale_c, bias_c, _ = channel_affine(weight, bias, mean, var, c, C, eps)
    if x2 is not None:
        mean2_c, scale2_c, bias2_c, _ = channel_affine(weight2, bias2, mean2, var2, c, C, eps)

    first = (program // c_blocks).to(tl.int64) * (BLOCK_M * TILES)
    rows_here = tl.minimum(M - first, BLOCK_M * TILES).to(tl.int32)
    for row in range(0, rows_here, BLOCK_M):
        inside = (r < rows_here - row)[:, None] & (c < C)[None, :]
        at = first + row
        tile = load_tile(x, at, r, c, inside, C, HW, CHANNELS_LAST, WIDE)
        value = masked_branch(tile, mean_c, scale_c, bias_c, mask, at, r, c, inside, C, HW,
                              MASK_CHANNELS_LAST, WIDE)  # fmt: skip
        if residual is not None:
            value += load_tile(residual, at, r, c, inside, C, HW, CHANNELS_LAST, WIDE)
        if x2 is not None:
            tile = load_tile(x2, at, r, c, inside, C, HW, CHANNELS_LAST, WIDE)
            value += masked_branch(tile, mean2_c, scale2_c, bias2_c, mask2, at, r, c, inside, C,
                                   HW, MASK_CHANNELS_LAST, WIDE)  # fmt: skip
        # Rounded before ReLU, so that the sign is that of the stored value, as in eager.
        value = value.to(out.dtype.element_ty)
        if RELU:
            alive = passes_relu(value)
            value = tl.where(alive, value, 0.0).to(out.dtype.element_ty)
            if bits is not None:
                store_bits(bits, alive, at, rows_here - row, c_block, C, BLOCK_M, BLOCK_C)
        pointers = tile_pointers(out, at, r, c, C, HW, CHANNELS_LAST, WIDE)
        tl.store(pointers, value, mask=inside)
