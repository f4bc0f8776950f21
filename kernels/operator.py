"""The public face of the operators: checks once, then hands over to a backend."""

from __future__ import annotations

from typing import Literal

import torch.distributed as dist
from torch import Tensor

from . import checks, reference
from .reference import Projection


def bn_mask_add_relu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    mask: Tensor | None = None,
    residual: Tensor | None = None,
    projection: Projection | None = None,
    relu: bool = True,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    group: dist.ProcessGroup | None = None,
    backend: Literal["eager"] | None = None,
) -> Tensor:
    """``relu(mask * BN(x) + residual)``: a defective layer after its convolution.

    The mask comes after batch norm and before both the addition and ReLU, so the batch
    statistics see every position, the masked ones too. Nothing is rescaled by 1/p.
    Source: paper equations 3 to 5, in the order of the authors' release.

    Args:
        x: convolution output [N,C,H,W], float32, float16, bfloat16 or float64; channels_last or
            contiguous. The output has its shape, dtype and memory format.
        weight, bias: affine parameters [C], or None.
        running_mean, running_var: running statistics [C], updated in place when ``training``;
            None to use none (``training`` must then be True).
        mask: fixed 0/1 mask [C,H,W], bool or uint8, the same for every image; None for no mask.
        residual: tensor added to the masked branch, shaped like ``x``.
        projection: second branch ``mask * BN(x)`` added to the first, instead of ``residual``.
        relu: apply ReLU at the end. NaN passes through it.
        training: normalise by batch statistics (True) or running statistics (False). The gradient
            is right in both cases.
        momentum: weight of the new batch in the running statistics.
        eps: epsilon, added to the variance.
        group: process group over which batch statistics are synchronised; None for local ones.
        backend: None to choose, or "eager" for the PyTorch definition, the only one so far.

    Raises:
        ValueError: an argument has the wrong shape, dtype or combination. The message names it.
    """
    if backend not in (None, "eager"):
        raise ValueError(f"backend is {backend!r}; expected None or 'eager'")
    checks.check_branch(x, weight, bias, running_mean, running_var, mask, training)
    if residual is not None:
        checks.check_residual(x, residual, projection)
    if projection is not None:
        checks.check_projection(x, projection, training)
    return reference.bn_mask_add_relu(
        x,
        weight,
        bias,
        running_mean,
        running_var,
        mask=mask,
        residual=residual,
        projection=projection,
        relu=relu,
        training=training,
        momentum=momentum,
        eps=eps,
        group=group,
    )


def apply_mask(x: Tensor, mask: Tensor | None) -> Tensor:
    """``x * mask``: the mask on a bare convolution output (the paper's placement in DenseNet).

    Args:
        x: [N,C,H,W].
        mask: 0/1 mask [C,H,W], bool or uint8; None returns ``x`` itself.

    Raises:
        ValueError: ``mask`` does not fit ``x``.
    """
    if mask is not None:
        checks.check_mask(x, mask, "mask")
    return reference.apply_mask(x, mask)
