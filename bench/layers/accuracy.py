"""Are the contestants computing the same thing? A time of a wrong result is worth nothing."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .contestants import contestant
from .operands import Call
from .sites import Site

# Batch statistics, and sums over the batch, of float32 values.
FLOAT32_TOLERANCE = 1e-4


def tolerance(dtype: torch.dtype) -> float:
    """Of a relative error ||found - expected|| / ||expected||.

    Eager rounds after each of its four steps, and each rounding errs by at most half of
    ``finfo.eps``.
    """
    return max(4 * torch.finfo(dtype).eps, FLOAT32_TOLERANCE)


def exact_results(site: Site, call: Call) -> dict[str, Tensor]:
    """Output and gradients in float64, by the names of :func:`results`.

    Also zeroes ``call.grad_out`` in place where the value before ReLU is so near zero that
    rounding alone decides on which side of ReLU it falls.
    """
    wide = call.double()
    run = contestant("eager", site, torch.float64).run
    if site.relu:
        linear = contestant("eager", replace(site, relu=False), torch.float64).run
        with torch.no_grad():
            value = linear(*wide.operands)
            near = value.abs() < 16 * torch.finfo(call.grad_out.dtype).eps
            call.grad_out.masked_fill_(near, 0.0)
            wide.grad_out.masked_fill_(near, 0.0)
            del value, near
    return results(run, wide, without_gradients=not site.training)


def results(run, call: Call, *, without_gradients: bool = False) -> dict[str, Tensor]:
    """Output ("out") and gradients by name. Updates the running statistics of ``call``.

    without_gradients: the output of a forward under ``torch.no_grad`` too ("inference"), which may
    be computed in another way.
    """
    out = run(*call.operands)
    grads = torch.autograd.grad(out, call.inputs(), call.grad_out)
    found = {"out": out.detach()}
    if without_gradients:
        with torch.no_grad():
            found["inference"] = run(*call.operands)
    return found | dict(zip(call.input_names(), grads, strict=True))


def errors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Relative error of each tensor in the 2-norm; infinite where one is not finite."""
    if found.keys() != expected.keys():
        raise ValueError(f"results are {list(found)}; expected {list(expected)}")
    measured = {}
    for name, right in expected.items():
        difference = (found[name].double() - right).norm() / right.norm()
        measured[name] = float(difference) if bool(difference.isfinite()) else float("inf")
    return measured
