"""WideResNet-32 of width factor 4, post-activation as in the release; paper section C.6,
figure 13."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import nn

from ..spec import ModelSpec
from .base import Network, Stem
from .basic_block import stage


class WideResNet32(Network):
    """Stem of ``width`` = 16 channels and basic blocks [5,5,5] of 64, 128, 256 channels.

    Not the pre-activation network of Zagoruyko and Komodakis (2016): the release orders its
    blocks as the CIFAR ResNet does. "Bottom" is blocks 0 and 1 without the projection
    of block 1: 11 sites.
    """

    name = "wrn32_4"
    default_width = 16
    bottom: ClassVar = {"release": (0, 1), "paper": (0, 1)}
    top = (2, 3)
    regularized_blocks = (3,)
    widening = 4

    @classmethod
    def block_widths(cls, width: int) -> dict[int, int]:
        wide = cls.widening * width
        return {0: width, 1: wide, 2: 2 * wide, 3: 4 * wide}

    def __init__(self, spec: ModelSpec, widths: dict[int, int]):
        super().__init__(spec)
        self.stem = Stem(spec, widths[0])
        in_channels = widths[0]
        for number in (1, 2, 3):
            channels = widths[number]
            sizes = in_channels, channels, 5, number
            self.add_module(f"block{number}", stage(*sizes, True, self.regularizer_of(number)))
            in_channels = channels
        self.head = nn.Linear(in_channels, spec.num_classes)
        self.apply(_initialise)


def _initialise(module: nn.Module) -> None:
    """Convolutions N(0, 2 / (k k C_out)), the release's choice for this network alone."""
    if isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels
        nn.init.normal_(module.weight, 0.0, math.sqrt(2 / fan_out))
