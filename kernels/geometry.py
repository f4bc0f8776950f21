"""How a launch is cut into tiles, chunks and programs: functions of the shape alone.

They ignore the number of multiprocessors, so that the order of every sum, and with it every bit
of the result, is the same on any GPU.
"""

from __future__ import annotations

from typing import NamedTuple

WARPS = 4
# One 16-byte load a thread of each activation. In half precision that is eight values, whose eight
# mask bytes are one load as well, in the same register layout: larger tiles make Triton convert
# the mask's layout through shared memory.
TILE_BYTES = WARPS * 32 * 16
# A row segment of 64 half-precision channels is one 128-byte cache line.
MAX_BLOCK_C = 64
# Row tiles that a program of an elementwise pass walks through, so that it reads the per-channel
# vectors once for all of them.
TILES = 4
# Programs of a reduction: about four for each multiprocessor of an H100 (132).
REDUCTION_PROGRAMS = 512
# Longer chunks would lose digits: rounding errors of the sums about a chunk's first tile grow with
# the number of tiles where that tile is an outlier (1e-5 of the variance at 64 tiles).
MAX_CHUNK = 2048
# Stages of the software pipeline of the reductions' loops.
STAGES = 3
# Merging kernels: a program holds this many channels, and chunks up to a limit, at once.
MERGE_CHANNELS, MERGE_CHUNKS = 8, 256


class Tiling(NamedTuple):
    """The matrix of ``rows`` = N*H*W by ``channels`` that the kernels see, and its tiles."""

    rows: int
    channels: int
    positions: int
    channels_last: bool
    channel_unit: int
    row_unit: int
    block_m: int
    block_c: int

    @property
    def sizes(self) -> tuple[int, int, int]:
        """M_UNITS, C_UNITS and HW, in the kernels' order of arguments."""
        return self.rows // self.row_unit, self.channels // self.channel_unit, self.positions

    @property
    def constants(self) -> dict[str, int | bool]:
        """The compile-time arguments that every kernel over activations has."""
        return {
            "M_UNIT": self.row_unit,
            "C_UNIT": self.channel_unit,
            "CHANNELS_LAST": self.channels_last,
            "WIDE": self.wide,
            "BLOCK_M": self.block_m,
            "BLOCK_C": self.block_c,
            "num_warps": WARPS,
        }

    @property
    def wide(self) -> bool:
        """Row numbers exceed int32."""
        return self.rows + self.block_m * TILES >= 2**31

    @property
    def channel_blocks(self) -> int:
        return -(-self.channels // self.block_c)

    @property
    def programs(self) -> int:
        """Of an elementwise pass."""
        return -(-self.rows // (self.block_m * TILES)) * self.channel_blocks

    @property
    def chunk(self) -> int:
        """Rows that one program of a reduction sums up, a multiple of the tile's."""
        wanted = max(1, REDUCTION_PROGRAMS // self.channel_blocks)
        rows = min(MAX_CHUNK, -(-self.rows // wanted))
        return -(-rows // self.block_m) * self.block_m

    @property
    def chunks(self) -> int:
        return -(-self.rows // self.chunk)


def tiling(shape, channels_last: bool, itemsize: int = 2) -> Tiling:
    """How to cut an activation [N,C,H,W] of elements of ``itemsize`` bytes."""
    n, channels, height, width = shape
    # The largest of 8, 4, 2 that divides C: tells the compiler how wide a load may be.
    unit = next(u for u in (8, 4, 2, 1) if channels % u == 0)
    if channels_last:
        # The widest block that wastes no column, or else one that covers small C whole.
        block_c = next((b for b in (64, 32, 16) if channels % b == 0), None)
        block_c = block_c or max(8, min(MAX_BLOCK_C, power_of_two(channels)))
    else:
        # Rows are contiguous here, so a tile is longer than wide.
        block_c = 8 if channels <= 8 else 16
    block_m = TILE_BYTES // itemsize // block_c
    # The largest that divides rows and chunks, for the format in which rows are contiguous.
    aligned = not channels_last and height * width % 16 == 0 and block_m % 16 == 0
    return Tiling(
        rows=n * height * width,
        channels=channels,
        positions=height * width,
        channels_last=channels_last,
        channel_unit=unit,
        row_unit=16 if aligned else 1,
        block_m=block_m,
        block_c=block_c,
    )


def merge_chunks(chunks: int) -> int:
    """Chunks that a merging program holds at once, a power of two."""
    return min(MERGE_CHUNKS, power_of_two(chunks))


def power_of_two(n: int) -> int:
    """The smallest power of two that is not below n."""
    return 1 << (n - 1).bit_length()
