"""``conv_bn_mask_add_relu`` in evaluation: one Triton kernel, or cuDNN and the fused operator."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar, NamedTuple

from torch import Tensor

from ...kernels import backends, convolution
from ...kernels.convolution import CONV_TILES
from ...kernels.reference import Branch, Settings
from ..layers import operands
from ..layers.operands import Call
from ..layers.sites import Site
from . import counts
from .case import Pass, Way
from .network import Convolution
from .products import OfConvolution

EVALUATION = Settings(relu=True, training=False, momentum=0.1, eps=1e-5)


class FusedOperands(NamedTuple):
    x: Tensor
    kernel: Tensor
    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    mask: Tensor
    residual: Tensor | None


@dataclass(frozen=True)
class FusedCase(OfConvolution):
    """A convolution and all that follows it, with each tile of the Triton kernel.

    Its FLOP are those of the convolution and of the one pass after it.
    """

    layer: Convolution
    kind: str
    operator: ClassVar[str] = "conv_bn_mask_add_relu"

    @property
    def site(self) -> Site:
        return Site(self.kind, self.layer.out_shape, mode="evaluation")

    def passes(self, itemsize: int) -> list[Pass]:
        flops = self.flops + counts.norm_flops(self.site)["forward"]
        return [Pass("evaluation", self.footprint(itemsize), flops)]

    def ways(self, dtype, device) -> list[Way]:
        def separate(*given) -> Tensor:
            return convolution.separate(self.call(*given), backend)

        def fused(tile) -> Way:
            return Way(
                "triton",
                lambda *given: convolution.fused(self.call(*given), tile),
                tile.name,
            )

        # None is Triton's operator after the convolution, where there is a GPU.
        backend = None if device.type == "cuda" else "eager"
        ways = [Way("separate", separate)]
        if dtype in backends.DTYPES:
            ways += [fused(tile) for tile in CONV_TILES]
        return ways

    def call(self, x, kernel, weight, bias, mean, var, mask, residual) -> convolution.Call:
        branch = Branch(None, weight, bias, mean, var, mask)
        options = (self.layer.stride, self.layer.padding, 1, 1)
        return convolution.Call(x, kernel, None, options, branch, residual, None, EVALUATION)

    def draw(self, dtype, device) -> Call:
        after = operands.draw(self.site, dtype, device)
        vectors = after.operands[1:7]  # weight to residual
        return Call(FusedOperands(*self.draw_factors(dtype, device), *vectors), after.grad_out)

    def footprint(self, itemsize: int) -> int:
        residual = prod(self.layer.out_shape) if self.kind == "residual" else 0
        return super().footprint(itemsize) + itemsize * residual
