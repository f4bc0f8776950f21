"""The eager definition of every operator in ``scotoma.kernels``.

It is the specification (tests compare against it), the path on a CPU, and the fallback where no
fused kernel applies. It works in float64 and supports double backward.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


class Projection(NamedTuple):
    """The second branch of a residual block: ``mask * BN(x)`` of a projection shortcut.

    Fields as in :func:`scotoma.kernels.bn_mask_add_relu`; ``x`` has that call's ``x`` shape.
    """

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    mask: Tensor | None = None


def bn_mask_add_relu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    mask: Tensor | None,
    residual: Tensor | None,
    projection: Projection | None,
    relu: bool,
    training: bool,
    momentum: float,
    eps: float,
    group: dist.ProcessGroup | None,
) -> Tensor:
    """``relu(mask * BN(x) + residual)``; see :func:`scotoma.kernels.bn_mask_add_relu`."""
    out = _batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps, group)
    out = apply_mask(out, mask)
    if residual is not None:
        out = out + residual
    if projection is not None:
        branch = _batch_norm(*projection[:5], training, momentum, eps, group)
        out = out + apply_mask(branch, projection.mask)
    return F.relu(out) if relu else out


def apply_mask(x: Tensor, mask: Tensor | None) -> Tensor:
    """``x * mask``, the mask broadcast over the batch.

    A product, as in the paper's equation 5: a non-finite activation under a zero of the mask
    gives NaN. The mask follows ``x`` in the product, so that ``x`` decides the memory format.
    """
    return x if mask is None else x * mask


def _batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps, group):
    if training and group is not None and dist.get_world_size(group) > 1:
        return _synchronised_batch_norm(
            x, weight, bias, running_mean, running_var, momentum, eps, group
        )
    return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)


def _synchronised_batch_norm(x, weight, bias, running_mean, running_var, momentum, eps, group):
    """Batch norm over the union of all ranks' batches, which may differ in size.

    Two passes (the mean, then squares about it) keep the variance exact where mean >> std.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    count = wide.new_full((1,), x.numel() / x.shape[1])
    totals = _AllReduceSum.apply(torch.cat([wide.sum((0, 2, 3)), count]), group)
    count = totals[-1].detach()
    mean = totals[:-1] / count
    centred = wide - mean.view(-1, 1, 1)
    variance = _AllReduceSum.apply(centred.square().sum((0, 2, 3)), group) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            # The running variance is unbiased, the one that normalises is not (as in torch).
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = variance * (count / (count - 1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    out = centred * torch.rsqrt(variance + eps).view(-1, 1, 1)
    if weight is not None:
        out = out * weight.view(-1, 1, 1)
    if bias is not None:
        out = out + bias.view(-1, 1, 1)
    return out.to(x.dtype)


class _AllReduceSum(torch.autograd.Function):
    """Sum over ranks. Its gradient is the same sum, so it can be differentiated twice."""

    @staticmethod
    def forward(ctx, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor):
        return _AllReduceSum.apply(grad.contiguous(), ctx.group), None
