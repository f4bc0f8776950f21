"""SENet-18 (Hu et al., 2017) in its pre-activation form; paper section C.4, figure 11."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ..layers import BNMaskReLU, ConvMask, PointwiseConv2d
from ..spec import ModelSpec
from .base import Network, Stem


class SqueezeExcitation(nn.Module):
    """Channel gate: global average, C -> C/16 -> C, sigmoid."""

    reduction = 16

    def __init__(self, channels: int):
        super().__init__()
        hidden = max(1, channels // self.reduction)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.excite(gate))


class PreActivationBlock(nn.Module):
    """Two BN -> mask -> ReLU -> 3x3 layers, a gate, a shortcut.

    ::

        x -> BN -> mask -> ReLU -> 3x3 -> BN -> mask -> ReLU -> 3x3 -> gate -> (+ shortcut)

    The shortcut is x itself, or, where the shape changes, a 1x1 convolution without BN that reads
    the masked pre-activation. In the paper's placement the masks sit on the outputs
    of the two 3x3 convolutions instead.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, block: int, sites: str):
        super().__init__()
        on_input, on_output = (block, None) if sites == "release" else (None, block)
        self.bn1 = BNMaskReLU(in_channels, on_input)
        self.conv1 = ConvMask(
            in_channels, channels, 3, stride=stride, padding=1, bias=False, block=on_output
        )
        self.bn2 = BNMaskReLU(channels, on_input)
        self.conv2 = ConvMask(channels, channels, 3, padding=1, bias=False, block=on_output)
        self.gate = SqueezeExcitation(channels)
        self.shortcut = None
        if stride != 1 or in_channels != channels:
            self.shortcut = PointwiseConv2d(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.bn1(x)
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        out = self.conv2(self.bn2(self.conv1(activated)))
        return self.gate(out) + shortcut


class SENet18(Network):
    """Stem and four blocks of two pre-activation blocks; no BN or ReLU after the last.

    "Bottom", release: both BNs of blocks 1 and 2, 8 sites; the stem is clean.
    "Bottom", paper: the stem and the 3x3 outputs of blocks 1 and 2, 9 sites.
    """

    name = "senet18"
    bottom: ClassVar = {"release": (1, 2), "paper": (0, 1, 2)}

    def __init__(self, spec: ModelSpec, widths: dict[int, int]):
        super().__init__(spec)
        self.stem = Stem(spec, widths[0], block=0 if spec.sites == "paper" else None)
        in_channels = widths[0]
        for number in (1, 2, 3, 4):
            channels, stride = widths[number], 1 if number == 1 else 2
            first = PreActivationBlock(in_channels, channels, stride, number, spec.sites)
            second = PreActivationBlock(channels, channels, 1, number, spec.sites)
            self.add_module(f"block{number}", nn.Sequential(first, second))
            in_channels = channels
        self.head = nn.Linear(in_channels, spec.num_classes)
