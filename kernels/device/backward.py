"""The backward pass: sums over the rows of each channel, then the gradients of the activations.

With g = grad_out where ReLU let the value pass, g1 = mask * g, and sums over the N*H*W rows,

    d bias   = sum g1
    d weight = sum g1 * (x - mean) / std
    d x      = weight/std * (g1 - (d bias)/n - (x - mean)/std * (d weight)/n)   by batch statistics
    d x      = weight/std * g1                                                  by running ones
    d residual = g

and the same with mask2 and x2 for a second branch. Masked rows have g1 = 0 and still get the
terms of the statistics.
"""

import triton
import triton.language as tl

from .tiles import (
    load_affine,
    load_bits,
    load_channel,
    load_mask,
    load_tile,
    masked_branch,
    next_positions,
    passes_relu,
    positions,
    tile_pointers,
    unpack_bits,
)


@triton.jit
def past_relu(
    grad,
    tile,
    affine,
    keep,
    tile2,
    affine2,
    keep2,
    packed,
    dtype: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """grad_out where ReLU let the value pass: by the saved bits, else by computing it again."""
    if packed is not None:
        alive = unpack_bits(packed, BLOCK_M, BLOCK_C)
    else:
        value = masked_branch(tile, affine, keep)
        if tile2 is not None:
            value += masked_branch(tile2, affine2, keep2)
        alive = passes_relu(value.to(dtype))
    return tl.where(alive, grad, 0.0)


@triton.jit
def times(value, keep):
    """``value * keep``, where there is a mask."""
    if keep is not None:
        value *= keep
    return value


@triton.jit(do_not_specialize=["N", "C_UNITS", "CHUNK_TILES", "CHUNKS"])
def partial_gradients(
    grad_out,
    main,
    other,
    bits,
    partials,
    eps,
    N,
    C_UNITS,
    HW,
    CHUNK_TILES,
    CHUNKS,
    C_UNIT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    MASK_CHANNELS_LAST: tl.constexpr,
    RELU: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Sums over chunks of CHUNK_TILES * BLOCK_M rows: g1 and g1 * (x - mean) of each branch.

    partials: float32 [branches, 2, CHUNKS, C]. Reads grad_out, x, x2 and bits once.
    Grid: CHUNKS * ceil(C / BLOCK_C).
    """
    C = C_UNITS * C_UNIT
    c_blocks = tl.cdiv(C, BLOCK_C)
    chunk = tl.program_id(0) // c_blocks
    c_block = tl.program_id(0) % c_blocks
    c = c_block * BLOCK_C + tl.arange(0, BLOCK_C)
    r = tl.arange(0, BLOCK_M)
    affine = load_affine(main, c, C, eps)
    affine2 = load_affine(other, c, C, eps)
    start = chunk.to(tl.int64) * BLOCK_M * CHUNK_TILES
    rows = tl.minimum(N * HW - start, BLOCK_M * CHUNK_TILES).to(tl.int32)

    sum1 = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    dot1 = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    sum2 = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    dot2 = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    position = positions(start, r, HW)
    # Single bytes cannot be copied ahead by the pipeline: the next tile's are loaded by hand.
    packed = load_bits(bits, start, rows, c_block, C, BLOCK_M, BLOCK_C)
    for row in tl.range(0, rows, BLOCK_M, num_stages=STAGES):
        at = start + row
        inside = (r < rows - row)[:, None] & (c < C)[None, :]
        tile = load_tile(main.x, at, r, c, inside, C, HW, CHANNELS_LAST)
        tile2 = load_tile(other.x, at, r, c, inside, C, HW, CHANNELS_LAST)
        grad = load_tile(grad_out, at, r, c, inside, C, HW, CHANNELS_LAST)
        keep = load_mask(main.mask, position, c, inside, C, HW, MASK_CHANNELS_LAST)
        keep2 = load_mask(other.mask, position, c, inside, C, HW, MASK_CHANNELS_LAST)
        if RELU:
            grad = past_relu(grad, tile, affine, keep, tile2, affine2, keep2, packed,
                             main.x.dtype.element_ty, BLOCK_M, BLOCK_C)  # fmt: skip
            if bits is not None:
                packed = load_bits(bits, at + BLOCK_M, rows - row - BLOCK_M, c_block, C, BLOCK_M,
                                   BLOCK_C)  # fmt: skip
        grad1 = times(grad, keep)
        sum1 += grad1
        dot1 += grad1 * (tile - affine[0][None, :])
        if tile2 is not None:
            grad2 = times(grad, keep2)
            sum2 += grad2
            dot2 += grad2 * (tile2 - affine2[0][None, :])
        position = next_positions(position, at + BLOCK_M, r, HW, BLOCK_M, CHANNELS_LAST)
    out = partials + chunk.to(tl.int64) * C + c
    step = CHUNKS.to(tl.int64) * C
    tl.store(out, tl.sum(sum1, axis=0), mask=c < C)
    tl.store(out + step, tl.sum(dot1, axis=0), mask=c < C)
    if other.x is not None:
        tl.store(out + 2 * step, tl.sum(sum2, axis=0), mask=c < C)
        tl.store(out + 3 * step, tl.sum(dot2, axis=0), mask=c < C)


@triton.jit(do_not_specialize=["CHUNKS"])
def merge_gradients(
    partials,
    sums,
    var,
    grads,
    var2,
    grads2,
    eps,
    C,
    CHUNKS,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Add the chunks in a fixed order.

    sums: float32 [branches, 2, C], written. grads, grads2: pairs (of weight, of bias) of vectors
    [C], each written unless it is None. Grid: (ceil(C / BLOCK_C), branches).
    """
    branch = tl.program_id(1)
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    s = tl.arange(0, BLOCK_S)
    channels = c < C
    if var2 is not None:
        if branch == 1:
            var = var2
    inverse = tl.rsqrt(load_channel(var, c, C, 1.0) + eps)
    step = CHUNKS.to(tl.int64) * C
    start = partials + 2 * branch * step
    plain = tl.zeros((BLOCK_S, BLOCK_C), tl.float32)
    dot = tl.zeros((BLOCK_S, BLOCK_C), tl.float32)
    for block in range(0, CHUNKS, BLOCK_S):
        chunk = block + s
        inside = (chunk < CHUNKS)[:, None] & channels[None, :]
        pointers = start + chunk[:, None] * C + c[None, :]
        plain += tl.load(pointers, mask=inside, other=0.0)
        dot += tl.load(pointers + step, mask=inside, other=0.0)
    plain = tl.sum(plain, axis=0)
    dot = tl.sum(dot, axis=0)
    tl.store(sums + 2 * branch * C + c, plain, mask=channels)
    tl.store(sums + (2 * branch + 1) * C + c, dot, mask=channels)
    store_channel(grads[0], dot * inverse, c, channels & (branch == 0))
    store_channel(grads[1], plain, c, channels & (branch == 0))
    store_channel(grads2[0], dot * inverse, c, channels & (branch == 1))
    store_channel(grads2[1], plain, c, channels & (branch == 1))


@triton.jit
def store_channel(ptr, value, c, inside):
    if ptr is not None:
        tl.store(ptr + c, value.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def statistics_terms(sums, branch: tl.constexpr, affine, inverse_count, c, C):
    """The two vectors of dx that come from the batch statistics: a constant and a slope."""
    constant = load_channel(sums + 2 * branch * C, c, C, 0.0) * inverse_count
    slope = load_channel(sums + (2 * branch + 1) * C, c, C, 0.0) * inverse_count
    return constant, slope * (affine[3] * affine[3])


@triton.jit
def input_gradient(grad, tile, affine, keep, terms):
    """dx of one branch, from the gradient past ReLU."""
    value = times(grad, keep)
    if terms[0] is not None:
        value -= terms[0][None, :] + (tile - affine[0][None, :]) * terms[1][None, :]
    return value * affine[1][None, :]


@triton.jit(do_not_specialize=["N", "C_UNITS", "TILES"])
def apply_backward(
    grad_out,
    main,
    other,
    bits,
    sums,
    grad_x,
    grad_residual,
    grad_x2,
    inverse_count,
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
    """The gradients of the activations; those that nobody asked for are None.

    sums: float32 [branches, 2, C] of ``merge_gradients`` where the branches were normalised by
    batch statistics, None for running statistics. Reads every activation once, and x, x2 only
    where their values matter. Grid: ceil(M / (BLOCK_M * TILES)) * ceil(C / BLOCK_C).
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
    # None where the statistics were constants. (Triton 3.6 has no function return a tuple of None.)
    terms, terms2 = (None, None), (None, None)
    if sums is not None:
        terms = statistics_terms(sums, 0, affine, inverse_count, c, C)
        if other.x is not None:
            terms2 = statistics_terms(sums, 1, affine2, inverse_count, c, C)
    VALUES: tl.constexpr = sums is not None or (RELU and bits is None)

    first = (program // c_blocks).to(tl.int64) * BLOCK_M * TILES
    rows = tl.minimum(N * HW - first, BLOCK_M * TILES).to(tl.int32)
    position = positions(first, r, HW)
    for row in range(0, rows, BLOCK_M):
        inside = (r < rows - row)[:, None] & (c < C)[None, :]
        at = first + row
        tile, tile2 = None, None
        if VALUES:
            tile = load_tile(main.x, at, r, c, inside, C, HW, CHANNELS_LAST)
            tile2 = load_tile(other.x, at, r, c, inside, C, HW, CHANNELS_LAST)
        grad = load_tile(grad_out, at, r, c, inside, C, HW, CHANNELS_LAST)
        keep = load_mask(main.mask, position, c, inside, C, HW, MASK_CHANNELS_LAST)
        keep2 = load_mask(other.mask, position, c, inside, C, HW, MASK_CHANNELS_LAST)
        if RELU:
            packed = load_bits(bits, at, rows - row, c_block, C, BLOCK_M, BLOCK_C)
            grad = past_relu(grad, tile, affine, keep, tile2, affine2, keep2, packed,
                             grad_out.dtype.element_ty, BLOCK_M, BLOCK_C)  # fmt: skip
        if grad_x is not None:
            value = input_gradient(grad, tile, affine, keep, terms)
            pointers = tile_pointers(grad_x, at, r, c, C, HW, CHANNELS_LAST)
            tl.store(pointers, value.to(grad_x.dtype.element_ty), mask=inside)
        if grad_residual is not None:
            pointers = tile_pointers(grad_residual, at, r, c, C, HW, CHANNELS_LAST)
            tl.store(pointers, grad.to(grad_residual.dtype.element_ty), mask=inside)
        if grad_x2 is not None:
            value = input_gradient(grad, tile2, affine2, keep2, terms2)
            pointers = tile_pointers(grad_x2, at, r, c, C, HW, CHANNELS_LAST)
            tl.store(pointers, value.to(grad_x2.dtype.element_ty), mask=inside)
        position = next_positions(position, at + BLOCK_M, r, HW, BLOCK_M, CHANNELS_LAST)
