"""All weights to half precision at once: two operators a step where autocast has two a layer.

Under autocast each convolution casts its own weight, and autograd casts each gradient back: in a
deep network hundreds of kernels with hardly any work. torch's operators on lists of tensors launch
one kernel for many of them.
"""

from __future__ import annotations

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


def cast_weights(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The parameters of convolutions and linear layers in ``dtype``, for ``functional_call``.

    Autocast would cast the same ones, with the same results, each when its layer runs. Batch norm's
    parameters stay in float32. Differentiable: gradients reach the parameters in their own dtype.

    Returns:
        Parameter name in ``model`` -> tensor.
    """
    names, weights = [], []
    for path, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            for name, parameter in module.named_parameters(path, recurse=False):
                names.append(name)
                weights.append(parameter)
    return dict(zip(names, _Cast.apply(dtype, *weights), strict=True))
