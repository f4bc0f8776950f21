"""The data that a contestant is called on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...defective import sample_mask
from .sites import Site

KEEP = 0.3


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
    """One call's operands, any named tuple, and the gradient that comes back."""

    operands: NamedTuple
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

        return Call(type(self.operands)(*map(own, self.operands)), own(self.grad_out))

    def double(self) -> Call:
        """The same values in memory of its own, everything in float64."""

        def own(tensor: Tensor | None) -> Tensor | None:
            if tensor is None or not tensor.is_floating_point():
                return tensor
            new = tensor.detach().to(torch.float64, copy=True)
            return new.requires_grad_(tensor.requires_grad)

        return Call(type(self.operands)(*map(own, self.operands)), own(self.grad_out))


def draw(site: Site, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Call:
    """Random operands: parameters and statistics in float32, activations channels_last.

    Parameters need a gradient in training alone: in evaluation nobody but an attack asks for one,
    and an attack asks for that of its input.
    """
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
        weight, bias = (
            v.requires_grad_(site.training) for v in (vector(0.5, 1.5), vector(-0.3, 0.3))
        )
        return x, weight, bias, vector(-0.1, 0.1), vector(0.5, 1.5), mask

    main, residual, other = branch(), None, ()
    if site.kind == "residual":
        residual = activation().requires_grad_()
    if site.kind == "projection":
        other = branch()
    return Call(Operands(*main, residual, *other), activation())
