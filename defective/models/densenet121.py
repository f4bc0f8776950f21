"""DenseNet-121 (Huang et al., 2017) for small images; paper section C.3, figure 10."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import BNMaskReLU, ConvMask
from ..spec import ModelSpec
from .base import Network, stem_pool


class DenseLayer(nn.Module):
    """Bottleneck layer; ``growth`` new maps are put before the old ones.

    ::

        x -> BN -> mask -> ReLU -> 1x1 -> BN -> ReLU -> 3x3 [-> mask]; output [new, x]

    The release masks the concatenated input, the paper's text the 3x3 output
    (docs/reference.md, section 1).
    """

    def __init__(self, in_channels: int, growth: int, block: int, sites: str):
        super().__init__()
        self.bn1 = BNMaskReLU(in_channels, block if sites == "release" else None)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.bn2 = BNMaskReLU(4 * growth)
        self.conv2 = ConvMask(
            4 * growth, growth, 3, padding=1, bias=False, block=block if sites == "paper" else None
        )

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv2(self.bn2(self.bn1(x), conv=self.conv1))
        return torch.cat([new, x], 1)


class Transition(nn.Module):
    """BN -> mask -> ReLU -> 1x1 (half the channels) -> 2x2 average pooling."""

    def __init__(self, in_channels: int, out_channels: int, block: int, sites: str):
        super().__init__()
        self.bn = BNMaskReLU(in_channels, block if sites == "release" else None)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(self.bn(x)), 2)


class DenseNet121(Network):
    """Stem without BN, dense blocks [6,12,24,16], growth 32 (``width`` is the growth rate).

    "Bottom", release: dense blocks 1 and 2 with their transitions, 20 sites on the inputs.
    "Bottom", paper: the stem and the 3x3 convolutions of dense blocks 1 and 2, 19 sites on bare
    convolution outputs.
    """

    name = "densenet121"
    default_width = 32
    bottom: ClassVar = {"release": (1, 2), "paper": (0, 1, 2)}

    @classmethod
    def block_widths(cls, width: int) -> dict[int, int]:
        return dict.fromkeys((0, 1, 2, 3, 4), width)

    def __init__(self, spec: ModelSpec, widths: dict[int, int]):
        super().__init__(spec)
        growth, sites = widths[0], spec.sites
        channels, kernel = 2 * growth, spec.stem_kernel
        self.stem = ConvMask(
            spec.input_channels,
            channels,
            kernel,
            stride=spec.stem_stride,
            padding=kernel // 2,
            bias=False,
            block=0 if sites == "paper" else None,
        )
        self.pool = stem_pool(spec)
        for number, depth in zip((1, 2, 3, 4), (6, 12, 24, 16), strict=True):
            layers = []
            for _ in range(depth):
                layers.append(DenseLayer(channels, growth, number, sites))
                channels += growth
            self.add_module(f"block{number}", nn.Sequential(*layers))
            if number < 4:
                transition = Transition(channels, channels // 2, number, sites)
                self.add_module(f"transition{number}", transition)
                channels //= 2
        self.bn = BNMaskReLU(channels)
        self.head = nn.Linear(channels, spec.num_classes)
