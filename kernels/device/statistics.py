"""Batch statistics in two launches: partial sums of row chunks, then their merge.

Sums of squares are of differences from a value of the same channel, so that they exceed the true
M2 = sum (x - mean)^2 by a bounded factor whatever the mean is, where E[x^2] - mean^2 would lose all
digits at mean/std = 1e3. Parts are merged in a fixed order by Chan's formula; no atomic is
involved, so a rerun gives the same bits.
"""

import triton
import triton.language as tl

from .tiles import load_channel, load_tile, tile_pointers


@triton.jit(do_not_specialize=["N", "C_UNITS", "CHUNK_TILES", "CHUNKS"])
def partial_statistics(
    x,
    x2,
    partials,
    N,
    C_UNITS,
    HW,
    CHUNK_TILES,
    CHUNKS,
    C_UNIT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Mean and M2 of each channel over chunks of CHUNK_TILES * BLOCK_M rows.

    x, x2: activations of M rows and C channels; x2 may be None. partials: float32
    [branches, 2, CHUNKS, C], means then M2. Reads each activation once.

    Each place of the tile sums its own column of rows, as differences from the first of them: no
    sum has to be known before memory is read, and an outlier among the first rows spoils one
    place only. Grid: (CHUNKS * ceil(C / BLOCK_C), branches).
    """
    C = C_UNITS * C_UNIT
    M = N * HW
    branch = tl.program_id(1)
    if x2 is not None:
        if branch == 1:
            x = x2
    c_blocks = tl.cdiv(C, BLOCK_C)
    chunk = tl.program_id(0) // c_blocks
    c = (tl.program_id(0) % c_blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    r = tl.arange(0, BLOCK_M)
    start = chunk.to(tl.int64) * BLOCK_M * CHUNK_TILES
    rows = tl.minimum(M - start, BLOCK_M * CHUNK_TILES).to(tl.int32)
    channels = (c < C)[None, :]

    inside = (r < rows)[:, None] & channels
    head = load_tile(x, start, r, c, inside, C, HW, CHANNELS_LAST)
    total = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    squares = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for row in tl.range(BLOCK_M, rows, BLOCK_M, num_stages=STAGES):
        inside = (r < rows - row)[:, None] & channels
        tile = load_tile(x, start + row, r, c, inside, C, HW, CHANNELS_LAST)
        # Rows outside are 0, which is not the head: exclude them from both sums.
        deviation = tl.where((r < rows - row)[:, None], tile - head, 0.0)
        total += deviation
        squares += deviation * deviation

    count = (tl.maximum(rows - r + (BLOCK_M - 1), 0) // BLOCK_M).to(tl.float32)[:, None]
    drift = total / tl.maximum(count, 1.0)
    m2 = squares - drift * total
    # Rounding could leave a tiny negative sum where all values are equal; NaN must stay.
    m2 = tl.where(m2 < 0, 0.0, m2)
    # Means relative to one of the chunk's rows, so that a large common mean costs no digits.
    zero = tl.zeros((1,), tl.int32)
    pointers = tile_pointers(x, start, zero, c, C, HW, CHANNELS_LAST)
    origin = tl.load(pointers, mask=channels, other=0.0).to(tl.float32)
    apart = tl.where((r < rows)[:, None] & channels, head + drift - origin, 0.0)
    shift = tl.sum(apart * count, axis=0) / rows.to(tl.float32)
    apart -= shift[None, :]
    m2 = tl.sum(m2 + apart * apart * count, axis=0)
    mean = tl.sum(origin, axis=0) + shift
    step = CHUNKS.to(tl.int64) * C
    out = partials + 2 * branch * step + chunk.to(tl.int64) * C + c
    tl.store(out, mean, mask=c < C)
    tl.store(out + step, m2, mask=c < C)


@triton.jit(do_not_specialize=["M", "CHUNK", "CHUNKS"])
def merge_statistics(
    partials,
    statistics,
    running,
    running2,
    momentum,
    M,
    C,
    CHUNK,
    CHUNKS,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Merge the chunks of each branch; update its running statistics unless they are None.

    partials: float32 [branches, 2, CHUNKS, C] of chunks of CHUNK rows, the last shorter.
    statistics: float32 [branches, 2, C], written: mean and biased variance. running, running2:
    pairs (mean, variance) of vectors [C] or None, both branches alike in that and in their dtype;
    the running variance is unbiased, as in torch. Grid: (ceil(C / BLOCK_C), branches).
    """
    branch = tl.program_id(1)
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    s = tl.arange(0, BLOCK_S)
    channels = c < C
    running_mean, running_var = running[0], running[1]
    if running2[0] is not None:
        if branch == 1:
            running_mean, running_var = running2[0], running2[1]
    old_mean = load_channel(running_mean, c, C, 0.0)
    old_var = load_channel(running_var, c, C, 0.0)
    step = CHUNKS.to(tl.int64) * C
    start = partials + 2 * branch * step

    # Means are kept as differences from the first chunk's, so that a large common mean costs no
    # digits. Each place holds one chunk, or several merged: they come in rounds of BLOCK_S.
    origin = tl.load(start + c, mask=channels, other=0.0)
    mean = tl.zeros((BLOCK_S, BLOCK_C), tl.float32)
    m2 = tl.zeros((BLOCK_S, BLOCK_C), tl.float32)
    count = tl.zeros((BLOCK_S, 1), tl.float32)
    for block in range(0, CHUNKS, BLOCK_S):
        chunk = block + s
        inside = (chunk < CHUNKS)[:, None] & channels[None, :]
        rows = tl.minimum(M - chunk.to(tl.int64) * CHUNK, CHUNK).to(tl.float32)
        rows = tl.maximum(rows, 0.0)[:, None]
        pointers = start + chunk[:, None] * C + c[None, :]
        apart = tl.load(pointers, mask=inside, other=0.0) - origin[None, :]
        apart = tl.where(inside, apart, 0.0) - mean
        both = tl.maximum(count + rows, 1.0)
        m2 += tl.load(pointers + step, mask=inside, other=0.0)
        m2 += apart * apart * (count * (rows / both))
        mean += apart * (rows / both)
        count += rows
    total = M.to(tl.float32)
    drift = tl.sum(mean * count, axis=0) / total
    apart = mean - drift[None, :]
    m2 = tl.sum(m2 + apart * apart * count, axis=0)
    mean = origin + drift

    out = statistics + 2 * branch * C + c
    tl.store(out, mean, mask=channels)
    tl.store(out + C, m2 / total, mask=channels)
    if running_mean is not None:
        new = (1 - momentum) * old_mean + momentum * mean
        tl.store(running_mean + c, new.to(running_mean.dtype.element_ty), mask=channels)
        new = (1 - momentum) * old_var + momentum * (m2 / (total - 1))
        tl.store(running_var + c, new.to(running_var.dtype.element_ty), mask=channels)
