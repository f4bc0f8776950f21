"""What a call of the operator costs the host beside its kernels: checks, dispatch, autograd.

    TRITON_INTERPRET=1 python -m scotoma.bench.call_overhead

Launches are replaced by nothing, so it needs no GPU (the variable makes a CPU tensor acceptable).
Prints the best of several repeats in microseconds, as one JSON line, for a training forward: the
operator in eager mode, its registered twin that compiled graphs hold, and an autograd.Function
that does nothing.
"""

from __future__ import annotations

import json
import platform
import sys
import timeit
from unittest import mock

import torch

from ..defective.errors import UserError
from ..kernels import backends, bn_mask_add_relu, launch, library
from ..kernels.call import Branch, Settings

REPEATS, CALLS = 5, 5000


class Nothing(torch.autograd.Function):
    """The least that a differentiable call costs."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight, bias)
        return x.detach()

    @staticmethod
    def backward(ctx, grad):
        return grad, None, None


def measure(calls: int = CALLS) -> dict[str, float]:
    """Microseconds of a call by name."""
    torch.set_num_threads(1)
    x = torch.randn(2, 16, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    weight, bias = torch.ones(16).requires_grad_(), torch.zeros(16).requires_grad_()
    running = torch.zeros(16), torch.ones(16)
    mask = torch.ones(16, 4, 4, dtype=torch.bool)
    branch = Branch(x, weight, bias, *running, mask)
    settings = Settings(relu=True, training=True, momentum=0.1, eps=1e-5)
    out = torch.empty_like(x)

    def operator():
        bn_mask_add_relu(x, weight, bias, *running, mask=mask, training=True, backend="triton")

    works = {
        "eager_mode": operator,
        "registered_operator": lambda: library.bn_mask_add_relu(branch, None, None, settings),
        "empty_function": lambda: Nothing.apply(x, weight, bias),
    }
    with (
        mock.patch.object(launch, "batch_statistics", lambda *_: [running]),
        mock.patch.object(launch, "apply_forward", lambda *_, **__: (out.detach(), None)),
    ):
        return {name: best(work, calls) for name, work in works.items()}


def best(work, calls: int) -> float:
    work()
    return round(min(timeit.repeat(work, number=calls, repeat=REPEATS)) / calls * 1e6, 2)


def main() -> int:
    if not backends.interpreting():
        raise UserError("the kernels refuse CPU tensors; set TRITON_INTERPRET=1 (nothing is run)")
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    print(json.dumps({"benchmark": "call_overhead", **versions, "microseconds": measure()}))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"scotoma.bench.call_overhead: error: {error}", file=sys.stderr)
        sys.exit(2)
