"""Which backend runs a call: the fused Triton kernels, or the eager definition.

By default Triton on an NVIDIA GPU that it supports and eager everywhere else. The argument
``backend=`` of every operator demands one for a call: "triton" is an error where no kernel can run
it. The environment variable ``SCOTOMA_BACKEND`` (read once, at import) prefers one for all calls
that say nothing, and demands nothing of them: many are not the user's own (a pass over the meta
device that finds shapes, a check in float64, a probe on a CPU), so that "triton" there means the
kernels wherever they can run, in Triton's interpreter too, and eager elsewhere.

Whether float32 may be multiplied as TF32 is asked and said here as well: torch has two APIs for it,
and the older one raises where the newer one was used.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad

NAMES = ("eager", "triton")
VARIABLE = "SCOTOMA_BACKEND"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# bfloat16 arithmetic and asynchronous copies came with Ampere.
CAPABILITY = (8, 0)
# Row numbers are 32 bits wide, those of the last tile included, which begins inside.
MAX_ROWS = 2**31 - 2**20

_default = os.environ.get(VARIABLE) or None


def use_triton(backend: str | None, *activations: Tensor | None) -> bool:
    """Whether the fused kernels run a call on these activations [N,C,H,W].

    Raises:
        ValueError: the backend is unknown, or ``backend`` is "triton" and cannot run this call.
    """
    chosen = checked(backend)
    if chosen == "eager":
        return False
    if chosen is None and not activations[0].is_cuda:
        return False  # the common case on a CPU, decided without looking further
    refusal = why_not_triton(*activations)
    if refusal and backend == "triton":
        raise ValueError(f"backend is 'triton', but {refusal}; use backend='eager'")
    return not refusal


def checked(backend: str | None) -> str | None:
    """The backend demanded by argument, else preferred by the environment, else None.

    Raises:
        ValueError: there is no such backend.
    """
    source = "backend" if backend is not None else VARIABLE
    backend = backend if backend is not None else _default
    if backend not in (None, *NAMES):
        raise ValueError(f"{source} is {backend!r}; expected 'eager' or 'triton'")
    return backend


def why_not_triton(*activations: Tensor | None) -> str | None:
    """The reason why the fused kernels cannot run these activations; None if they can."""
    x = activations[0]
    refusal = no_memory(x) or device_refusal(x.device)
    if refusal is not None:
        return refusal
    if x.dtype not in DTYPES:
        return f"x has dtype {x.dtype}, and the kernels know float32, float16 and bfloat16"
    for other in activations[1:]:
        if other is not None and (other.dtype != x.dtype or other.device != x.device):
            return (
                f"activations differ: {x.dtype} on {x.device} beside {other.dtype} on "
                f"{other.device}"
            )
    if x.numel() == 0:
        return f"x {list(x.shape)} is empty"
    if x.numel() >= 2**31:
        if x[0].numel() >= 2**31:
            return f"one image of x {list(x.shape)} has more than 2^31 elements"
        if x.numel() // x.shape[1] >= MAX_ROWS:
            return f"x {list(x.shape)} has more than {MAX_ROWS} values a channel"
    return None


def no_memory(x: Tensor) -> str | None:
    """Kernels need memory; the compiler's fake tensors get registered operators instead."""
    if isinstance(x, FakeTensor) and not torch.compiler.is_compiling():
        return "x is a fake tensor, which has no memory"
    return None


def transformed(x: Tensor) -> bool:
    """Whether derivatives or batches that no kernel sees are carried along with a call.

    Those of ``torch.func``, forward-mode derivatives (which an autograd.Function without them, or
    none where gradients are off, drops without a word), and a batch of gradients in backward.
    """
    if torch._C._are_functorch_transforms_active():
        return True
    if torch.compiler.is_compiling():
        return False
    return forward_ad._current_level >= 0 or torch._C._functorch.is_legacy_batchedtensor(x)


def device_refusal(device: torch.device) -> str | None:
    """The reason why no kernel runs on a device; None if some do."""
    return _device_refusal(device)


# What torch.compiler.assume_constant_result does, which would import all of Dynamo, and Triton.
device_refusal._dynamo_marked_constant = True


@cache
def _device_refusal(device: torch.device) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if device.type == "cuda" and torch.version.hip is None:
        capability = torch.cuda.get_device_capability(device)
        if capability < CAPABILITY:
            name = torch.cuda.get_device_name(device)
            return f"{name} has compute capability {capability}; the kernels need {CAPABILITY}"
        return None
    if device.type == "cpu" and interpreting():
        return None
    return (
        f"x is on {device}; the kernels run on NVIDIA GPUs (and on a CPU in Triton's interpreter)"
    )


@cache
def interpreting() -> bool:
    """Whether Triton's kernels run in its interpreter (TRITON_INTERPRET=1), on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on")


def convolutions_may_use_tf32() -> bool:
    """Whether torch's float32 convolutions on a GPU may be of TF32, whichever API said so.

    ``torch.backends.cudnn.allow_tf32`` raises once somebody has set ``fp32_precision``.
    """
    return torch.backends.cudnn.conv.fp32_precision == "tf32"


def products_may_use_tf32() -> bool:
    """The same of float32 matrix products (``torch.get_float32_matmul_precision`` raises, too)."""
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


def allow_tf32(*, convolutions: bool, products: bool) -> None:
    """Let float32 convolutions and matrix products be of TF32 on a GPU, or not.

    Said so that readers of either API get the same answer: torch's own compiler reads the older.
    """
    cudnn = torch.backends.cudnn
    torch.set_float32_matmul_precision("high" if products else "highest")
    cudnn.allow_tf32 = convolutions
    if not convolutions:  # the older API's "no" leaves it to a more general "yes" of the newer one
        cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "ieee"


@contextmanager
def tf32_allowed(*, convolutions: bool, products: bool) -> Iterator[None]:
    """:func:`allow_tf32` for a while; afterwards both APIs answer as before."""
    cudnn, backends = torch.backends.cudnn, torch.backends
    operators = cudnn.conv, cudnn.rnn, backends.cuda.matmul, backends.mkldnn.matmul
    precisions = [operator.fp32_precision for operator in operators]
    allowed = _unless_mixed(lambda: cudnn.allow_tf32)
    products_precision = _unless_mixed(torch.get_float32_matmul_precision)
    allow_tf32(convolutions=convolutions, products=products)
    try:
        yield
    finally:
        if allowed is not None:
            cudnn.allow_tf32 = allowed
        if products_precision is not None:
            torch.set_float32_matmul_precision(products_precision)
        for operator, precision in zip(operators, precisions, strict=True):
            if operator.fp32_precision != precision:
                operator.fp32_precision = precision


def _unless_mixed(read: Callable[[], Any]) -> Any:
    """What the older API answers; None where it refuses to, since the newer one was used."""
    try:
        return read()
    except RuntimeError:
        return None
