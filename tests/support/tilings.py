"""How the kernels cut a tensor, changed so that small tensors reach every loop of a kernel."""

from contextlib import ExitStack, contextmanager
from unittest import mock

from scotoma.kernels import geometry

# With the real sizes a chunk of a reduction has several tiles only from 2^16 rows on, a merge
# several rounds only from 2^17, and row numbers are 64 bits wide only from 2^31.
SIZES = {
    "real": {},
    "small tiles": {"TILE_BYTES": 512},
    "long chunks": {"TILE_BYTES": 512, "REDUCTION_PROGRAMS": 2},
    "many chunks": {"TILE_BYTES": 512, "MERGE_CHUNKS": 2, "MERGE_CHANNELS": 4},
    "one chunk": {"TILE_BYTES": 256, "REDUCTION_PROGRAMS": 1},
    "wide rows": {"TILE_BYTES": 512, "TILES": 2},
}


@contextmanager
def tiling(name):
    """Kernels launched inside are cut as ``SIZES[name]`` says."""
    with ExitStack() as stack:
        for size, value in SIZES[name].items():
            stack.enter_context(mock.patch.object(geometry, size, value))
        if name == "wide rows":
            stack.enter_context(mock.patch.object(geometry.Tiling, "wide", True))
        yield


def edge_rows(channels, name):
    """Row counts around the kernels' tiles and programs for this number of channels."""
    with tiling(name):
        block = geometry.tiling((1, channels, 1, 1), True).block_m
        program = block * geometry.TILES
    edges = {1, 2, 3}
    for edge in (block, 2 * block, program, 2 * program):
        edges |= {edge - 1, edge, edge + 1}
    return sorted(r for r in edges if r > 0)
