"""What torch computes as a matrix product: convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers.operands import Call
from . import ceilings, counts
from .case import Case, Pass, Way
from .network import Convolution, Linear


class LayerOperands(NamedTuple):
    x: Tensor
    weight: Tensor
    bias: Tensor | None = None


def gradients(moved: int, flops: int) -> list[Pass]:
    """A layer that is a matrix product, forward and towards each of its two factors."""
    return [
        Pass("forward", moved, flops),
        Pass("backward", moved, flops, ("x",), "to the input"),
        Pass("backward", moved, flops, ("weight",), "to the weight"),
    ]


def library(device: torch.device, name: str) -> str:
    """The backend's name where torch decides: the library it takes on a GPU, else torch itself."""
    return name if device.type == "cuda" else "torch"


class OfConvolution(Case):
    """What is known of a case from its convolution. ``layer``: the convolution."""

    layer: Convolution

    @property
    def shape(self):
        return self.layer.shape

    @property
    def detail(self) -> str:
        return str(self.layer)

    @property
    def users(self) -> str:
        return self.layer.users

    @property
    def flops(self) -> int:
        """Of the convolution alone."""
        layer = self.layer
        return counts.convolution_flops(prod(layer.out_shape), layer.shape[1], layer.kernel)

    def footprint(self, itemsize: int) -> int:
        layer = self.layer
        return itemsize * sum(map(prod, (layer.shape, layer.weight_shape, layer.out_shape)))

    def arithmetic(self, dtype, device) -> str:
        return ceilings.convolution_arithmetic(dtype, device)

    def draw_factors(self, dtype, device) -> tuple[Tensor, Tensor]:
        """Input and weight, so that the output's deviation is about 1."""
        layer, normal = self.layer, normal_on(device, dtype)
        weight = normal(layer.weight_shape, (layer.shape[1] * layer.kernel**2) ** -0.5)
        return normal(layer.shape), weight


@dataclass(frozen=True)
class ConvolutionCase(OfConvolution):
    """torch's own convolution, cuDNN's on a GPU: forward and both gradients."""

    layer: Convolution
    operator: ClassVar[str] = "convolution"

    def passes(self, itemsize: int) -> list[Pass]:
        return gradients(self.footprint(itemsize), self.flops)

    def ways(self, dtype, device) -> list[Way]:
        return [Way(library(device, "cudnn"), self.convolve)]

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(x, weight, bias, self.layer.stride, self.layer.padding)

    def draw(self, dtype, device) -> Call:
        factors = self.draw_factors(dtype, device)
        return Call(LayerOperands(*factors), normal_on(device, dtype, 1)(self.layer.out_shape))


@dataclass(frozen=True)
class LinearCase(Case):
    """A linear layer, cuBLAS's on a GPU: forward and both gradients."""

    layer: Linear
    operator: ClassVar[str] = "linear"

    @property
    def shape(self):
        return self.layer.batch, self.layer.in_features, 1, 1

    @property
    def detail(self) -> str:
        return f"-> {self.layer.out_features}"

    @property
    def users(self) -> str:
        return self.layer.users

    def passes(self, itemsize: int) -> list[Pass]:
        layer = self.layer
        flops = counts.linear_flops(layer.batch, layer.in_features, layer.out_features)
        return gradients(self.footprint(itemsize), flops)

    def ways(self, dtype, device) -> list[Way]:
        return [Way(library(device, "cublas"), F.linear)]

    def draw(self, dtype, device) -> Call:
        layer, normal = self.layer, normal_on(device, dtype)
        x = normal((layer.batch, layer.in_features))
        weight = normal((layer.out_features, layer.in_features), layer.in_features**-0.5)
        bias = normal((layer.out_features,))
        return Call(LayerOperands(x, weight, bias), normal((layer.batch, layer.out_features)))

    def footprint(self, itemsize: int) -> int:
        n, c, k = self.layer.batch, self.layer.in_features, self.layer.out_features
        return itemsize * (n * c + c * k + n * k)

    def arithmetic(self, dtype, device) -> str:
        return ceilings.linear_arithmetic(dtype, device)


def normal_on(device: torch.device, dtype: torch.dtype, seed: int = 0) -> Callable[..., Tensor]:
    """Draws normal tensors of a shape and deviation, images channels_last."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(shape, deviation: float = 1.0) -> Tensor:
        values = torch.randn(shape, device=device, generator=generator).mul_(deviation).to(dtype)
        layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
        return values.contiguous(memory_format=layout)

    return normal
