"""The post-activation basic block of ResNet-18 and WideResNet-32."""

from __future__ import annotations

from torch import Tensor, nn

from ..layers import BNMaskReLU, ProjectionShortcut
from ..regularizers import drop_then_relu, make_regularizer


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; paper figures 8 and 13.

    ::

        x -> conv1 -> BN -> mask -> ReLU -> conv2 -> BN -> mask -> (+ shortcut) -> ReLU

    The identity shortcut is never masked, so an output is constant only where the branch's mask
    and the shortcut's support are both zero. Regularisers drop after the first BN and before the
    second (docs/reference.md, section 1).

    Args:
        in_channels, channels, stride: of the block.
        block: the number of the paper's block that this one is part of.
        project: put a 1x1 convolution and BN on the shortcut.
        mask_projection: whether that BN is a mask site.
        regularizer: see :func:`scotoma.defective.regularizers.make_regularizer`.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        block: int,
        project: bool,
        mask_projection: bool = True,
        regularizer: str = "none",
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = BNMaskReLU(channels, block)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = BNMaskReLU(channels, block)
        self.shortcut = None
        if project:
            self.shortcut = ProjectionShortcut(
                in_channels, channels, stride=stride, block=block if mask_projection else None
            )
        self.drop = make_regularizer(regularizer)

    def forward(self, x: Tensor) -> Tensor:
        if self.drop is None:
            out, last = self.bn1(x, conv=self.conv1), self.conv2
        else:
            out = drop_then_relu(self.bn1(x, conv=self.conv1, relu=False), self.drop)
            out, last = self.drop(self.conv2(out)), None
        if self.shortcut is None:
            return self.bn2(out, residual=x, conv=last)
        return self.bn2(out, projection=self.shortcut.branch(x), conv=last)


def stage(
    in_channels: int, channels: int, depth: int, number: int, project: bool, regularizer: str
) -> nn.Sequential:
    """Block ``number`` of the paper, of ``depth`` basic blocks; ``project`` is about the first.

    All but block 1 halve the size, and have the mask on their projection.
    """
    stride = 1 if number == 1 else 2
    first = BasicBlock(
        in_channels, channels, stride, number, project, number != 1, regularizer=regularizer
    )
    others = (
        BasicBlock(channels, channels, 1, number, project=False, regularizer=regularizer)
        for _ in range(depth - 1)
    )
    return nn.Sequential(first, *others)
