"""Half precision: what "auto" is on a device, and training in it faster than by autocast.

All weights go to half precision at once: two operators a step where autocast has two a layer. Under
autocast each convolution casts its own weight, and autograd casts each gradient back: in a
deep network hundreds of kernels with hardly any work. torch's operators on lists of tensors launch
one kernel for many of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def automatic_precision(device: torch.device) -> str:
    """What ``--precision auto`` is on a device."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(False) else "float16"
    return "float32"


def has_amx(kind: str = "_tile") -> bool:
    """Whether this CPU has matrix units for bfloat16, or "_fp16" for float16.

    With AVX-512 alone, its bfloat16 instructions included, half precision was slower than float32
    on the one processor where we compared them (Xeon without AMX, torch 2.14.1).
    """
    return bool(getattr(torch.cpu, f"_is_amx{kind}_supported", bool)())


def slow_precision(precision: str, device: torch.device) -> str | None:
    """What to say of a precision that a CPU has no matrix units for; None of any other."""
    fast = {"float32": True, "bfloat16": has_amx(), "float16": has_amx("_fp16")}
    if device.type != "cpu" or fast[precision]:
        return None
    return (
        f"this CPU has no matrix units (AMX) for {precision}: --precision float32 is likely faster"
    )


def busy(device: torch.device) -> str | None:
    """What helps on a CPU whose cores others use now; None where enough are free, or nobody says.

    OpenMP's threads wait for each other in loops: one that gets no core holds up all others.
    """
    threads = torch.get_num_threads()
    try:
        cores = len(os.sched_getaffinity(0))
        average, _, _, now, _ = Path("/proc/loadavg").read_text().split()
    except (AttributeError, OSError, ValueError):  # not Linux
        return None
    # The average remembers what has just ended; this process is one of those that run now.
    others = min(float(average), int(now.split("/")[0]) - 1)
    if device.type != "cpu" or threads == 1 or others + threads < cores + 1:
        return None
    return (
        f"others run {others:.0f} threads on the {cores} cores, and torch's {threads} wait for "
        "each other: OMP_NUM_THREADS=1 may be several times faster"
    )


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


class _Convolution(torch.autograd.Function):
    """A convolution whose gradient for the weight is computed in float32, and rounded once."""

    @staticmethod
    def forward(ctx, x, weight, bias, *geometry):
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return torch.conv2d(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx, grad):
        def gradients(grad, x, weight, *wanted):
            return torch.ops.aten.convolution_backward(
                grad, x, weight, [len(weight)], *strides, False, [0, 0], groups, wanted
            )

        (x, weight), (*strides, groups) = ctx.saved_tensors, ctx.geometry
        for_x, for_weight, for_bias = ctx.needs_input_grad[:3]
        found = gradients(grad, x, weight, for_x, False, for_bias)
        if for_weight:
            wide = gradients(grad.float(), x.float(), weight.float(), False, True, False)[1]
            found = found[0], wide.to(weight.dtype), found[2]
        return *found, *[None] * 4


class FastWeightGradients(TorchFunctionMode):
    """A context for training in half precision on a CPU; what is computed is the same.

    torch's gradient for a convolution's weight can take hundreds of times as long there in float16
    as in float32.

    Args:
        dtype: what autocast computes convolutions in.
    """

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, function, types, args=(), kwargs=None):
        learns = function is torch.conv2d and not kwargs and len(args) == 7
        if learns and torch.is_grad_enabled() and args[1].requires_grad and args[4] != "same":
            half = (None if t is None else t.to(self.dtype) for t in args[:3])
            return _Convolution.apply(*half, *args[3:])
        return function(*args, **(kwargs or {}))
