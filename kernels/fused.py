"""``bn_mask_add_relu`` by the Triton kernels: forward, backward, and the eager autograd path.

Saved for backward: the convolution outputs ``x`` (and ``x2``), the per-channel vectors, the masks,
and where a residual tensor was added one bit for each element. The output is not saved, nor is the
residual: without one, the side of ReLU that a value was on is computed again from ``x``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from . import launch, reference
from .call import NO_BRANCH, Branch, Gradients, Settings
from .second_order import differentiable_backward


class Partials(NamedTuple):
    """Partial statistics of the main branch that its convolution left behind."""

    values: Tensor  # [2, chunks, C]
    chunk: int  # rows


def bn_mask_add_relu(
    main: Branch,
    other: Branch | None,
    residual: Tensor | None,
    settings: Settings,
    partials: Partials | None = None,
) -> Tensor:
    """The fused operator, its arguments checked. A branch's mean and var are the running ones."""
    main, other, residual = laid_out(main, other, residual)
    if not torch.is_grad_enabled():
        with launch.on_device(main.x):
            return forward(main, other, residual, settings, partials, save_bits=False).out
    second = other or NO_BRANCH
    inputs = (main.x, main.weight, main.bias, residual, second.x, second.weight, second.bias)
    return _BNMaskAddReLU.apply(*inputs, main, other, settings, partials)


def laid_out(main: Branch, other: Branch | None, residual: Tensor | None):
    """Every activation in the memory format of ``x``, vectors dense. Copies only what differs."""
    layout = launch.memory_format(main.x)

    if residual is not None:
        residual = residual.contiguous(memory_format=layout)
    return _dense(main, layout), None if other is None else _dense(other, layout), residual


def _dense(branch: Branch, layout: torch.memory_format) -> Branch:
    x, weight, bias = branch[:3]
    if (
        x.is_contiguous(memory_format=layout)
        and (weight is None or weight.is_contiguous())
        and (bias is None or bias.is_contiguous())
    ):
        return branch
    vectors = [v if v is None else v.contiguous() for v in (weight, bias)]
    return Branch(x.contiguous(memory_format=layout), *vectors, *branch[3:])


class Forward(NamedTuple):
    out: Tensor
    main: Branch  # with the statistics that normalised
    other: Branch | None
    bits: Tensor | None
    count: Tensor | None  # rows of all ranks, where statistics were synchronised


def forward(
    main, other, residual, settings: Settings, partials: Partials | None = None, *, save_bits: bool
) -> Forward:
    """Statistics (training only), then one pass. Updates the running statistics."""
    count = None
    if settings.training:
        branches = [main] if other is None else [main, other]
        if settings.synchronised:
            statistics, count = _synchronised_statistics(branches, settings)
        else:
            statistics = _local_statistics(branches, settings.momentum, partials)
        main = Branch(*main[:3], *statistics[0], main.mask)
        if other is not None:
            other = Branch(*other[:3], *statistics[1], other.mask)
    else:
        main, other = _dense_statistics(main), other and _dense_statistics(other)
    out, bits = launch.apply_forward(
        main,
        other,
        residual,
        relu=settings.relu,
        eps=settings.eps,
        save_bits=save_bits,
        reverse=settings.training,
    )
    return Forward(out, main, other, bits, count)


def _dense_statistics(branch: Branch) -> Branch:
    if branch.mean.is_contiguous() and branch.var.is_contiguous():
        return branch
    return branch._replace(mean=branch.mean.contiguous(), var=branch.var.contiguous())


def _local_statistics(branches: list[Branch], momentum, partials: Partials | None):
    """Mean and biased variance [C] of each branch in this process; updates the running ones."""
    # A momentum that only the device knows cannot be a kernel's argument, and kernels take vectors
    # to be dense: then update outside.
    dense = all(
        b.mean is None or (b.mean.is_contiguous() and b.var.is_contiguous()) for b in branches
    )
    inside = dense and not isinstance(momentum, Tensor)
    counted = branches if inside else _without_running(branches)
    factor = momentum if inside else 0.0
    rows = branches[0].x.numel() // branches[0].x.shape[1]
    if partials is None:
        statistics = launch.batch_statistics(counted, factor)
    else:
        running = [(counted[0].mean, counted[0].var)]
        statistics = launch.merge_statistics(partials.values, rows, partials.chunk, running, factor)
        if len(counted) > 1:
            statistics += launch.batch_statistics(counted[1:], factor)
    if not inside:
        for branch, (mean, var) in zip(branches, statistics, strict=True):
            if branch.mean is not None:
                unbiased = var * (rows / (rows - 1))
                reference.update_running_statistics(
                    branch.mean, branch.var, mean, unbiased, momentum
                )
    return statistics


