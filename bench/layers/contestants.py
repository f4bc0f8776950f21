"""Who competes: the same operator by different means."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels import Projection, bn_mask_add_relu
from . import released
from .operands import Call
from .sites import Site

CONTESTANTS = {
    "ours": "the fused Triton kernels",
    "eager": "the eager definition",
    "eager-fp16": "the eager definition in float16, where torch takes cuDNN's batch norm",
    "compile": "torch.compile of the eager definition",
    "max-autotune": "torch.compile(mode='max-autotune-no-cudagraphs') of the eager definition",
    "released": "the reference's layer under naive autocast, whose masks are float32",
}


@dataclass
class Contestant:
    """One way to compute a site.

    Attributes:
        run: the operator, called with the operands of a :class:`Call` in their order.
        dtype: of activations.
        adapt: gives operands the dtypes that they have in its network, where those differ.
    """

    name: str
    run: Callable[..., Tensor]
    dtype: torch.dtype
    adapt: Callable[[Call], Call] | None = None

    @property
    def data(self) -> Hashable:
        """Equal for contestants that can be called on the same operands."""
        return self.dtype, self.adapt

    def own(self, call: Call) -> Call:
        """The values of a call in memory of its own, in the dtypes that this contestant gets."""
        copied = call.copy(self.dtype)
        return copied if self.adapt is None else self.adapt(copied)


def contestant(name: str, site: Site, dtype: torch.dtype) -> Contestant:
    """One of ``CONTESTANTS`` for one site."""
    if name == "released":
        return Contestant(name, released.layer(site), dtype, released.adapter(site))
    run = _operator(site, "triton" if name == "ours" else "eager")
    modes = {"compile": None, "max-autotune": "max-autotune-no-cudagraphs"}
    if name in modes:
        run = torch.compile(run, fullgraph=True, dynamic=False, mode=modes[name])
    return Contestant(name, run, torch.float16 if name == "eager-fp16" else dtype)


def _operator(site: Site, backend: str):
    relu, training = site.relu, site.training

    def run(x, weight, bias, mean, var, mask, residual, x2, weight2, bias2, mean2, var2, mask2):
        projection = None
        if x2 is not None:
            projection = Projection(x2, weight2, bias2, mean2, var2, mask2)
        return bn_mask_add_relu(
            x,
            weight,
            bias,
            mean,
            var,
            mask=mask,
            residual=residual,
            projection=projection,
            relu=relu,
            training=training,
            backend=backend,
        )

    return run


def batch_norm_library(call: Call, training: bool) -> str:
    """Whose batch norm torch takes for these operands: "native" or "cudnn"."""
    o = call.operands
    running = (None, None) if training else (o.running_mean, o.running_var)
    enabled = torch.backends.cudnn.enabled
    with torch.no_grad():
        index = torch._batch_norm_impl_index(
            o.x[:2], o.weight, o.bias, *running, training, 0.0, 1e-5, enabled
        )[4]
    return {0: "native", 1: "cudnn", 2: "miopen"}.get(int(index), "unknown")
