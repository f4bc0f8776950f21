"""How many bytes of device memory an operator must move: the floor that a time is held against.

The model counts whole activations (N*C*H*W elements) read or written once by each pass over them,
with batch statistics read before they are used. Vectors of C values, and the mask, which one batch
shares, are not counted, so that a percentage of the copy bandwidth errs on the low side.
"""

from __future__ import annotations

from .sites import Site

PASSES = ("forward", "backward", "both")


def minimum_bytes(site: Site, itemsize: int) -> dict[str, int]:
    """Bytes of a training pass at ``site`` by elements of ``itemsize`` bytes."""
    forward, backward, bit_passes = {
        # statistics x; apply x -> out | sums g, x; apply g, x -> dx
        "none": (3, 5, (0, 0)),
        # ... and the residual read, a bit written | the bits read twice, the residual's gradient
        "residual": (4, 6, (1, 2)),
        # statistics x, x2; apply x, x2 -> out | sums g, x, x2; apply g, x, x2 -> dx, dx2
        "projection": (5, 8, (0, 0)),
    }[site.kind]
    if site.kind == "residual" and not site.relu:
        # The residual's gradient is the upstream one itself, and nothing needs a bit.
        backward, bit_passes = 5, (0, 0)
    n, channels, height, width = site.shape
    bits = n * height * width * -(-channels // 8)
    found = {
        "forward": site.elements * itemsize * forward + bits * bit_passes[0],
        "backward": site.elements * itemsize * backward + bits * bit_passes[1],
    }
    return found | {"both": sum(found.values())}
