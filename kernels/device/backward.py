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
    channel_affine,
    load_bits,
    load_channel,
    load_mask,
    load_tile,
    masked_branch,
    passes_relu,
    tile_pointers,
)


@triton.jit
def gradient_past_relu(
    grad_out,
    x_tile,
    mean,
    scale,
    bias,
    mask,
    x2_tile,
    mean2,
    scale2,
    bias2,
    mask2,
    bits,
    first,
    rows,
    r,
    c,
    c_block,
    inside,
    C,
    HW,
    dtype: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    MASK_CHANNELS_LAST: tl.constexpr,
    WIDE: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """grad_out where ReLU let the value pass: by the saved bits, else by computing it again."""
    grad = load_tile(grad_out, first, r, c, inside, C, HW, CHANNELS_LAST, WIDE)
    if RELU:
        if bits is not None:
            alive = load_bits(bits, first, rows, c_block, C, BLOCK_M, BLOCK_C)
        else:
            value = masked_branch(x_tile, mean, scale, bias, mask, first, r, c, inside, C, HW,
                                  MASK_CHANNELS_LAST, WIDE)  # fmt: skip
            if x2_tile is not None:
                value += masked_branch(x2_tile, mean2, scale2, bias2, mask2, first, r, c, inside,
                                       C, HW, MASK_CHANNELS_LAST, WIDE)  # fmt: skip
            alive = passes_relu(value.to(dtype))
        grad = tl.where(alive, grad, 0.0)
    return grad


@triton.jit(do_not_specialize=["M_UNITS", "CHUNK_UNITS", "CHUNKS"])
def partial_gradients(
    grad_out,
    x,
    weight,
    bias,
    mean,
    var,
    mask,
    x2,
    weight2,
    bias2,
    mean2,
    var2,
    mask2,
    bits,
    partials,
    eps,
    M_UNITS,
    C_UNITS,
    HW,
    CHUNK_UNITS,
    CHUNKS,
    M_UNIT: tl.constexpr,
    C_UNIT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    MASK_CHANNELS_LAST: tl.constexpr,
    WIDE: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Sums over chunks of CHUNK rows: g1 and g1 * (x - mean), then the same of the second branch.

    partials: float32 [2 or 4, CHUNKS, C]. Reads grad_out, x, x2 and bits once.
    Grid: CHUNKS * ceil(C / BLOCK_C).
    """
    M = M_UNITS.to(tl.int64) * M_UNIT
    C = C_UNITS * C_UNIT
    c_blocks = tl.cdiv(C, BLOCK_C)
    chunk = tl.program_id(0) // c_blocks
    c_block = tl.program_id(0) % c_blocks
    c = c_block * BLOCK_C + tl.arange(0, BLOCK_C)
    r = tl.arange(0, BLOCK_M)
    mean_c, scale_c, bias_c, _ = channel_affine(weight, bias, mean, var, c, C, eps)
    mean2_c, scale2_c, bias2_c = mean_c, scale_c, bias_c
    if x2 is not None:
        mean2_c, scale2_c, bias2_c, _ = channel_affine(weight2, bias2, mean2, var2, c, C, eps)
    CHUNK = CHUNK_UNITS * M_UNIT
    start = chunk.to(tl.int64) * CHUNK
    rows = tl.minimum(M - start, CHUNK).to(tl.int32)

    sum1 = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    dot1 = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    sum2 = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    dot2 = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for row in tl.range(0, rows, BLOCK_M, num_stages=STAGES):
        at = start + row
        inside = (r < rows - row)[:, None] & (c < C)[None, :]
        tile = load_tile(x, at, r, c, inside, C, HW, CHANNELS_LAST, WIDE)
        tile2 = None
        if x2 is not None:
            tile2 = load_tile(x2, at, r, c, inside, C, HW, CHANNELS_LAST, WIDE)
        grad = gradient_past_relu(
            grad_out, tile, mean_c, scale_c, bias_c, mask, tile2, mean2_c, scale2_c, bias2_c,
            mask2, bits, at, rows - row, r, c, c_block, inside, C, HW, x.dtype.element_ty,
            CHANNELS_LAST, MASK_CHANNELS_LAST, WIDE, RELU, BLOCK_M, BLOCK_C,
        )  # fmt: skip
        grad1 = grad
        if mask is not None:
            grad1 *= load_mask(mask, at, r, c, inside, C, HW, MASK_CHANNELS_LAST, WIDE)
        sum1 += grad1
        dot1 += grad1 * (tile - mean_c[None, :])
        if x2 is not None:
            if mask2 is not None:
                grad *= load_mask(mask2, at, r, c, inside, C, HW, MASK_CHANNELS_LAST, WIDE)
            sum2 += grad
            dot2 += grad * (tile2 - mean2_c[None, :])
    out = partials + chunk.to(tl.int64) * C + c
    step = CHUNKS.to(tl.int64) * C
    tl.store(out, tl.sum(sum1, axis=0), mask=c < C)
    tl.store(out + step, tl.sum(dot1, axis=0), mask=c < C)
    if x2 is not None:
        tl.store(out + 2 * step, tl.sum(sum2, axis=0), mask=c < C)
        tl.store(out + 3 * step, tl.sum(dot2, axis=0), mask=c < C)


@triton.jit(do_not_specialize=["CHUNKS"])
def merge_gradients(
    partials,
    sums,
    var,
    grad_weight,
    grad_bias,
    var2,
    grad_weight2,
    grad_bias2,
    eps,
    C,
    CHUNKS,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Add the chunks in a fixed order: sums float32 [2 or 4, C], and the parameters' gradients.

    Grid: (ceil(C / BLOCK_C), branches).
    """
    branch = tl.program_id(1)
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    s = tl.arange(0, BLOCK_S)
    channels = c < C
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
    if branch == 0:
        store_parameter_gradients(grad_weight, grad_bias, var, plain, dot, c, C, eps)
    else:
        store_parameter_gradients(grad_weight2, grad_bias2, var2, plain, dot, c, C, eps)


@triton.jit
def store_parameter_gradients(grad_weight, grad_bias, var, plain, dot, c, C, eps):
    if grad_weight is not None:
        value = dot * tl.rsqrt(load_channel(var, c, C, 1.0) + eps)
        tl.store(grad_weight + c, value.to(grad_weight.dtype.element_ty), mask=c < C)
    if grad_bias is not None:
        tl.store(grad_bias + c, plain.to(grad_bias.dtype.element_ty), mask=c < C)


@triton.jit
def statistics_terms(sums, branch: tl.constexpr, inverse, inverse_count, c, C):
    """The two vectors of dx that come from the batch statistics: a constant and a slope."""
    constant = load_channel(sums + 2 * branch * C, c, C, 0.0) * inverse_count
    slope = load_channel(sums + (2 * branch + 1) * C, c, C, 0.0) * inverse_count
    return constant, slope * inverse * inverse


@triton.jit(do_not_specialize=["M_UNITS"])
def apply_backward(
    grad_out,
    x,
    weight,
    bias,
    mean,
    var,
    mask,
    x2,
    weight2,
    bias2,
    mean2,
    var2,
    mask2,
    bits,
    sums,
    grad_x,
    grad_residual,
    grad_x2,
    eps,
    inverse_count,
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
    """The gradients of the activations; those that nobody asked for are None.

    sums: float32 [2 or 4, C] of ``merge_gradients`` where the branches were normalised by batch
    statistics, None for running statistics. Reads every activation once, and x, x2 only where
    their values matter. Grid: ceil(M / (BLOCK_M * TILES)) * ceil(C / BLOCK_C).
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
    RECOMPUTE: tl.constexpr = RELU and bits is None
    mean_c, scale_c, bias_c, inverse = channel_affine(weight, bias, mean, var, c, C, eps)
    mean2_c, scale2_c, bias2_c = mean_c, scale_c, bias_c
    if x2 is not None:
        mean2_c, scale2_c, bias2_c, inverse2 = channel_affine(
            weight2, bias2, mean2, var2, c, C, eps
        )
    if sums is not None:
        constant, slope = statistics_terms(sums, 0, inverse, inverse_count, c, C)
        if x2 is not None:
            constant2, slope2 = statistics_terms(sums, 1, inverse2, inverse_count, c, C)

    first = (program // c_blocks).to(tl.int64) * (BLOCK_M * TILES)
    rows_here = tl.minimum(M - first, BLOCK_M * TILES).to(tl.int32)
    for row in range(0, rows_here, BLOCK_M):
        inside = (r < rows_here - row)[:, None] & (c < C)[None, :]
        at = first + row
        tile, tile2 = None, None
        if RECOMPUTE or sums is not None:
            tile = load_tile(x, at, r, c, inside, C, HW, CHANNELS_LAST, WIDE)
            if x2 is not None:
                tile2 = load_tile(x2, at, r, c, inside, C, HW, CHANNELS_LAST, WIDE)
        grad = gradient_past_relu(
            grad_out, tile, mean_c, scale_c, bias_c, mask, tile2, mean2_c, scale2_c, bias2_c,
            mask2, bits, at, rows_here - row, r, c, c_block, inside, C, HW,
            grad_out.dtype.element_ty, CHANNELS_LAST, MASK_CHANNELS_LAST, WIDE, RELU, BLOCK_M,
            BLOCK_C,
        )  # fmt: skip
        if grad_residual is not None:
            pointers = tile_pointers(grad_residual, at, r, c, C, HW, CHANNELS_LAST, WIDE)
            tl.store(pointers, grad.to(grad_residual.dtype.element_ty), mask=inside)
        if grad_x is not None:
            value = grad
            if mask is not None:
                value *= load_mask(mask, at, r, c, inside, C, HW, MASK_CHANNELS_LAST, WIDE)
            if sums is not None:
                value -= constant[None, :] + (tile - mean_c[None, :]) * slope[None, :]
            pointers = tile_pointers(grad_x, at, r, c, C, HW, CHANNELS_LAST, WIDE)
            value *= scale_c[None, :]
            tl.store(pointers, value.to(grad_x.dtype.element_ty), mask=inside)
        if grad_x2 is not None:
            value = grad
            if mask2 is not None:
                value *= load_mask(mask2, at, r, c, inside, C, HW, MASK_CHANNELS_LAST, WIDE)
            if sums is not None:
                value -= constant2[None, :] + (tile2 - mean2_c[None, :]) * slope2[None, :]
            pointers = tile_pointers(grad_x2, at, r, c, C, HW, CHANNELS_LAST, WIDE)
            value *= scale2_c[None, :]
            tl.store(pointers, value.to(grad_x2.dtype.element_ty), mask=inside)
