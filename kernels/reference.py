"""The eager definition of every operator in ``scotoma.kernels``.

It is the specification (tests compare against it), the path on a CPU, and the fallback where no
fused kernel applies. It works in float64 and supports double backward.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .backends import transformed


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


class Branch(NamedTuple):
    """One batch norm branch. ``mean`` and ``var`` are the statistics that normalise, once known."""

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor | None
    var: Tensor | None
    mask: Tensor | None


NO_BRANCH = Branch(None, None, None, None, None, None)


class Settings(NamedTuple):
    """What is neither a tensor nor differentiable."""

    relu: bool
    training: bool
    momentum: float | Tensor
    eps: float
    group: dist.ProcessGroup | None = None

    @property
    def synchronised(self) -> bool:
        return self.training and self.group is not None and dist.get_world_size(self.group) > 1


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
    momentum: float | Tensor,
    eps: float,
    group: dist.ProcessGroup | None,
) -> Tensor:
    """``relu(mask * BN(x) + residual)``; see :func:`scotoma.kernels.bn_mask_add_relu`."""
    out = batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps, group)
    out = apply_mask(out, mask)
    if residual is not None:
        out = out + residual
    if projection is not None:
        branch = batch_norm(*projection[:5], training, momentum, eps, group)
        out = out + apply_mask(branch, projection.mask)
    return F.relu(out) if relu else out


def apply_mask(x: Tensor, mask: Tensor | None) -> Tensor:
    """``x * mask``, the mask broadcast over the batch.

    A product, as in the paper's equation 5: a non-finite activation under a zero of the mask
    gives NaN. The mask follows ``x`` in the product, so that ``x`` decides the memory format.
    """
    return x if mask is None else x * mask


def batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps, group):
    if training and group is not None and dist.get_world_size(group) > 1:
        return _synchronised_batch_norm(
            x, weight, bias, running_mean, running_var, momentum, eps, group
        )
    inexact = training and _torch_sums_inexactly(x)
    # Whoever records or transforms the call sees plain operators.
    plain = torch.compiler.is_compiling() or torch.jit.is_tracing() or transformed(x)
    # An empty batch leaves the running statistics as they are, which torch sees to by itself.
    on_device = training and isinstance(momentum, Tensor) and running_mean is not None
    if inexact or (on_device and x.numel()):
        with torch.set_grad_enabled(inexact and plain and torch.is_grad_enabled()):
            mean, var = moments(x)
        if running_mean is not None:
            count = x.numel() // x.shape[1]
            unbiased = var * (count / (count - 1))
            update_running_statistics(running_mean, running_var, mean, unbiased, momentum)
            running_mean = running_var = None
    if inexact:
        if plain:
            return normalise(x, mean, var, weight, bias, eps)
        weight, bias = (None if v is None else v.float() for v in (weight, bias))
        return _Normalise.apply(x, weight, bias, mean, var, eps)
    if isinstance(momentum, Tensor):
        momentum = 0.0
    if weight is not None:
        weight = weight.contiguous()  # torch's own backward on a CPU reads a strided one as dense
    return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)


def _torch_sums_inexactly(x: Tensor) -> bool:
    """Whether torch's batch norm would add up this batch one value after the other, in float32.

    So it does on a CPU, in channels_last and in half precision: with a mean of 1000 and a standard
    deviation of 1 the variance comes out 27-fold.
    """
    if x.device.type != "cpu" or x.dtype == torch.float64 or x.numel() == 0:
        return False
    return x.dtype != torch.float32 or not x.is_contiguous()


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [C] of [N,C,H,W], float32 or wider.

    As exact as ``torch.var_mean`` and, on a CPU, in a third of its time.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    mean = wide.mean((0, 2, 3))
    centred = wide - mean.view(-1, 1, 1)
    return mean + centred.mean((0, 2, 3)), centred.square().mean((0, 2, 3))


def normalise(x: Tensor, mean: Tensor, var: Tensor, weight, bias, eps: float) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` in the statistics' dtype, then in x's."""
    out = (x.to(mean.dtype) - mean.view(-1, 1, 1)) * torch.rsqrt(var + eps).view(-1, 1, 1)
    if weight is not None:
        out = out * weight.view(-1, 1, 1)
    if bias is not None:
        out = out + bias.view(-1, 1, 1)
    return out.to(x.dtype)


