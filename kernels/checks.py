"""Input checks of the operators: shapes and dtypes only, so that no check waits for a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

MASK_DTYPES = (torch.bool, torch.uint8)


def check_call(
    x, weight, bias, running_mean, running_var, mask, residual, projection, settings
) -> None:
    """All arguments of ``bn_mask_add_relu``; ``settings`` is its NamedTuple of the same names."""
    training = settings.training
    check_branch(x, weight, bias, running_mean, running_var, mask, training)
    check_statistics(x, training, settings.momentum, settings.eps, settings.group)
    if residual is not None:
        check_residual(x, residual, projection)
    if projection is not None:
        check_projection(x, projection, training)


def check_convolution(x: Tensor, conv_weight: Tensor, conv_bias: Tensor | None, groups) -> None:
    if x.dim() != 4:
        raise ValueError(f"x has shape {list(x.shape)}; expected four dimensions [N,C,H,W]")
    if conv_weight.dim() != 4 or conv_weight.shape[1] * groups != x.shape[1]:
        raise ValueError(
            f"conv_weight has shape {list(conv_weight.shape)}, but x is {list(x.shape)} with "
            f"groups {groups}; expected [C_out,{x.shape[1] // groups},KH,KW]"
        )
    if conv_bias is not None and conv_bias.shape != conv_weight.shape[:1]:
        raise ValueError(
            f"conv_bias has shape {list(conv_bias.shape)}; expected [{conv_weight.shape[0]}], one "
            "value for each output channel"
        )


def check_branch(x, weight, bias, running_mean, running_var, mask, training, prefix="") -> None:
    """One batch norm branch: ``x`` [N,C,H,W], per-channel vectors [C], mask [C,H,W]."""
    if x.dim() != 4:
        raise ValueError(f"{prefix}x has shape {list(x.shape)}; expected four dimensions [N,C,H,W]")
    if not x.is_floating_point():
        raise ValueError(
            f"{prefix}x has dtype {x.dtype}; expected a floating dtype: convert it with x.float()"
        )
    channels = x.shape[1]
    for name, vector in (
        ("weight", weight),
        ("bias", bias),
        ("running_mean", running_mean),
        ("running_var", running_var),
    ):
        if vector is not None and vector.shape != (channels,):
            raise ValueError(
                f"{prefix}{name} has shape {list(vector.shape)}; expected [{channels}], "
                f"one value for each channel of {prefix}x {list(x.shape)}"
            )
    if (running_mean is None) != (running_var is None):
        raise ValueError(f"{prefix}running_mean and {prefix}running_var: give both or neither")
    if not training and running_mean is None:
        raise ValueError(
            f"{prefix}running_mean is None while training is False: evaluation needs running "
            "statistics; give them, or pass training=True to use the batch's own"
        )
    if mask is not None:
        check_mask(x, mask, f"{prefix}mask")


def check_statistics(x: Tensor, training: bool, momentum, eps: float, group) -> None:
    if momentum is None:
        raise ValueError(
            "momentum is None; expected a float, or a tensor with one value. For a cumulative "
            "average pass 1 / num_batches_tracked"
        )
    if isinstance(momentum, Tensor) and momentum.numel() != 1:
        raise ValueError(
            f"momentum has shape {list(momentum.shape)}; expected a float, or a tensor with one "
            "value"
        )
    if eps < 0:
        raise ValueError(f"eps is {eps}; expected a number that is not negative, such as 1e-5")
    if training and group is None and x.numel() == x.shape[1]:
        raise ValueError(
            f"x has shape {list(x.shape)}: batch statistics need more than 1 value per channel; "
            "use a larger batch, or training=False"
        )


def check_mask(x: Tensor, mask: Tensor, name: str) -> None:
    if mask.dtype not in MASK_DTYPES:
        raise ValueError(
            f"{name} has dtype {mask.dtype}; expected bool or uint8 (a float mask would promote "
            f"the activations): convert it with mask.bool()"
        )
    if mask.shape != x.shape[1:]:
        raise ValueError(
            f"{name} has shape {list(mask.shape)}, but the activations are {list(x.shape)}; "
            f"expected {list(x.shape[1:])}. Masks are fixed to one image size: feed images of "
            "the size the network was created for"
        )


def check_residual(x: Tensor, residual: Tensor, projection) -> None:
    if projection is not None:
        raise ValueError("residual and projection are both given; a block has one of them")
    if residual.shape != x.shape:
        raise ValueError(
            f"residual has shape {list(residual.shape)}; expected that of x, {list(x.shape)}"
        )


def check_projection(x: Tensor, projection, training: bool) -> None:
    if projection.x.shape != x.shape:
        raise ValueError(
            f"projection.x has shape {list(projection.x.shape)}; "
            f"expected that of x, {list(x.shape)}"
        )
    check_branch(*projection, training, prefix="projection.")
