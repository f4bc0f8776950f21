"""How many bytes of device memory an operator must move: the floor that a time is held against.

The model counts whole activations (N*C*H*W elements) read or written once by each pass over them,
with batch statistics read before they are used. Vectors of C values, and the mask, which one batch
shares, are not counted, so that a percentage of the copy bandwidth errs on the low side.

In evaluation there are no statistics to wait for. Its forward is that of a network under
``torch.no_grad``, its backward goes to the inputs alone, and "both" is a forward that keeps what
this backward needs, as in an attack.
"""

from __future__ import annotations

from .sites import Site

PASSES = ("forward", "backward", "both")


def minimum_bytes(site: Site, itemsize: int) -> dict[str, int]:
    """Bytes of each pass at ``site`` by elements of ``itemsize`` bytes."""
    forward, backward = _training(site) if site.training else _evaluation(site)
    # With a residual the side of ReLU is a saved bit: written once, read by each backward pass.
    saved = read = 0
    if site.kind == "residual" and site.relu:
        saved, read = 1, 2 if site.training else 1
    n, channels, height, width = site.shape
    bits = n * height * width * -(-channels // 8)
    found = {
        "forward": site.elements * itemsize * forward + bits * (saved if site.training else 0),
        "backward": site.elements * itemsize * backward + bits * read,
    }
    both = sum(found.values()) + (0 if site.training else bits * saved)
    return found | {"both": both}


def _training(site: Site) -> tuple[int, int]:
    """Activations moved forward and backward by batch statistics."""
    if site.kind == "none":
        # statistics x; apply x -> out | sums g, x; apply g, x -> dx
        return 3, 5
    if site.kind == "residual":
        # ... and the residual read | and its gradient, which without ReLU is g itself
        return 4, 6 if site.relu else 5
    # statistics x, x2; apply x, x2 -> out | sums g, x, x2; apply g, x, x2 -> dx, dx2
    return 5, 8


def _evaluation(site: Site) -> tuple[int, int]:
    """Activations moved by running statistics: one pass each way.

    Backward reads ``x`` only to find out on which side of ReLU it was.
    """
    if site.kind == "none":
        # x -> out | g, x -> dx
        return 2, 3 if site.relu else 2
    if site.kind == "residual":
        # x, residual -> out | g -> dx, and the residual's, which without ReLU is g itself
        return 3, 3 if site.relu else 2
    # x, x2 -> out | g, x, x2 -> dx, dx2
    return 3, 5 if site.relu else 3
