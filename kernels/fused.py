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

from . import backends, reference
from .launch import MAX_PLANS, Plan, on_device
from .reference import NO_BRANCH, Branch, Settings


class Gradients(NamedTuple):
    """One entry for each input that may have a gradient: the gradient, or whether it is wanted."""

    x: Tensor | bool | None
    weight: Tensor | bool | None
    bias: Tensor | bool | None
    residual: Tensor | bool | None
    x2: Tensor | bool | None
    weight2: Tensor | bool | None
    bias2: Tensor | bool | None


class Partials(NamedTuple):
    """Partial statistics of the main branch that its convolution left behind."""

    values: Tensor  # [1, 2, chunks, C]
    chunk: int  # rows


plans: dict[tuple, Plan] = {}


def plan_for(main: Branch, other: Branch | None, residual, settings: Settings) -> Plan:
    """The plan for calls on tensors like these, kept for the next one."""
    key = describe(main, other, residual, settings)
    if key not in plans:
        if len(plans) >= MAX_PLANS:  # shapes that change with every call
            plans.clear()
        plans[key] = Plan(main, other, residual, *key[0], direct=key[1])
    return plans[key]


def describe(main: Branch, other: Branch | None, residual, settings: Settings) -> tuple:
    """Everything that a plan depends on: of tensors all but their numbers."""
    tensors = (*main, residual) if other is None else (*main, residual, *other)
    return (
        (settings.relu, settings.training, settings.eps),
        aligned(*tensors),
        *[None if t is None else (t.shape, t.stride(), t.dtype, t.device) for t in tensors],
    )


def aligned(*tensors: Tensor | None) -> bool:
    """Whether every tensor begins at a multiple of 16 bytes."""
    together = 0
    for tensor in tensors:
        if tensor is not None:
            together |= tensor.data_ptr()
    return together & 15 == 0


def bn_mask_add_relu(
    plan: Plan,
    main: Branch,
    other: Branch | None,
    residual: Tensor | None,
    settings: Settings,
    partials: Partials | None = None,
) -> Tensor:
    """The fused operator, its arguments checked. A branch's mean and var are the running ones."""
    main, other, residual = plan.lay_out(main, other, residual)
    if not torch.is_grad_enabled():
        return forward(main, other, residual, settings, partials, save_bits=False, plan=plan).out
    second = other or NO_BRANCH
    call = plan, main, other, settings, partials
    return _apply(*main[:3], residual, *second[:3], call)


class Forward(NamedTuple):
    out: Tensor
    main: Branch  # with the statistics that normalised
    other: Branch | None
    bits: Tensor | None
    count: Tensor | None  # rows of all ranks, where statistics were synchronised


def forward(
    main: Branch,
    other: Branch | None,
    residual: Tensor | None,
    settings: Settings,
    partials: Partials | None = None,
    *,
    save_bits: bool,
    plan: Plan | None = None,
) -> Forward:
    """Statistics (training only), then one pass. Updates the running statistics."""
    if plan is None:
        plan = plan_for(main, other, residual, settings)
        main, other, residual = plan.lay_out(main, other, residual)
    count = None
    with on_device(plan.device):
        if settings.training:
            branches = [main] if other is None else [main, other]
            if settings.synchronised:
                statistics, count = _synchronised_statistics(plan, branches, settings)
            else:
                statistics = _local_statistics(plan, branches, settings.momentum, partials)
            main = Branch(*main[:3], *statistics[:2], main.mask)
            if other is not None:
                other = Branch(*other[:3], *statistics[2:], other.mask)
        out, bits = plan.apply_forward(main, other, residual, save_bits)
    return Forward(out, main, other, bits, count)


def _local_statistics(plan: Plan, branches: list[Branch], momentum, partials: Partials | None):
    """Mean and biased variance [C] of each branch in this process; updates the running ones."""
    # A momentum that only the device knows cannot be a kernel's argument: then update outside.
    running = [(b.mean, b.var) for b in branches]
    inside = plan.updates and not isinstance(momentum, Tensor) and running[0][0] is not None
    if inside and len(running) == 2:  # of two branches that share them one after the other
        inside = not {t.data_ptr() for t in running[0]} & {t.data_ptr() for t in running[1]}
    update, factor = (running, momentum) if inside else (None, 0.0)
    if partials is None:
        sums = plan.partial_statistics(*[b.x for b in branches])
        statistics = plan.merge_statistics(sums, update, factor)
    else:
        first, second = (update[:1], update[1:]) if inside else (None, None)
        statistics = plan.merge_statistics(partials.values, first, factor, partials.chunk)
        for branch in branches[1:]:
            sums = plan.partial_statistics(branch.x)
            statistics = torch.cat([statistics, plan.merge_statistics(sums, second, factor)])
    statistics = statistics.unbind()
    if not inside:
        for (old_mean, old_var), mean, var in zip(
            running, statistics[::2], statistics[1::2], strict=True
        ):
            if old_mean is not None:
                unbiased = var * (plan.rows / (plan.rows - 1))
                reference.update_running_statistics(old_mean, old_var, mean, unbiased, momentum)
    return statistics


