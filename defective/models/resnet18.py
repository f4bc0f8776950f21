"""ResNet-18 (He et al., 2016) with a 3x3 stem; paper section C.1, figure 8."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from ..spec import ModelSpec
from .base import Network, Stem
from .basic_block import stage


class ResNet18(Network):
    """Stem and four blocks of two basic blocks; widths 64, 64, 128, 256, 512.

    "Bottom" is blocks 0, 1, 2 with the masked projection of block 2: 10 sites. "Top" is blocks
    3, 4: 10 sites. Variants DC and xN change widths; where block 1's is changed, its
    first basic block has an unmasked projection although the shapes match, as in the release
    (docs/reference.md, section 1).
    """

    name = "resnet18"
    bottom: ClassVar = {"release": (0, 1, 2), "paper": (0, 1, 2)}
    has_width_variants = True
    regularized_blocks = (3, 4)

    def __init__(self, spec: ModelSpec, widths: dict[int, int]):
        super().__init__(spec)
        self.stem = Stem(spec, widths[0])
        in_channels = widths[0]
        changed = widths[1] != self.block_widths(spec.width)[1]
        for number in (1, 2, 3, 4):
            channels = widths[number]
            project = number > 1 or in_channels != channels or changed
            sizes = in_channels, channels, 2, number
            self.add_module(f"block{number}", stage(*sizes, project, self.regularizer_of(number)))
            in_channels = channels
        self.head = nn.Linear(in_channels, spec.num_classes)
