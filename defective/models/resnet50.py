"""ResNet-50 (He et al., 2016) with a 3x3 stem; paper section C.2, figure 9."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ..layers import BNMaskReLU, ConvBNMaskReLU, ProjectionShortcut
from ..regularizers import drop_then_relu, make_regularizer
from ..spec import ModelSpec
from .base import Network, Stem


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions, the 3x3 with the stride and the mask.

    ::

        x -> 1x1 -> BN -> ReLU -> 3x3 -> BN -> mask -> ReLU -> 1x1 -> BN -> (+ shortcut) -> ReLU

    So the wide residual stream is never masked (docs/reference.md, section 1). Regularisers drop
    after the 3x3's BN and before the last, around the last ReLU of the branch, as in the basic
    block. Table 3 has them, and neither paper nor release says where they are in a bottleneck.
    """

    expansion = 4

    def __init__(
        self, in_channels: int, inner: int, stride: int, block: int, regularizer: str = "none"
    ):
        super().__init__()
        out_channels = self.expansion * inner
        self.reduce = ConvBNMaskReLU(in_channels, inner, 1)
        self.spatial = ConvBNMaskReLU(inner, inner, 3, stride=stride, padding=1, block=block)
        self.expand = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.bn = BNMaskReLU(out_channels)
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = ProjectionShortcut(in_channels, out_channels, stride=stride)
        self.drop = make_regularizer(regularizer)

    def forward(self, x: Tensor) -> Tensor:
        out = self.reduce(x)
        if self.drop is None:
            out, last = self.spatial(out), self.expand
        else:
            out = drop_then_relu(self.spatial(out, relu=False), self.drop)
            out, last = self.drop(self.expand(out)), None
        if self.shortcut is None:
            return self.bn(out, residual=x, conv=last)
        return self.bn(out, projection=self.shortcut.branch(x), conv=last)


class ResNet50(Network):
    """Stem and bottlenecks [3,4,6,3]; inner widths 64, 128, 256, 512, expansion 4.

    "Bottom" is blocks 0, 1, 2: the stem and the 3x3 convolutions, 8 sites.
    """

    name = "resnet50"
    bottom: ClassVar = {"release": (0, 1, 2), "paper": (0, 1, 2)}
    regularized_blocks = (3, 4)

    def __init__(self, spec: ModelSpec, widths: dict[int, int]):
        super().__init__(spec)
        self.stem = Stem(spec, widths[0])
        in_channels = widths[0]
        for number, depth in zip((1, 2, 3, 4), (3, 4, 6, 3), strict=True):
            regularizer, layers = self.regularizer_of(number), []
            for index in range(depth):
                stride = 2 if number > 1 and index == 0 else 1
                layers.append(Bottleneck(in_channels, widths[number], stride, number, regularizer))
                in_channels = Bottleneck.expansion * widths[number]
            self.add_module(f"block{number}", nn.Sequential(*layers))
        self.head = nn.Linear(in_channels, spec.num_classes)
