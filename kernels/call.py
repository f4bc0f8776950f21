"""What a call of the fused operator consists of."""

from __future__ import annotations

from typing import NamedTuple

import torch.distributed as dist
from torch import Tensor


class Branch(NamedTuple):
    """One batch norm branch. ``mean`` and ``var`` are the statistics that normalise, once known."""

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor | None
    var: Tensor | None
    mask: Tensor | None

    def vectors(self):
        return self.weight, self.bias, self.mean, self.var


NO_BRANCH = Branch(None, None, None, None, None, None)


class Settings(NamedTuple):
    """What is neither a tensor nor differentiable."""

    relu: bool
    training: bool
    momentum: float | Tensor
    eps: float
    group: dist.ProcessGroup | None = None

    @property
    def synchronised(self) -> bool:
        return self.training and self.group is not None and dist.get_world_size(self.group) > 1


class Gradients(NamedTuple):
    """One entry for each input that may have a gradient: the gradient, or whether it is wanted."""

    x: Tensor | bool | None
    weight: Tensor | bool | None
    bias: Tensor | bool | None
    residual: Tensor | bool | None
    x2: Tensor | bool | None
    weight2: Tensor | bool | None
    bias2: Tensor | bool | None