def _without_running(branches: list[Branch]) -> list[Branch]:
    return [b._replace(mean=None, var=None) for b in branches]


def _synchronised_statistics(branches, settings: Settings):
    """Statistics over all ranks' batches, by one collective for all branches."""
    local = launch.batch_statistics(_without_running(branches), 0.0)
    x = branches[0].x
    count = x.numel() // x.shape[1]
    packed = torch.cat([local[0][0].new_full((1,), count), *(v for s in local for v in s)])
    gathered = reference.all_gather(packed, settings.group)
    counts, total = gathered[:, :1], gathered[:, 0].sum()
    merged = []
    for branch, s in zip(branches, gathered[:, 1:].chunk(len(branches), dim=1), strict=True):
        means, variances = s.chunk(2, dim=1)
        mean, m2 = reference.merge_moments(means, variances * counts, counts)
        merged.append((mean, m2 / total))
        if branch.mean is not None:
            reference.update_running_statistics(
                branch.mean, branch.var, mean, m2 / (total - 1), settings.momentum
            )
    return merged, total


def backward(
    grad_out: Tensor,
    main: Branch,
    other: Branch | None,
    bits: Tensor | None,
    settings: Settings,
    wanted: Gradients,
    count: Tensor | None = None,
) -> Gradients:
    """Gradients of all inputs that are ``wanted``.

    count: rows of all ranks, where statistics were synchronised.
    """
    grad_out = grad_out.contiguous(memory_format=launch.memory_format(main.x)).to(main.x.dtype)
    vectors = (wanted.weight, wanted.bias, wanted.weight2, wanted.bias2)
    through_statistics = settings.training and (wanted.x or wanted.x2)
    sums, vector_grads, rows = None, (None,) * 4, main.x.numel() // main.x.shape[1]
    if through_statistics or any(vectors):
        reduced = launch.reduce_gradients(
            grad_out, main, other, bits, relu=settings.relu, eps=settings.eps, wanted=vectors
        )
        vector_grads = reduced[1:]
    if through_statistics:
        sums = reduced.sums
        if settings.synchronised:
            dist.all_reduce(sums, group=settings.group)
            sums, rows = sums / count, 1
    if not settings.relu and wanted.residual and not (wanted.x or wanted.x2):
        grad_x, grad_residual, grad_x2 = None, grad_out, None
    elif wanted.x or wanted.residual or wanted.x2:
        grad_x, grad_residual, grad_x2 = launch.apply_backward(
            grad_out,
            main,
            other,
            bits,
            sums,
            count=rows,
            relu=settings.relu,
            eps=settings.eps,
            wanted=(wanted.x, wanted.residual and settings.relu, wanted.x2),
        )
        if wanted.residual and not settings.relu:
            grad_residual = grad_out
    else:
        grad_x = grad_residual = grad_x2 = None
    return Gradients(grad_x, *vector_grads[:2], grad_residual, grad_x2, *vector_grads[2:])


class _BNMaskAddReLU(torch.autograd.Function):
    """The plain autograd path: in eager mode it costs less per call than a registered operator."""

    @staticmethod
    def forward(
        ctx, x, weight, bias, residual, x2, weight2, bias2, main, other, settings, partials
    ):
        save_bits = settings.relu and residual is not None and any(ctx.needs_input_grad)
        with launch.on_device(x):
            result = forward(main, other, residual, settings, partials, save_bits=save_bits)
        second = result.other or NO_BRANCH
        ctx.save_for_backward(*result.main, *second, result.bits)
        ctx.settings, ctx.count, ctx.projected = settings, result.count, other is not None
        return result.out

    @staticmethod
    def backward(ctx, grad_out):
        saved = ctx.saved_tensors
        main, other, bits = Branch(*saved[:6]), Branch(*saved[6:12]), saved[12]
        other = other if ctx.projected else None
        wanted = Gradients(*ctx.needs_input_grad[:7])
        if torch.is_grad_enabled():
            grads = differentiable_backward(grad_out, main, other, bits, ctx.settings, wanted)
        else:
            with launch.on_device(main.x):
                grads = backward(grad_out, main, other, bits, ctx.settings, wanted, ctx.count)
        return (*grads, None, None, None, None)
