"""``conv_bn_mask_add_relu``: a convolution and everything up to the ReLU after it.

Two ways compute it: *separate*, torch's convolution (cuDNN) and then ``bn_mask_add_relu``; or
*fused*, one Triton convolution with the rest in its epilogue (evaluation) or with the batch
statistics in it (training). Which is faster depends on the shape and the GPU, so nothing is fused
until it was measured: see ``autotune.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from . import autotune, backends
from . import fused as fused_norm
from .launch import MAX_PLANS, Launch, masks_order, on_device, power_of_two, unit
from .operator import bn_mask_add_relu, branch_of, check_call, check_device, check_floating
from .reference import NO_BRANCH, Branch, Projection, Settings

SEPARATE = "separate"


class ConvTile(NamedTuple):
    """Tile of output rows, output channels, and of the inner dimension; pipeline stages.

    ``k`` is for half precision: float32 takes half as many, which are as many bytes.
    """

    m: int
    n: int
    k: int
    stages: int

    @property
    def name(self) -> str:
        return f"{self.m}x{self.n}x{self.k}s{self.stages}"


# Among these a shape's tile is chosen by measurement; the first is taken without any. Larger ones
# spill registers on some GPU.
CONV_TILES = (ConvTile(128, 64, 64, 3), ConvTile(64, 64, 64, 4), ConvTile(64, 128, 64, 3))
# Four, and no more: flattened convolution loops over eight warps gave wrong results on Hopper
# with several releases of Triton (triton-lang/triton issue 1254, pytorch/pytorch issue 173068).
CONV_WARPS = 4


class Window(NamedTuple):
    """Stride and padding of a square convolution, both the same in height and width."""

    stride: int
    padding: int


def conv_bn_mask_add_relu(
    x: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    mask: Tensor | None = None,
    residual: Tensor | None = None,
    projection: Projection | None = None,
    relu: bool = True,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
    group: dist.ProcessGroup | None = None,
    backend: Literal["eager", "triton"] | None = None,
) -> Tensor:
    """``relu(mask * BN(conv(x)) + residual)``.

    In evaluation without gradients the fused way folds BN into a scale and a shift on the
    convolution's float32 accumulator, and the output is rounded once. In training the fused way
    takes the batch statistics in the convolution's epilogue, which saves one read of its output;
    its backward is torch's for the convolution and the fused one for the rest.

    Args:
        x: [N,C_in,H_in,W_in]; the fused way works in channels_last and copies anything else.
        conv_weight, conv_bias: [C_out,C_in/groups,KH,KW] and [C_out] or None.
        stride, padding, dilation, groups: as in ``torch.nn.functional.conv2d``.
        weight, bias, running_mean, running_var, mask, residual, projection, relu, training,
            momentum, eps, group: of :func:`scotoma.kernels.bn_mask_add_relu`, whose ``x`` is the
            convolution's output [N,C_out,H,W].
        backend: "eager" for torch's convolution and the eager definition; "triton" for the fused
            way, by the measured tile or else the first; None for whichever was measured to be
            faster (:func:`scotoma.kernels.measure_convolutions`), separate where nothing was.

    The fused way knows kernels of 1x1 and 3x3, strides 1 and 2, no dilation and one group. It does
    not run under ``torch.compile``. Under autocast it computes in autocast's dtype, as torch's
    convolution does. float32 it multiplies as TF32, if torch's convolution does so too
    (``torch.backends.cudnn.conv.fp32_precision``).

    Raises:
        ValueError: arguments do not fit together, or ``backend`` is "triton" and the fused way
            does not know this call. The message names the argument.
    """
    call = Call(
        x,
        conv_weight,
        conv_bias,
        (stride, padding, dilation, groups),
        Branch(None, weight, bias, running_mean, running_var, mask),
        residual,
        None if projection is None else Projection(*branch_of(projection)),
        Settings(relu, training, momentum, eps, group),
    )
    if backend is None and not autotune.active():
        return separate(call, None)  # the common case, decided without looking further
    check_convolution(call)
    if backends.checked(backend) == "eager":
        return separate(call, "eager")
    refusal = why_separate(call)
    if refusal and backend == "triton":
        raise ValueError(f"backend is 'triton', but {refusal}; use backend=None")
    if refusal:
        return separate(call, None)
    name = autotune.choose(
        x.device,
        describe(call),
        # Measuring must leave the running statistics alone.
        candidates(without_running_statistics(call)),
    )
    tile = next((tile for tile in CONV_TILES if tile.name == name), None)
    if tile is None and backend is None:
        return separate(call, None)
    return fused(call, tile or CONV_TILES[0])


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


def check_convolution(call: Call) -> None:
    """The arguments that are the convolution's.

    Raises:
        ValueError: the message names the argument, what it is and what it should be.
    """
    x, kernel, bias, (stride, padding, dilation, groups) = call[:4]
    check_floating(x, "x")
    if x.dim() != 4:
        raise ValueError(f"x has shape {list(x.shape)}; expected four dimensions [N,C,H,W]")
    stride, dilation = check_pair("stride", stride, 1), check_pair("dilation", dilation, 1)
    borders = 0, 0
    if padding not in ("same", "valid"):
        borders = check_pair("padding", padding, 0)
    elif padding == "same" and stride != (1, 1):
        raise ValueError(f"padding is 'same' and stride is {stride}; 'same' needs a stride of 1")
    if not is_whole(groups, 1):
        raise ValueError(f"groups is {groups!r}; expected an integer from 1")
    check_floating(kernel, "conv_weight")
    shape, channels = kernel.shape, x.shape[1]
    if kernel.dim() != 4 or shape[1] * groups != channels or shape[0] % groups or 0 in shape:
        raise ValueError(
            f"conv_weight has shape {list(shape)}, but x is {list(x.shape)} with groups {groups}; "
            f"expected [C_out,{channels // groups},KH,KW]"
            + (f", C_out a multiple of {groups}" if groups > 1 else "")
        )
    reach = [step * (taps - 1) + 1 for step, taps in zip(dilation, shape[2:], strict=True)]
    room = [size + 2 * border for size, border in zip(x.shape[2:], borders, strict=True)]
    if padding != "same" and (reach[0] > room[0] or reach[1] > room[1]):
        raise ValueError(
            f"conv_weight has shape {list(shape)} and reaches over {reach}, but x with its padding "
            f"is {room}; feed larger images"
        )
    check_device(x, kernel, "conv_weight")
    if bias is not None:
        check_floating(bias, "conv_bias")
        if bias.shape != shape[:1]:
            raise ValueError(f"conv_bias has shape {list(bias.shape)}; expected [{shape[0]}]")
        check_device(x, bias, "conv_bias")
    for name, tensor in (("conv_weight", kernel), ("conv_bias", bias)):
        if tensor is not None and tensor.dtype != x.dtype and not casting(x):
            raise ValueError(
                f"{name} has dtype {tensor.dtype}, but x has {x.dtype}; expected one dtype, or "
                f"autocast: convert it with {name}.to(x.dtype)"
            )


def check_pair(name: str, value, least: int) -> tuple[int, int]:
    """An integer, or one for the height and one for the width, as torch takes them."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if len(pair) not in (1, 2) or not all(is_whole(n, least) for n in pair):
        raise ValueError(
            f"{name} is {value!r}; expected an integer from {least}, or a pair (height, width)"
        )
    return pair * 2 if len(pair) == 1 else pair


