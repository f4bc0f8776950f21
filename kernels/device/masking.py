"""The mask on a bare convolution output."""

import triton
import triton.language as tl

from .tiles import load_mask, load_tile, tile_pointers


@triton.jit(do_not_specialize=["M_UNITS"])
def multiply_mask(
    x,
    mask,
    out,
    M_UNITS,
    C_UNITS,
    HW,
    M_UNIT: tl.constexpr,
    C_UNIT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    MASK_CHANNELS_LAST: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TILES: tl.constexpr,
):
    """``out = x * mask``. Reads x once, writes out once.

    Grid: ceil(M / (BLOCK_M * TILES)) * ceil(C / BLOCK_C).
    """
    M = M_UNITS.to(tl.int64) * M_UNIT
    C = C_UNITS * C_UNIT
    c_blocks = tl.cdiv(C, BLOCK_C)
    c = (tl.program_id(0) % c_blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    r = tl.arange(0, BLOCK_M)
    first = (tl.program_id(0) // c_blocks).to(tl.int64) * (BLOCK_M * TILES)
    rows_here = tl.minimum(M - first, BLOCK_M * TILES).to(tl.int32)
    for row in range(0, rows_here, BLOCK_M):
        inside = (r < rows_here - row)[:, None] & (c < C)[None, :]
        at = first + row
        value = load_tile(x, at, r, c, inside, C, HW, CHANNELS_LAST, WIDE)
        value *= load_mask(mask, at, r, c, inside, C, HW, MASK_CHANNELS_LAST, WIDE)
        pointers = tile_pointers(out, at, r, c, C, HW, CHANNELS_LAST, WIDE)
        tl.store(pointers, value.to(out.dtype.element_ty), mask=inside)
