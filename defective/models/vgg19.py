"""VGG-19 (Simonyan and Zisserman, 2014) with batch norm and one Linear; paper section C.5,
figure 12."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from ..layers import ConvBNMaskReLU
from ..spec import ModelSpec
from .base import Network


class VGG19(Network):
    """16 convolutions 3x3 with bias in five groups, 2x2 max-pooling after each group.

    ::

        (conv -> BN -> mask -> ReLU) x 2,2,4,4,4

    A map of one pixel is not pooled, so 28x28 images have four poolings (28-14-7-3-1), as in the
    release's MNIST network. "Bottom" is groups 0 and 1: the first four convolutions.
    """

    name = "vgg19"
    bottom: ClassVar = {"release": (0, 1), "paper": (0, 1)}
    top = (2, 3, 4)

    @classmethod
    def block_widths(cls, width: int) -> dict[int, int]:
        return {0: width, 1: 2 * width, 2: 4 * width, 3: 8 * width, 4: 8 * width}

    def __init__(self, spec: ModelSpec, widths: dict[int, int]):
        super().__init__(spec)
        in_channels, size = spec.input_channels, spec.image_size
        for number, depth in enumerate((2, 2, 4, 4, 4)):
            layers: list[nn.Module] = []
            for _ in range(depth):
                channels = widths[number]
                layers.append(
                    ConvBNMaskReLU(in_channels, channels, 3, padding=1, bias=True, block=number)
                )
                in_channels = channels
            if size > 1:
                layers.append(nn.MaxPool2d(2))
                size //= 2
            self.add_module(f"block{number}", nn.Sequential(*layers))
        self.head = nn.Linear(in_channels, spec.num_classes)
