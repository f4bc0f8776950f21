"""All weights to half precision at once: two operators a step where autocast has two a layer.

Under autocast each convolution casts its own weight, and autograd casts each gradient back: in a
deep network hundreds of kernels with hardly any work. torch's operators on lists of tensors launch
one kernel for many of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn


class _Cast(torch.autograd.Function):
    @staticmethod
    def forward(ctx, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.dtypes = [weight.dtype for weight in weights]
        return _copied(weights, [dtype] * len(weights))

    @staticmethod
    def backward(ctx, *grads: Tensor | None):
        there = [index for index, grad in enumerate(grads) if grad is not None]
        wide = _copied([grads[i] for i in there], [ctx.dtypes[i] for i in there])
        found: list[Tensor | None] = [None] * len(grads)
        for index, grad in zip(there, wide, strict=True):
            found[index] = grad
        return None, *found


def _copied(tensors, dtypes) -> tuple[Tensor, ...]:
    copies = [torch.empty_like(t, dtype=d) for t, d in zip(tensors, dtypes, strict=True)]
    if copies:
        torch._foreach_copy_(copies, list(tensors))
    return tuple(copies)


class CastWeights:
    """A context in which a model's convolutions and linear layers have weights in half precision.

    Autocast would cast the same ones, with the same results, each when its layer runs. Batch norm's
    parameters stay in float32. Differentiable: gradients reach the parameters in their own dtype.

    ``torch.func.functional_call`` would do the exchange too, but finds every layer by its path
    again, which costs the host more than the casts do.

    Args:
        model: its parameters must stay the same objects. dtype: torch.bfloat16 or torch.float16.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        self.dtype = dtype
        self.places = [
            (layer, name, parameter)
            for layer in cast_layers(model)
            for name, parameter in layer.named_parameters(recurse=False)
        ]

    def __enter__(self) -> None:
        cast = _Cast.apply(self.dtype, *(parameter for _, _, parameter in self.places))
        for (layer, name, _), weight in zip(self.places, cast, strict=True):
            layer._parameters[name] = weight

    def __exit__(self, *_) -> None:
        for layer, name, parameter in self.places:
            layer._parameters[name] = parameter


def cast_layers(model: nn.Module) -> Iterator[nn.Module]:
    """The layers whose weights autocast casts."""
    return (m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))


def cast_for_good(model: nn.Module, dtype: torch.dtype) -> None:
    """All these weights to half precision in place, of a model that learns no more.

    Autocast keeps its casts of weights that need a gradient only, and frozen ones it casts again
    in every pass.
    """
    for layer in cast_layers(model):
        layer.to(dtype)
