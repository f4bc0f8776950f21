"""The reference's layer as it was released, run under autocast without a thought.

Its masks are float32 buffers. A mask times the half-precision output of batch norm is float32 by
torch's promotion rule, and so are the addition and ReLU after it; the next convolution's autocast
rounds the result to half precision again. That cast belongs to what the mask costs, and is timed.
The float32 result is also the next block's residual.

With activations of N elements in half precision, a masked layer without a residual moves 26 bytes
an element forward (batch norm 6, mask 2 + 4, ReLU 4 + 4, cast 4 + 2) and 42 backward (cast 6, ReLU
12, mask 8 + 6, batch norm 10), where eager with masks of one byte moves 14 and 20.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .operands import Call
from .sites import Site

MOMENTUM, EPS = 0.1, 1e-5


def layer(site: Site) -> Callable[..., Tensor]:
    """The layer of a site, for operands as :func:`adapter` makes them."""
    relu, training = site.relu, site.training

    def branch(x, weight, bias, mean, var, mask):
        out = F.batch_norm(x, mean, var, weight, bias, training, MOMENTUM, EPS)
        return out if mask is None else out * mask

    def run(x, weight, bias, mean, var, mask, residual, x2, weight2, bias2, mean2, var2, mask2):
        out = branch(x, weight, bias, mean, var, mask)
        if residual is not None:
            out = out + residual
        if x2 is not None:
            out = out + branch(x2, weight2, bias2, mean2, var2, mask2)
        # Where ReLU is parted from here by a dropout, the convolution comes later as well.
        return F.relu(out).to(x.dtype) if relu else out

    return run


def adapter(site: Site) -> Callable[[Call], Call] | None:
    """Masks and residual in float32, as the layers before have left them.

    Without a ReLU the output stays float32, and so its gradient is. None where nothing is masked:
    such a layer stays in half precision.
    """
    if not site.masked:
        return None

    def adapt(call: Call) -> Call:
        wide = {
            name: _wide(tensor)
            for name, tensor in call.operands._asdict().items()
            if name in ("mask", "mask2", "residual") and tensor is not None
        }
        grad_out = call.grad_out if site.relu else _wide(call.grad_out)
        return Call(call.operands._replace(**wide), grad_out)

    return adapt


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float32).requires_grad_(tensor.requires_grad)
