"""Batch statistics in two launches: partial sums of row chunks, then their merge.

Each chunk is centred on the mean of its first tile before it is squared. So the sum of squares
exceeds the chunk's true M2 by a bounded factor whatever the mean is, where E[x^2] - mean^2 would
lose all digits at mean/std = 1e3. Chunks are merged in a fixed order by Chan's formula; no atomic
is involved, so a rerun gives the same bits.
"""

import triton
import triton.language as tl

from .tiles import load_channel, load_tile


@triton.jit(do_not_specialize=["M_UNITS", "CHUNK_UNITS", "CHUNKS"])
def partial_statistics(
    x,
    x2,
    partials,
    M_UNITS,
    C_UNITS,
    HW,
    CHUNK_UNITS,
    CHUNKS,
    M_UNIT: tl.constexpr,
    C_UNIT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Mean and M2 = sum (x - mean)^2 of each channel over chunks of CHUNK rows.

    x, x2: activations of M rows and C channels; x2 may be None. partials: float32
    [branches, 2, CHUNKS, C], means then M2. Reads each activation once.
    Grid: (CHUNKS * ceil(C / BLOCK_C), branches).
    """
    M = M_UNITS.to(tl.int64) * M_UNIT
    C = C_UNITS * C_UNIT
    branch = tl.program_id(1)
    if x2 is not None:
        if branch == 1:
            x = x2
    c_blocks = tl.cdiv(C, BLOCK_C)
    chunk = tl.program_id(0) // c_blocks
    c = (tl.program_id(0) % c_blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    r = tl.arange(0, BLOCK_M)
    CHUNK = CHUNK_UNITS * M_UNIT
    start = chunk.to(tl.int64) * CHUNK
    rows = tl.minimum(M - start, CHUNK).to(tl.int32)
    channels = (c < C)[None, :]

    inside = (r < rows)[:, None] & channels
    head = load_tile(x, start, r, c, inside, C, HW, CHANNELS_LAST, WIDE)
    centre = tl.sum(head, axis=0) / tl.minimum(rows, BLOCK_M).to(tl.float32)

    total = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    squares = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for row in tl.range(0, rows, BLOCK_M, num_stages=STAGES):
        inside = (r < rows - row)[:, None] & channels
        tile = load_tile(x, start + row, r, c, inside, C, HW, CHANNELS_LAST, WIDE)
        # Rows outside are 0, which is not the centre: exclude them from both sums.
        deviation = tl.where(inside, tile - centre[None, :], 0.0)
        total += deviation
        squares += deviation * deviation
    drift = tl.sum(total, axis=0) / rows.to(tl.float32)
    m2 = tl.sum(squares, axis=0) - drift * tl.sum(total, axis=0)
    step = CHUNKS.to(tl.int64) * C
    out = partials + 2 * branch * step + chunk.to(tl.int64) * C + c
    tl.store(out, centre + drift, mask=c < C)
    # Rounding could leave a tiny negative sum where all values are equal; NaN must stay.
    tl.store(out + step, tl.where(m2 < 0, 0.0, m2), mask=c < C)


@triton.jit(do_not_specialize=["M", "CHUNK", "CHUNKS"])
def merge_statistics(
    partials,
    mean,
    var,
    running_mean,
    running_var,
    mean2,
    var2,
    running_mean2,
    running_var2,
    momentum,
    M,
    C,
    CHUNK,
    CHUNKS,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Merge the chunks of each branch; update its running statistics unless they are None.

    mean, var: float32 [C], written; the variance is biased, the running one unbiased, as in
    torch. Grid: (ceil(C / BLOCK_C), branches).
    """
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    if mean2 is None:
        merge_branch(partials, mean, var, running_mean, running_var, momentum, M, C, CHUNK, CHUNKS,
                     c, BLOCK_S, BLOCK_C)  # fmt: skip
    elif tl.program_id(1) == 0:
        merge_branch(partials, mean, var, running_mean, running_var, momentum, M, C, CHUNK, CHUNKS,
                     c, BLOCK_S, BLOCK_C)  # fmt: skip
    else:
        second = partials + 2 * CHUNKS.to(tl.int64) * C
        merge_branch(second, mean2, var2, running_mean2, running_var2, momentum, M, C, CHUNK,
                     CHUNKS, c, BLOCK_S, BLOCK_C)  # fmt: skip


@triton.jit
def merge_branch(partials, mean_out, var_out, running_mean, running_var, momentum, M, C, CHUNK,
                 CHUNKS, c, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """The channels ``c`` of one branch, partials float32 [2, CHUNKS, C]."""
    s = tl.arange(0, BLOCK_S)
    channels = c < C
    m2_start = CHUNKS.to(tl.int64) * C
    count = M.to(tl.float32)

    # Means are summed as differences from the first chunk's, so that a large common mean costs
    # no digits.
    first = tl.load(partials + c, mask=channels, other=0.0)
    sums = tl.zeros((BLOCK_S, BLOCK_C), tl.float32)
    for block in range(0, CHUNKS, BLOCK_S):
        chunk = block + s
        inside = (chunk < CHUNKS)[:, None] & channels[None, :]
        sizes = tl.minimum(M - chunk.to(tl.int64) * CHUNK, CHUNK).to(tl.float32)
        means = tl.load(partials + chunk[:, None] * C + c[None, :], mask=inside, other=0.0)
        sums += tl.where(inside, (means - first[None, :]) * sizes[:, None], 0.0)
    drift = tl.sum(sums, axis=0) / count

    sums = tl.zeros((BLOCK_S, BLOCK_C), tl.float32)
    for block in range(0, CHUNKS, BLOCK_S):
        chunk = block + s
        inside = (chunk < CHUNKS)[:, None] & channels[None, :]
        sizes = tl.minimum(M - chunk.to(tl.int64) * CHUNK, CHUNK).to(tl.float32)
        pointers = partials + chunk[:, None] * C + c[None, :]
        means = tl.load(pointers, mask=inside, other=0.0)
        m2 = tl.load(pointers + m2_start, mask=inside, other=0.0)
        apart = means - first[None, :] - drift[None, :]
        sums += tl.where(inside, m2 + apart * apart * sizes[:, None], 0.0)
    mean = first + drift
    m2 = tl.sum(sums, axis=0)

    tl.store(mean_out + c, mean, mask=channels)
    tl.store(var_out + c, m2 / count, mask=channels)
    if running_mean is not None:
        old = load_channel(running_mean, c, C, 0.0)
        new = (1 - momentum) * old + momentum * mean
        tl.store(running_mean + c, new.to(running_mean.dtype.element_ty), mask=channels)
        old = load_channel(running_var, c, C, 0.0)
        new = (1 - momentum) * old + momentum * (m2 / (count - 1))
        tl.store(running_var + c, new.to(running_var.dtype.element_ty), mask=channels)
