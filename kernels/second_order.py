"""The backward pass in plain torch operations, which can be differentiated again."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from .bits import unpack_bits
from .call import Branch, Gradients, Settings


def differentiable_backward(grad_out, main, other, bits, settings: Settings, wanted: Gradients):
    """``fused.backward`` for ``create_graph=True``.

    The gradient of each branch is autograd's of the eager definition; ReLU is a constant 0/1
    factor, whose own derivative is 0.
    """
    # Inputs may depend on each other (one tensor in both branches, shared parameters). Each gets a
    # name of its own in the graph, so that its gradient counts no path through another.
    branches = [_named(b) for b in ([main] if other is None else [main, other])]
    values = []
    for b in branches:
        running = (None, None) if settings.training else (b.mean, b.var)
        value = reference.batch_norm(
            b.x,
            b.weight,
            b.bias,
            *running,
            settings.training,
            settings.momentum,
            settings.eps,
            settings.group,
        )
        values.append(reference.apply_mask(value, b.mask))
    grad = grad_out
    if settings.relu:
        alive = ~(sum(values).detach() <= 0) if bits is None else unpack_bits(bits, main.x)
        grad = grad_out * alive
    names = [n for n in ("x", "weight", "bias", "x2", "weight2", "bias2") if getattr(wanted, n)]
    inputs = [_input(branches, name) for name in names]
    found = {}
    if inputs:
        grads = torch.autograd.grad(values, inputs, [grad] * len(values), create_graph=True)
        found = dict(zip(names, grads, strict=True))
    if wanted.residual:
        found["residual"] = grad
    return Gradients(*(found.get(name) for name in Gradients._fields))


def _named(branch: Branch) -> Branch:
    own = [None if t is None else t.view_as(t) for t in branch[:3]]
    return Branch(*own, *branch[3:])


def _input(branches, name: str) -> Tensor:
    return getattr(branches[1], name[:-1]) if name.endswith("2") else getattr(branches[0], name)
