"""``bn_mask_add_relu`` in training, and ``apply_mask``: bound by memory."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar, NamedTuple

from torch import Tensor

from ...kernels import apply_mask
from ..layers import accuracy, operands
from ..layers.contestants import contestant
from ..layers.operands import Call
from ..layers.sites import Site
from ..layers.traffic import minimum_bytes
from . import counts
from .case import Case, Pass, Way


@dataclass(frozen=True)
class NormCase(Case):
    """``bn_mask_add_relu`` in training."""

    site: Site
    operator: ClassVar[str] = "bn_mask_add_relu"

    @property
    def kind(self) -> str:
        return self.site.kind

    @property
    def shape(self):
        return self.site.shape

    def passes(self, itemsize: int) -> list[Pass]:
        moved, flops = minimum_bytes(self.site, itemsize), counts.norm_flops(self.site)
        wanted = ("x", "weight", "bias", "residual", "x2", "weight2", "bias2")
        return [Pass(name, moved[name], flops[name], wanted) for name in ("forward", "backward")]

    def ways(self, dtype, device) -> list[Way]:
        names = {"triton": "ours", "eager": "eager"}
        return [Way(b, contestant(n, self.site, dtype).run) for b, n in names.items()]

    def draw(self, dtype, device) -> Call:
        return operands.draw(self.site, dtype, device)

    def footprint(self, itemsize: int) -> int:
        return (2 + (self.kind != "none")) * self.site.elements * itemsize

    def exact(self, call: Call) -> dict[str, Tensor]:
        return accuracy.exact_results(self.site, call)


class MaskOperands(NamedTuple):
    x: Tensor
    mask: Tensor


@dataclass(frozen=True)
class MaskCase(Case):
    """``apply_mask``."""

    shape: tuple[int, int, int, int]
    operator: ClassVar[str] = "apply_mask"

    def passes(self, itemsize: int) -> list[Pass]:
        n = prod(self.shape)
        return [Pass(name, 2 * n * itemsize, n, ("x",)) for name in ("forward", "backward")]

    def ways(self, dtype, device) -> list[Way]:
        def way(backend: str) -> Way:
            return Way(backend, lambda x, mask: apply_mask(x, mask, backend=backend))

        return [way("triton"), way("eager")]

    def draw(self, dtype, device) -> Call:
        drawn = operands.draw(Site("none", self.shape), dtype, device)
        return Call(MaskOperands(drawn.operands.x, drawn.operands.mask), drawn.grad_out)

    def footprint(self, itemsize: int) -> int:
        return 2 * prod(self.shape) * itemsize
