"""Every kernel once, on shapes that fill no tile: a small program for compute-sanitizer.

    python -m scotoma.bench.sanitize
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer python -m scotoma.bench.sanitize

Without torch's caching allocator every tensor is an allocation of its own, so that an access past
its end is seen. Results are compared with the eager definition in float64, and a kernel that was
not launched is an error. Exit status 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from ..defective.errors import UserError
from ..kernels import (
    Projection,
    apply_mask,
    backends,
    bn_mask_add_relu,
    conv_bn_mask_add_relu,
    launch,
)
from .operands import errors, tolerance

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
ODD, EVEN = (2, 12, 5, 7), (3, 64, 9, 9)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("scotoma.bench.sanitize", description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="in Triton's interpreter, in float32")
    on_cpu = parser.parse_args(argv).cpu
    device = torch.device("cpu" if on_cpu else "cuda")
    if on_cpu and not backends.interpreting():
        raise UserError("on a CPU kernels run in Triton's interpreter: set TRITON_INTERPRET=1")
    if not on_cpu and not torch.cuda.is_available():
        raise UserError("no NVIDIA GPU on this machine; --cpu checks this program alone")
    backends.allow_tf32(convolutions=False, products=False)
    half = torch.float32 if on_cpu else torch.bfloat16
    wrong = []
    with count_launches() as launched:
        for case in cases(device, half):
            error = worst_error(case)
            verdict = "ok" if error <= tolerance(case.dtype) else "WRONG"
            print(f"{case}: relative error {error:.2g} {verdict}", flush=True)
            wrong += [case] if verdict != "ok" else []
    missing = [name for name, count in launched.items() if not count]
    print(f"launches: {launched}")
    if missing:
        print(f"never launched: {', '.join(missing)}")
    return 1 if wrong or missing else 0


class Case(NamedTuple):
    """One call of an operator. ``call`` is a function of (backend, *tensors)."""

    operator: str
    variant: str
    call: Callable[..., Tensor]
    tensors: list[Tensor]
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.operator} {self.variant}"


def cases(device: torch.device, half: torch.dtype) -> Iterator[Case]:
    """Every operator in ``half``; ``bn_mask_add_relu`` in float32 too, on another shape."""
    generator = torch.Generator(device).manual_seed(0)
    for layout in LAYOUTS:
        for kind in ("none", "residual", "projection"):
            for training in (True, False):
                # Evaluation differs in what it omits; one layout tells.
                if training or layout == "channels_last":
                    variant = f"{layout} {'train' if training else 'eval'}"
                    call = operator(kind, ODD, half, layout, training, generator)
                    yield Case(f"bn_mask_add_relu {kind}", variant, *call)
    for kind in ("none", "residual", "projection"):
        call = operator(kind, EVEN, torch.float32, "channels_last", True, generator)
        yield Case(f"bn_mask_add_relu {kind}", f"{EVEN} float32", *call)
    mask = torch.rand(ODD[1:], device=device, generator=generator) < 0.5
    for layout in LAYOUTS:
        x = activation(ODD, half, layout, generator)
        yield Case(
            "apply_mask", layout, lambda backend, x: apply_mask(x, mask, backend=backend), [x], half
        )
    for taps, stride in product((3, 1), (1, 2)):
        for training in (True, False):
            variant = f"{taps}x{taps} stride {stride} {'train' if training else 'eval'}"
            call = convolution(taps, stride, half, training, generator)
            yield Case("conv_bn_mask_add_relu", variant, *call)


def activation(shape, dtype, layout: str, generator: torch.Generator) -> Tensor:
    values = torch.randn(shape, device=generator.device, generator=generator)
    return values.to(dtype).contiguous(memory_format=LAYOUTS[layout])


def vectors(channels: int, generator: torch.Generator) -> list[Tensor]:
    """Weight, bias, running mean and variance."""
    values = torch.rand(4, channels, device=generator.device, generator=generator) + 0.5
    return [v.clone() for v in values]


def copies(weight: Tensor, *statistics: Tensor) -> list[Tensor]:
    """Running statistics in the dtype of the weight; each call starts from the same."""
    return [s.to(weight.dtype, copy=True) for s in statistics]


def operator(kind, shape, dtype, layout, training, generator):
    def branch():
        mask = torch.rand(shape[1:], device=generator.device, generator=generator) < 0.5
        return activation(shape, dtype, layout, generator), *vectors(shape[1], generator), mask

    (x, weight, bias, mean, var, mask), other = branch(), branch()

    def call(backend, x, weight, bias, x2, weight2, bias2):
        second = Projection(x2, weight2, bias2, *copies(weight, *other[3:5]), other[5])
        return bn_mask_add_relu(
            x,
            weight,
            bias,
            *copies(weight, mean, var),
            mask=mask,
            residual=x2 if kind == "residual" else None,
            projection=second if kind == "projection" else None,
            training=training,
            backend=backend,
        )

    return call, [x, weight, bias, *other[:3]], dtype


def convolution(taps: int, stride: int, dtype, training: bool, generator):
    side = 9
    x = activation((2, 12, side, side), dtype, "channels_last", generator)
    kernel = activation((20, 12, taps, taps), dtype, "channels_last", generator) / 10
    weight, bias, mean, var = vectors(20, generator)
    places = (20, *2 * [(side - 1) // stride + 1])
    mask = torch.rand(places, device=generator.device, generator=generator) < 0.5

    def call(backend, x, kernel, weight, bias):
        return conv_bn_mask_add_relu(
            x,
            kernel,
            None,
            weight,
            bias,
            *copies(weight, mean, var),
            stride=stride,
            padding=taps // 2,
            mask=mask,
            # Its output is rounded before batch norm, which may take a value near zero to the
            # other side of ReLU than in float64: then all gradients differ.
            relu=not training,
            training=training,
            backend=backend,
        )

    tensors = [x, kernel, weight, bias]
    if not training:
        # Fused, evaluation has no gradient.
        return torch.no_grad()(call), tensors, dtype
    return call, tensors, dtype


def worst_error(case: Case, backend: str = "triton") -> float:
    """The largest relative error of the output and of all gradients, against float64."""
    exact, upstream = results(case.call, "eager", [t.double() for t in case.tensors], None)
    found, _ = results(case.call, backend, case.tensors, upstream)
    return max(errors(found, exact).values())


def results(call, backend: str, tensors: list[Tensor], upstream: Tensor | None):
    """Output and gradients by name, and the upstream gradient."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    out = call(backend, *leaves)
    found = {"out": out.detach()}
    if out.requires_grad:
        if upstream is None:
            generator = torch.Generator(out.device).manual_seed(1)
            upstream = torch.randn(out.shape, device=out.device, generator=generator)
            # Exact in every dtype, so that all backends get the same values.
            upstream = (4 * upstream).round().contiguous(memory_format=format_of(out))
        grads = torch.autograd.grad(out, leaves, upstream.to(out.dtype), allow_unused=True)
        found |= {str(i): g for i, g in enumerate(grads) if g is not None}
    return found, upstream


def format_of(x: Tensor) -> torch.memory_format:
    return next(f for f in LAYOUTS.values() if x.is_contiguous(memory_format=f))


@contextmanager
def count_launches() -> Iterator[dict[str, int]]:
    """Count how often each kernel is launched inside."""
    counts = dict.fromkeys(vars(launch.device_kernels()), 0)
    start = launch.Launch.__call__

    def counted(self, *arguments):
        counts[self.kernel] += 1
        start(self, *arguments)

    launch.Launch.__call__ = counted
    try:
        yield counts
    finally:
        launch.Launch.__call__ = start


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"scotoma.bench.sanitize: error: {error}", file=sys.stderr)
        sys.exit(2)
