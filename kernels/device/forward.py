"""The forward pass over the activations, in training and evaluation, and the mask alone."""

import triton
import triton.language as tl

from .tiles import (
    load_affine,
    load_mask,
    load_tile,
    masked_branch,
    next_positions,
    passes_relu,
    positions,
    store_bits,
    tile_pointers,
)


@triton.jit(do_not_specialize=["N", "C_UNITS", "TILES"])
def apply_forward(
    main,
    other,
    residual,
    out,
    bits,
    eps,
    N,
    C_UNITS,
    HW,
    TILES,
    C_UNIT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    MASK_CHANNELS_LAST: tl.constexpr,
    RELU: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """``out = relu(mask * BN(x) + residual)``, the residual a tensor or the other branch.

    bits: uint8 [M, ceil(C/8)], set where the gradient passes ReLU, or None. Reads every input
    once, writes out (and bits) once. REVERSE starts at the end, which the pass for the statistics
    has left in the cache. Grid: ceil(M / (BLOCK_M * TILES)) * ceil(C / BLOCK_C).
    """
    C = C_UNITS * C_UNIT
    c_blocks = tl.cdiv(C, BLOCK_C)
    program = tl.program_id(0)
    if REVERSE:
        program = tl.num_programs(0) - 1 - program
    c_block = program % c_blocks
    c = c_block * BLOCK_C + tl.arange(0, BLOCK_C)
    r = tl.arange(0, BLOCK_M)
    affine = load_affine(main, c, C, eps)
    affine2 = load_affine(other, c, C, eps)

    first = (program // c_blocks).to(tl.int64) * BLOCK_M * TILES
    rows = tl.minimum(N * HW - first, BLOCK_M * TILES).to(tl.int32)
    position = positions(first, r, HW)
    for row in range(0, rows, BLOCK_M):
        inside = (r < rows - row)[:, None] & (c < C)[None, :]
        at = first + row
        tile = load_tile(main.x, at, r, c, inside, C, HW, CHANNELS_LAST)
        tile2 = load_tile(other.x, at, r, c, inside, C, HW, CHANNELS_LAST)
        added = load_tile(residual, at, r, c, inside, C, HW, CHANNELS_LAST)
        keep = load_mask(main.mask, position, c, inside, C, HW, MASK_CHANNELS_LAST)
        keep2 = load_mask(other.mask, position, c, inside, C, HW, MASK_CHANNELS_LAST)
        value = masked_branch(tile, affine, keep)
        if tile2 is not None:
            value += masked_branch(tile2, affine2, keep2)
        if added is not None:
            value += added
        # Rounded before ReLU, so that the sign is that of the stored value, as in eager.
        value = value.to(out.dtype.element_ty)
        if RELU:
            alive = passes_relu(value)
            value = tl.where(alive, value, 0.0).to(out.dtype.element_ty)
            if bits is not None:
                store_bits(bits, alive, at, rows - row, c_block, C, BLOCK_M, BLOCK_C)
        tl.store(tile_pointers(out, at, r, c, C, HW, CHANNELS_LAST), value, mask=inside)
        position = next_positions(position, at + BLOCK_M, r, HW, BLOCK_M, CHANNELS_LAST)


@triton.jit(do_not_specialize=["N", "C_UNITS", "TILES"])
def multiply_mask(
    x,
    mask,
    out,
    N,
    C_UNITS,
    HW,
    TILES,
    C_UNIT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    MASK_CHANNELS_LAST: tl.constexpr,
):
    """``out = x * mask``. Reads x once, writes out once.

    Grid: ceil(M / (BLOCK_M * TILES)) * ceil(C / BLOCK_C).
    """
    C = C_UNITS * C_UNIT
    c_blocks = tl.cdiv(C, BLOCK_C)
    c = (tl.program_id(0) % c_blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    r = tl.arange(0, BLOCK_M)
    first = (tl.program_id(0) // c_blocks).to(tl.int64) * BLOCK_M * TILES
    rows = tl.minimum(N * HW - first, BLOCK_M * TILES).to(tl.int32)
    position = positions(first, r, HW)
    for row in range(0, rows, BLOCK_M):
        inside = (r < rows - row)[:, None] & (c < C)[None, :]
        at = first + row
        value = load_tile(x, at, r, c, inside, C, HW, CHANNELS_LAST)
        value *= load_mask(mask, position, c, inside, C, HW, MASK_CHANNELS_LAST)
        pointers = tile_pointers(out, at, r, c, C, HW, CHANNELS_LAST)
        tl.store(pointers, value.to(out.dtype.element_ty), mask=inside)
        position = next_positions(position, at + BLOCK_M, r, HW, BLOCK_M, CHANNELS_LAST)
