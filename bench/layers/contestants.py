"""Who competes: the same operator by different means, and the data they are called on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...defective import sample_mask
from ...kernels import Projection, bn_mask_add_relu
from .sites import Site

KEEP = 0.3
CONTESTANTS = {
    "ours": "the fused Triton kernels",
    "eager": "the eager definition",
    "eager-fp16": "the eager definition in float16, where torch takes cuDNN's batch norm",
    "compile": "torch.compile of the eager definition",
    "max-autotune": "torch.compile(mode='max-autotune-no-cudagraphs') of the eager definition",
}


class Operands(NamedTuple):
    """Arguments of one call, in the order in which they are passed on."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    mask: Tensor | None
    residual: Tensor | None = None
    x2: Tensor | None = None
    weight2: Tensor | None = None
    bias2: Tensor | None = None
    running_mean2: Tensor | None = None
    running_var2: Tensor | None = None
    mask2: Tensor | None = None


@dataclass
class Call:
    """One call's operands and the gradient that comes back."""

    operands: Operands
    grad_out: Tensor

    def inputs(self) -> list[Tensor]:
        """The operands that get a gradient."""
        return [t for t in self.operands if t is not None and t.requires_grad]

    def input_names(self) -> list[str]:
        return [n for n, t in self.operands._asdict().items() if t is not None and t.requires_grad]

    def with_own_statistics(self) -> Call:
        """The same operands, but running statistics of its own."""
        own = {
            n: t.clone()
            for n, t in self.operands._asdict().items()
            if "running" in n and t is not None
        }
        return Call(self.operands._replace(**own), self.grad_out)

    def copy(self, dtype: torch.dtype) -> Call:
        """The same values in memory of its own, activations in ``dtype``."""

        def own(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            wanted = dtype if tensor.dim() == 4 else tensor.dtype
            new = tensor.detach().to(wanted, copy=True)
            return new.requires_grad_(tensor.requires_grad)

        return Call(Operands(*map(own, self.operands)), own(self.grad_out))


def draw(site: Site, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Call:
    """Random operands: parameters and statistics in float32, activations channels_last."""
    generator = torch.Generator(device).manual_seed(seed)
    channels = site.shape[1]

    def activation(offset: float = 0.0) -> Tensor:
        values = torch.randn(site.shape, device=device, generator=generator).add_(offset)
        return values.to(dtype).contiguous(memory_format=torch.channels_last)

    def vector(low: float, high: float) -> Tensor:
        return torch.empty(channels, device=device).uniform_(low, high, generator=generator)

    def branch():
        mask = None
        if site.masked:
            cpu = torch.Generator().manual_seed(seed)
            mask = sample_mask(site.shape[1:], KEEP, generator=cpu).to(device).unsqueeze(0)
            # In the order of the activations, as a network in channels_last keeps it.
            mask = mask.contiguous(memory_format=torch.channels_last).squeeze(0)
        x = activation(0.5).requires_grad_()
        weight, bias = vector(0.5, 1.5).requires_grad_(), vector(-0.3, 0.3).requires_grad_()
        return x, weight, bias, vector(-0.1, 0.1), vector(0.5, 1.5), mask

    main, residual, other = branch(), None, ()
    if site.kind == "residual":
        residual = activation().requires_grad_()
    if site.kind == "projection":
        other = branch()
    return Call(Operands(*main, residual, *other), activation())


@dataclass
class Contestant:
    name: str
    run: Callable[..., Tensor]
    dtype: torch.dtype


def contestant(name: str, site: Site, dtype: torch.dtype) -> Contestant:
    """One of ``CONTESTANTS`` for one site."""
    run = _operator(site, "triton" if name == "ours" else "eager")
    modes = {"compile": None, "max-autotune": "max-autotune-no-cudagraphs"}
    if name in modes:
        run = torch.compile(run, fullgraph=True, dynamic=False, mode=modes[name])
    return Contestant(name, run, torch.float16 if name == "eager-fp16" else dtype)


def _operator(site: Site, backend: str):
    relu = site.relu

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
            training=True,
            backend=backend,
        )

    return run


def batch_norm_library(call: Call) -> str:
    """Whose batch norm the eager definition gets for these operands: "native" or "cudnn"."""
    o = call.operands
    with torch.no_grad():
        index = torch._batch_norm_impl_index(
            o.x[:2], o.weight, o.bias, None, None, True, 0.0, 1e-5, torch.backends.cudnn.enabled
        )[4]
    return {0: "native", 1: "cudnn", 2: "miopen"}.get(int(index), "unknown")
