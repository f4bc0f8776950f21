"""The two ways of ``conv_bn_mask_add_relu``, and which calls the fused one knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import backends, checks, conv_launch
from . import fused as fused_norm
from .call import Branch, Settings
from .conv_launch import CONV_TILES, ConvTile, Window
from .launch import on_device
from .operator import bn_mask_add_relu
from .reference import Projection

SEPARATE = "separate"


class Call(NamedTuple):
    """The arguments of one call; ``branch.x`` is not known yet."""

    x: Tensor
    conv_weight: Tensor
    conv_bias: Tensor | None
    conv_options: tuple  # stride, padding, dilation, groups
    branch: Branch
    residual: Tensor | None
    projection: Projection | None
    settings: Settings


def separate(call: Call, backend: str | None) -> Tensor:
    """Torch's convolution, then the operator."""
    y = F.conv2d(call.x, call.conv_weight, call.conv_bias, *call.conv_options)
    return bn_mask_add_relu(
        y,
        *call.branch.vectors(),
        mask=call.branch.mask,
        residual=call.residual,
        projection=call.projection,
        backend=backend,
        **call.settings._asdict(),
    )


def fused(call: Call, tile: ConvTile) -> Tensor:
    """One Triton convolution with an epilogue. The call is one that ``why_separate`` passes."""
    dtype, window = compute_dtype(call.x), square_window(call)
    x = call.x.to(dtype).contiguous(memory_format=torch.channels_last)
    kernel = call.conv_weight.to(dtype).contiguous(memory_format=torch.channels_last)
    conv_bias = None if call.conv_bias is None else call.conv_bias.to(dtype).contiguous()
    residual, settings = call.residual, call.settings
    # The output exists as a shape only; the checks look no further.
    y = x.new_empty(1).expand(conv_launch.output_shape(x, kernel, window))
    checks.check_call(y, *call.branch[1:], residual, call.projection, settings)
    if settings.training:
        return _training(call, x, kernel, conv_bias, window, tile)
    if residual is not None:
        residual = residual.to(dtype).contiguous(memory_format=torch.channels_last)
    vectors = [v if v is None else v.contiguous() for v in call.branch.vectors()]
    with on_device(x):
        return conv_launch.convolve(
            x,
            kernel,
            conv_bias,
            window,
            tile,
            branch=Branch(None, *vectors, call.branch.mask),
            residual=residual,
            relu=settings.relu,
            eps=settings.eps,
        )[0]


def _training(call: Call, x, kernel, conv_bias, window, tile) -> Tensor:
    y, partials = _ConvWithStatistics.apply(x, kernel, conv_bias, window, tile)
    return fused_norm.bn_mask_add_relu(
        call.branch._replace(x=y),
        None if call.projection is None else Branch(*call.projection),
        call.residual,
        call.settings,
        fused_norm.Partials(partials, tile.m),
    )


class _ConvWithStatistics(torch.autograd.Function):
    """Convolution, and partial statistics of its output; backward is torch's own.

    The statistics carry no gradient here: the gradient of ``bn_mask_add_relu`` with respect to
    the output contains their part already.
    """

    @staticmethod
    def forward(ctx, x, kernel, bias, window, tile):
        ctx.save_for_backward(x, kernel)
        ctx.window, ctx.bias_sizes = window, None if bias is None else list(bias.shape)
        with on_device(x):
            y, partials = conv_launch.convolve(x, kernel, bias, window, tile)
        ctx.mark_non_differentiable(partials)
        return y, partials

    @staticmethod
    def backward(ctx, grad, _):
        x, kernel = ctx.saved_tensors
        stride, padding = ctx.window
        needs = list(ctx.needs_input_grad[:3])
        grads = torch.ops.aten.convolution_backward(
            grad, x, kernel, ctx.bias_sizes, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1,
            needs,
        )  # fmt: skip
        return (*(g if n else None for g, n in zip(grads, needs, strict=True)), None, None)


def candidates(call: Call) -> dict[str, Callable[[], Tensor]]:
    """What a measurement compares, by name; the separate way first."""
    ways = {SEPARATE: lambda: separate(call, None)}
    return ways | {tile.name: lambda tile=tile: fused(call, tile) for tile in CONV_TILES}