def is_whole(n, least: int) -> bool:
    return hasattr(n, "__index__") and not isinstance(n, bool) and least <= n < 2**31


def separate(call: Call, backend: str | None) -> Tensor:
    """Torch's convolution, then the operator."""
    x, kernel, bias = call[:3]
    y = None
    try:
        # Torch lets these pass, and refuses whatever else is wrong: the checks say it better.
        together = kernel.device == x.device and (bias is None or bias.device == x.device)
        if together and x.dim() == 4:
            y = F.conv2d(x, kernel, bias, *call.conv_options)
    except (AttributeError, RuntimeError, TypeError, ValueError):
        check_convolution(call)
        raise
    if y is None:
        check_convolution(call)
    return bn_mask_add_relu(
        y,
        *call.branch[1:5],
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
    y = x.new_empty(1).expand(output_shape(x, kernel, window))
    other = branch_of(call.projection)
    check_call(call.branch._replace(x=y), other, residual, settings)
    if settings.training:
        y, partials = _ConvWithStatistics.apply(x, kernel, conv_bias, window, tile)
        main, partials = call.branch._replace(x=y), fused_norm.Partials(partials, tile.m)
        plan = fused_norm.plan_for(main, other, residual, settings)
        return fused_norm.bn_mask_add_relu(plan, main, other, residual, settings, partials)
    if residual is not None:
        residual = residual.to(dtype).contiguous(memory_format=torch.channels_last)
    vectors = [v if v is None else v.contiguous() for v in call.branch[1:5]]
    branch = Branch(None, *vectors, call.branch.mask)
    epilogue = {"branch": branch, "residual": residual, "relu": settings.relu}
    return convolve(x, kernel, conv_bias, window, tile, **epilogue, eps=settings.eps)[0]


class _ConvWithStatistics(torch.autograd.Function):
    """Convolution, and partial statistics of its output; backward is torch's own.

    The statistics carry no gradient here: the gradient of ``bn_mask_add_relu`` with respect to
    the output contains their part already.
    """

    @staticmethod
    def forward(ctx, x, kernel, bias, window, tile):
        ctx.save_for_backward(x, kernel)
        ctx.window, ctx.bias_sizes = window, None if bias is None else list(bias.shape)
        y, partials = convolve(x, kernel, bias, window, tile)
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


def without_running_statistics(call: Call) -> Call:
    """The same work on copies, where the call would update running statistics."""
    if not call.settings.training:
        return call
    projection = call.projection
    if projection is not None:
        projection = _with_copies(projection, "running_mean", "running_var")
    return call._replace(branch=_with_copies(call.branch, "mean", "var"), projection=projection)


def _with_copies(values: NamedTuple, *names: str):
    tensors = {name: getattr(values, name) for name in names}
    return values._replace(**{k: None if t is None else t.clone() for k, t in tensors.items()})


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
    refusal = backends.no_memory(x) or backends.device_refusal(x.device)
    if refusal:
        return refusal
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "the call is being traced, and the fused convolution would not be seen"
    if backends.transformed(x):
        return "torch.func or forward-mode differentiation transforms the call"
    dtype = compute_dtype(x)
    if dtype not in backends.DTYPES:
        return f"x has dtype {dtype}, and the kernels know float32, float16 and bfloat16"
    if dtype == torch.float32 and x.is_cuda and not backends.convolutions_may_use_tf32():
        return (
            "float32 convolutions are fused in TF32, which torch.backends.cudnn.conv."
            "fp32_precision (or allow_tf32) forbids"
        )
    if any(t is not None and t.dtype != dtype for t in others):
        return f"the convolution computes in {dtype}, residual or projection.x in another dtype"
    if kernel not in ((1, 1), (3, 3)):
        return f"conv_weight has a {kernel[0]}x{kernel[1]} kernel; expected 1x1 or 3x3"
    if window is None or window.stride not in (1, 2):
        return "stride and padding must be the same in height and width, and the stride 1 or 2"
    dilation, groups = call.conv_options[2:]
    if groups != 1 or dilation not in (1, (1, 1), [1, 1]):
        return f"groups is {groups} and dilation is {dilation}; expected 1 and 1"
    out = output_shape(x, call.conv_weight, window)
    if x.numel() == 0 or min(out) < 1:
        return f"x {list(x.shape)} leaves nothing to compute"
    if out[0] * out[2] * out[3] >= backends.MAX_ROWS or prod(out[1:]) >= 2**31:
        return f"the output {list(out)} is too large for 32-bit row numbers and offsets"
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


def casting(x: Tensor) -> bool:
    """Whether autocast is on."""
    kind = x.device.type
    # The meta device, on which calls are traced, has no autocast to ask about.
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def compute_dtype(x: Tensor) -> torch.dtype:
    """What torch's convolution would compute in: autocast's dtype where that is on."""
    return torch.get_autocast_dtype(x.device.type) if casting(x) else x.dtype


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
    optional = "conv_bias", "residual", "projection"
    words += [name for name in optional if getattr(call, name) is not None]
    words += ["mask"] if call.branch.mask is not None else []
    words += ["relu"] if call.settings.relu else []
    return " ".join(words)


def output_shape(x: Tensor, kernel: Tensor, window: Window) -> tuple[int, int, int, int]:
    def size(n: int, taps: int) -> int:
        return (n + 2 * window.padding - taps) // window.stride + 1

    n, _, height, width = x.shape
    return n, kernel.shape[0], size(height, kernel.shape[2]), size(width, kernel.shape[3])


def convolve(
    x: Tensor,
    kernel: Tensor,
    kernel_bias: Tensor | None,
    window: Window,
    tile: ConvTile,
    *,
    branch: Branch | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
    eps: float = 0.0,
) -> tuple[Tensor, Tensor | None]:
    """Convolution with one of the two epilogues of ``device/convolution.py``. One launch.

    All activations channels_last; ``kernel`` in the dtype of ``x``, channels_last.

    Args:
        branch: the affine parameters, statistics and mask that the epilogue applies (its ``x`` is
            ignored); None to return ``conv(x) + kernel_bias`` and partial statistics instead.

    Returns: the output, and partial statistics [1, 2, ceil(rows / tile.m), C_out] or None.
    """
    shape = output_shape(x, kernel, window)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    partials, order = None, True
    if branch is None:
        chunks = -(-shape[0] * shape[2] * shape[3] // tile.m)
        partials = x.new_empty((1, 2, chunks, shape[1]), dtype=torch.float32)
        branch = NO_BRANCH
    else:
        order = masks_order(branch.mask)
        if order is None:
            mask = branch.mask.permute(1, 2, 0).contiguous().permute(2, 0, 1)
            branch, order = branch._replace(mask=mask), True
    tensors = x, kernel, kernel_bias, *branch[1:], residual
    described = [None if t is None else (t.shape, t.dtype) for t in tensors]
    key = (*described, x.device, window, tile, relu, eps, order, fused_norm.aligned(*tensors))
    if key not in launches:
        if len(launches) >= MAX_PLANS:
            launches.clear()
        launches[key] = _launch_for(x, kernel, shape, window, tile, relu, eps, order, key[-1])
    with on_device(launches[key].device):
        launches[key](None, x, kernel, kernel_bias, branch, residual, out, partials)
    return out, partials


# By everything that decides them.
launches: dict[tuple, Launch] = {}


def _launch_for(x, kernel, shape, window, tile: ConvTile, relu, eps, order, direct) -> Launch:
    n, channels, height, width = shape
    inner, itemsize = kernel.shape[1], x.element_size()
    chunks = -(-(n * height * width) // tile.m)
    in_unit, out_unit = unit(inner, itemsize), unit(channels, itemsize)
    # A narrow output needs no wider tile, nor its registers.
    block_n = min(tile.n, max(16, power_of_two(channels)))
    return Launch(
        "convolve",
        (chunks * -(-channels // block_n), 1),
        x.get_device(),
        direct,
        {"num_warps": CONV_WARPS, "num_stages": tile.stages},
        eps=float(eps),
        M=n * height * width,
        IN_UNITS=inner // in_unit,
        OUT_UNITS=channels // out_unit,
        H=x.shape[2],
        W=x.shape[3],
        OUT_H=height,
        OUT_W=width,
        CHUNKS=chunks,
        IN_UNIT=in_unit,
        OUT_UNIT=out_unit,
        KH=kernel.shape[2],
        KW=kernel.shape[3],
        STRIDE=window.stride,
        PADDING=window.padding,
        MASK_CHANNELS_LAST=order,
        RELU=relu,
        PRECISION=precision(x),
        BLOCK_M=tile.m,
        BLOCK_N=block_n,
        # tl.dot takes an inner dimension of 16 at least; a narrow input needs no more.
        BLOCK_K=min(tile.k * 2 // itemsize, max(16, power_of_two(inner))),
    )


def precision(x: Tensor) -> str:
    """float32 is multiplied as TF32 on a GPU: anything else has no tensor cores, and no use."""
    return "tf32" if x.dtype == torch.float32 and x.device.type != "cpu" else "ieee"
