"""How the kernels cut a tensor, changed so that small tensors reach every loop of a kernel."""

from contextlib import ExitStack, contextmanager
from unittest import mock

from scotoma.kernels import fused, launch, masking, operator

# With the real sizes a chunk of a reduction has several tiles only from 2^16 rows on, a merge
# several rounds only from 2^20, and a program of an elementwise pass several tiles only from 2^16.
SIZES = {
    "real": {},
    "small tiles": {"TILE_BYTES": 512, "PROGRAMS": 2},
    "long chunks": {"TILE_BYTES": 512, "REDUCTION_PROGRAMS": 2},
    "many chunks": {"TILE_BYTES": 512, "MERGE_CHUNKS": 2, "MERGE_CHANNELS": 4},
    "one chunk": {"TILE_BYTES": 256, "REDUCTION_PROGRAMS": 1, "PROGRAMS": 1},
}


@contextmanager
def resized(**sizes):
    """Kernels launched inside are cut by other numbers of ``launch``."""
    with ExitStack() as stack:
        for size, value in sizes.items():
            stack.enter_context(mock.patch.object(launch, size, value))
        if sizes:  # what was decided by the real ones is kept
            for kept in (operator.plans, fused.plans, masking.launches):
                stack.enter_context(mock.patch.dict(kept, clear=True))
        yield


def tiling(name):
    """Kernels launched inside are cut as ``SIZES[name]`` says."""
    return resized(**SIZES[name])


def edge_rows(channels, name):
    """Row counts around the kernels' tiles and programs for this number of channels."""
    with tiling(name):
        small = launch.tiling((1, channels, 1, 1), True).block_m
        large = launch.tiling((1, channels, 1, 1), True, size=launch.LARGE).block_m
    edges = {1, 2, 3}
    for edge in (small, large, 2 * large, 4 * large, 8 * large):
        edges |= {edge - 1, edge, edge + 1}
    return sorted(r for r in edges if r > 0)