def tile_named(name: str) -> ConvTile | None:
    return next((tile for tile in CONV_TILES if tile.name == name), None)


def without_running_statistics(call: Call) -> Call:
    """The same work on copies, where the call would update running statistics."""
    if not call.settings.training:
        return call
    projection = call.projection
    if projection is not None:
        projection = projection._replace(**_copies(projection, "running_mean", "running_var"))
    branch = call.branch._replace(**_copies(call.branch, "mean", "var"))
    return call._replace(branch=branch, projection=projection)


def _copies(values: NamedTuple, *names: str) -> dict[str, Tensor | None]:
    tensors = {name: getattr(values, name) for name in names}
    return {name: None if t is None else t.clone() for name, t in tensors.items()}


def square_window(call: Call) -> Window | None:
    """Stride and padding as one number each; None where that is not so."""
    numbers = []
    for value in call.conv_options[:2]:
        pair = (value, value) if isinstance(value, int) else tuple(value)
        if len(pair) != 2 or pair[0] != pair[1] or not isinstance(pair[0], int):
            return None
        numbers.append(pair[0])
    return Window(*numbers)


def why_separate(call: Call) -> str | None:
    """Why the fused way cannot compute this call; None if it can."""
    x, kernel, window = call.x, tuple(call.conv_weight.shape[2:]), square_window(call)
    others = (call.residual, None if call.projection is None else call.projection.x)
    refusal = backends.device_refusal(x.device)
    if refusal:
        return refusal
    if torch.compiler.is_compiling():
        return "torch.compile is tracing, which does not see into the fused convolution"
    dtype = compute_dtype(x)
    if dtype not in backends.DTYPES:
        return f"x has dtype {dtype}, and the kernels know float32, float16 and bfloat16"
    if dtype == torch.float32 and x.is_cuda and not torch.backends.cudnn.allow_tf32:
        return (
            "float32 convolutions are fused in TF32, which torch.backends.cudnn.allow_tf32 forbids"
        )
    if any(t is not None and t.dtype != dtype for t in others):
        return (
            f"the convolution computes in {dtype}, and residual or projection.x has another dtype"
        )
    if kernel not in ((1, 1), (3, 3)):
        return f"conv_weight has a {kernel[0]}x{kernel[1]} kernel; expected 1x1 or 3x3"
    if window is None or window.stride not in (1, 2):
        return "stride and padding must be the same in height and width, and the stride 1 or 2"
    dilation, groups = call.conv_options[2:]
    if groups != 1 or dilation not in (1, (1, 1), [1, 1]):
        return f"groups is {groups} and dilation is {dilation}; expected 1 and 1"
    if x.numel() == 0 or min(conv_launch.output_shape(x, call.conv_weight, window)) < 1:
        return f"x {list(x.shape)} leaves nothing to compute"
    if call.settings.training:
        return "statistics are synchronised" if call.settings.synchronised else None
    if _needs_gradient(call):
        return "an input requires a gradient, which in evaluation the fused way does not have"
    if call.projection is not None:
        return "projection is given in evaluation: pass that branch, computed first, as residual"
    return None


def _needs_gradient(call: Call) -> bool:
    tensors = (call.x, call.conv_weight, call.conv_bias, call.residual, *call.branch[1:5])
    tensors += call.projection or ()
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def compute_dtype(x: Tensor) -> torch.dtype:
    """What torch's convolution would compute in: autocast's dtype where that is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def describe(call: Call) -> str:
    """Everything that a measured choice depends on, in one readable line."""
    size = "x".join(map(str, call.x.shape))
    channels, _, height, width = call.conv_weight.shape
    stride, padding = square_window(call)
    words = [
        str(compute_dtype(call.x)).removeprefix("torch."),
        f"{size} -> {channels}",
        f"{height}x{width} stride {stride} padding {padding}",
        "training" if call.settings.training else "evaluation",
    ]
    words += [
        name for name in ("conv_bias", "residual", "projection") if getattr(call, name) is not None
    ]
    words += ["mask"] if call.branch.mask is not None else []
    words += ["relu"] if call.settings.relu else []
    return " ".join(words)