def _synchronised_statistics(plan: Plan, branches: list[Branch], settings: Settings):
    """Statistics over all ranks' batches, by one collective for all branches."""
    sums = plan.partial_statistics(*[b.x for b in branches])
    local = plan.merge_statistics(sums, None, 0.0)
    packed = torch.cat([local.new_full((1,), plan.rows), local.flatten()])
    gathered = reference.all_gather(packed, settings.group)
    counts, total = gathered[:, :1], gathered[:, 0].sum()
    merged = []
    for branch, s in zip(branches, gathered[:, 1:].chunk(len(branches), dim=1), strict=True):
        means, variances = s.chunk(2, dim=1)
        mean, m2 = reference.merge_moments(means, variances * counts, counts)
        merged += [mean, m2 / total]
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
    plan: Plan | None = None,
) -> Gradients:
    """Gradients of all inputs that are ``wanted``.

    count: rows of all ranks, where statistics were synchronised. plan: of tensors that lie like
        these, ``grad_out`` aligned like them; None to look for one.
    """
    grad_out = grad_out.to(main.x.dtype)
    if plan is None:
        plan = plan_for(main, other, grad_out, settings)
        main, other, grad_out = plan.lay_out(main, other, grad_out)
    grad_out = grad_out.contiguous(memory_format=plan.format)
    _, weight, bias, _, _, weight2, bias2 = wanted
    vectors = weight, bias, weight2, bias2
    through_statistics = settings.training and (wanted.x or wanted.x2)
    sums, grads, inverse_count = None, (None,) * 4, 1.0 / plan.rows
    with on_device(plan.device):
        if through_statistics or any(vectors):
            sums, grads = plan.reduce_gradients(grad_out, main, other, bits, vectors)
        if not through_statistics:
            sums = None
        elif settings.synchronised:
            dist.all_reduce(sums, group=settings.group)
            sums, inverse_count = sums / count, 1.0
        # Without ReLU the residual's gradient is grad_out itself.
        activations = wanted.x, wanted.residual and settings.relu, wanted.x2
        grad_x, grad_residual, grad_x2 = (None,) * 3
        if any(activations):
            grad_x, grad_residual, grad_x2 = plan.apply_backward(
                grad_out, main, other, bits, sums, inverse_count, activations
            )
    if wanted.residual and not settings.relu:
        grad_residual = grad_out
    return Gradients(grad_x, *grads[:2], grad_residual, grad_x2, *grads[2:])


class _BNMaskAddReLU(torch.autograd.Function):
    """The plain autograd path: in eager mode it costs less per call than a registered operator."""

    @staticmethod
    def forward(ctx, x, weight, bias, residual, x2, weight2, bias2, call):
        plan, main, other, settings, partials = call
        save_bits = settings.relu and residual is not None and any(ctx.needs_input_grad)
        result = forward(main, other, residual, settings, partials, save_bits=save_bits, plan=plan)
        second = result.other or NO_BRANCH
        ctx.save_for_backward(*result.main, *second, result.bits)
        ctx.plan, ctx.settings, ctx.count = plan, settings, result.count
        return result.out

    @staticmethod
    def backward(ctx, grad_out):
        saved = ctx.saved_tensors
        main, second, bits = Branch(*saved[:6]), Branch(*saved[6:12]), saved[12]
        other = None if second.x is None else second
        wanted = Gradients(*ctx.needs_input_grad[:7])
        if torch.is_grad_enabled() or backends.transformed(grad_out):
            grads = differentiable_backward(grad_out, main, other, bits, ctx.settings, wanted)
        else:
            # Hooks on saved tensors may give back copies that lie otherwise (save_on_cpu does).
            plan = ctx.plan
            if not plan.fits(main, second) or not (
                aligned(grad_out, main.x, main.mask, second.x, second.mask) or not plan.direct
            ):
                plan = None
            grads = backward(grad_out, main, other, bits, ctx.settings, wanted, ctx.count, plan)
        return (*grads, None)


# What Function.apply ends in, without its questions about torch.func: they were asked before.
_apply = super(torch.autograd.Function, _BNMaskAddReLU).apply


def differentiable_backward(grad_out, main, other, bits, settings: Settings, wanted: Gradients):
    """``backward`` in plain torch, for ``create_graph=True`` and for batches of gradients.

    The gradient of each branch is autograd's of the eager definition; ReLU is a constant 0/1
    factor, whose own derivative is 0.
    """
    # Inputs may depend on each other (one tensor in both branches, shared parameters). Each gets a
    # name of its own in the graph, so that its gradient counts no path through another.
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        branches = [_named(b) for b in ([main] if other is None else [main, other])]
        values = []
        for b in branches:
            running = (None, None) if settings.training else (b.mean, b.var)
            value = reference.batch_norm(*b[:3], *running, *settings[1:])
            values.append(reference.apply_mask(value, b.mask))
    grad = grad_out
    if settings.relu:
        if bits is None:
            alive = ~(sum(values).detach() <= 0)
        else:
            alive = reference.unpack_bits(bits, main.x)
        grad = grad_out.where(alive, 0)
    names = [n for n in ("x", "weight", "bias", "x2", "weight2", "bias2") if getattr(wanted, n)]
    inputs = [getattr(branches[n.endswith("2")], n.removesuffix("2")) for n in names]
    found = {}
    if inputs:
        # A branch of constants has no graph.
        values = [v for v in values if v.requires_grad]
        grads = torch.autograd.grad(values, inputs, [grad] * len(values), create_graph=again)
        found = dict(zip(names, grads, strict=True))
    if wanted.residual:
        found["residual"] = grad
    return Gradients(*(found.get(name) for name in Gradients._fields))


def _named(branch: Branch) -> Branch:
    own = [None if t is None else t.view_as(t) for t in branch[:3]]
    return Branch(*own, *branch[3:])