class _Normalise(torch.autograd.Function):
    """:func:`normalise` by torch's own operators, in one pass each.

    Backward is that of batch norm in training: ``mean`` and ``var`` have to be the batch's. It can
    be differentiated again.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, mean, var, eps):
        ctx.eps, ctx.needed = eps, [True, weight is not None, bias is not None]
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(var + eps))
        return F.batch_norm(x, mean, var, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx, grad):
        x, weight, *statistics = ctx.saved_tensors
        grads = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, None, None, *statistics, True, ctx.eps, ctx.needed
        )
        return *grads, None, None, None


def _synchronised_batch_norm(x, weight, bias, running_mean, running_var, momentum, eps, group):
    """Batch norm over the union of all ranks' batches, which may differ in size.

    Each rank contributes its own mean and M2 = sum (x - mean)^2, so that the variance stays exact
    where mean >> std; one collective carries them, and all ranks merge them in rank order, to the
    same bits.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    count = x.numel() // x.shape[1]
    if count:
        variance, mean = torch.var_mean(wide, (0, 2, 3), correction=0)
    else:  # zeros: an empty batch takes part in the collectives, of backward too
        variance = mean = wide.sum((0, 2, 3))
    packed = torch.cat([wide.new_full((1,), count), mean, variance * count])
    gathered = _AllGather.apply(packed, group)
    counts, means, m2s = gathered.split([1, x.shape[1], x.shape[1]], dim=1)
    counts = counts.detach()
    total = counts.sum()
    mean, m2 = merge_moments(means, m2s, counts)
    if running_mean is not None and running_var is not None:
        # Fewer than two values on all ranks leave them as they are, and nobody waits to know.
        freedom = (total - 1).clamp(min=0)
        unbiased = m2 / freedom.clamp(min=1)
        momentum = momentum * freedom.clamp(max=1)
        update_running_statistics(running_mean, running_var, mean, unbiased, momentum)
    return normalise(x, mean, m2 / total, weight, bias, eps)


def merge_moments(means: Tensor, m2s: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and M2 [C] of a union of parts, from means and M2s [parts,C] and counts [parts,1].

    Chan, Golub and LeVeque's formula for all parts at once.
    """
    mean = (means * counts).sum(0) / counts.sum().clamp(min=1)
    return mean, (m2s + counts * (means - mean).square()).sum(0)


@torch.no_grad()
def update_running_statistics(running_mean, running_var, mean, unbiased_var, momentum) -> None:
    """``running = (1 - momentum) * running + momentum * batch``, in place.

    The running variance is unbiased, the one that normalises is not (as in torch).
    """
    for running, batch in ((running_mean, mean), (running_var, unbiased_var)):
        running.mul_(1 - momentum).add_(batch.to(running.dtype) * momentum)


class _AllGather(torch.autograd.Function):
    """[K] of each rank -> [ranks,K] on all. Its gradient is :class:`_ReduceScatter`."""

    @staticmethod
    def forward(ctx, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return all_gather(x, group)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return _ReduceScatter.apply(grad, ctx.group), None


class _ReduceScatter(torch.autograd.Function):
    """[ranks,K] on all -> the sum over ranks of each rank's own row."""

    @staticmethod
    def forward(ctx, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total[dist.get_rank(group)].clone()

    @staticmethod
    def backward(ctx, grad: Tensor):
        return _AllGather.apply(grad, ctx.group), None


def all_gather(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[K] of each rank -> [ranks,K], in rank order."""
    ranks = dist.get_world_size(group)
    out = x.new_empty(ranks * x.numel())
    dist.all_gather_into_tensor(out, x.contiguous(), group=group)
    return out.view(ranks, -1)


def pack_bits(flags: Tensor) -> Tensor:
    """[N,C,H,W] of 0 and 1 as uint8 [N*H*W, ceil(C/8)], as the forward kernel saves them."""
    rows = rearrange(flags.to(torch.uint8), "n c h w -> (n h w) c")
    padded = F.pad(rows, (0, -rows.shape[1] % 8))
    eights = rearrange(padded, "rows (bytes eight) -> rows bytes eight", eight=8)
    weights = 1 << torch.arange(8, device=flags.device, dtype=torch.uint8)
    return (eights * weights).sum(-1).to(torch.uint8)


def unpack_bits(bits: Tensor, like: Tensor) -> Tensor:
    """The inverse of :func:`pack_bits`: a bool tensor of the shape of ``like`` [N,C,H,W]."""
    n, channels, height, width = like.shape
    shifts = torch.arange(8, device=bits.device, dtype=torch.uint8)
    flags = (bits.unsqueeze(-1) >> shifts) & 1
    flags = rearrange(flags, "(n h w) bytes eight -> n (bytes eight) h w", n=n, h=height, w=width)
    return flags[:, :channels].bool()
