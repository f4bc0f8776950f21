"""The regularisers that the paper compares defective layers with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .spec import Regularizer

DROP_PROBABILITY = 0.1
DROPBLOCK_SIZE = 3


def make_regularizer(kind: Regularizer) -> nn.Module | None:
    """One drop layer, or None for "none"; active in training only.

    "spatial-dropout" drops whole channels with probability 0.1 (Tompson et al., 2015).
    "dropblock" drops 3x3 squares so that 0.1 of the map is lost on average (Ghiasi et al., 2018);
    the rate is constant and the output rescaled by numel/kept. The release computes that layer's
    rate with Python 2's integer division, which at 8x8 drops about half as much; ours divides.

    Source: paper sections 4.1.1 and A.3; docs/reference.md, section 1.
    """
    if kind == "spatial-dropout":
        return nn.Dropout2d(DROP_PROBABILITY)
    if kind == "dropblock":
        return DropBlock()
    return None


class DropBlock(nn.Module):
    """torchvision's DropBlock, its mask drawn and summed in float32.

    In float16 the count of kept positions would overflow, and the output be zero without a word.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        from torchvision.ops import drop_block2d  # which nothing else in a network needs

        ones = torch.ones_like(x, dtype=torch.float32)
        return x * drop_block2d(ones, DROP_PROBABILITY, DROPBLOCK_SIZE).to(x.dtype)


def smoothed_cross_entropy(
    logits: Tensor, labels: Tensor, smoothing: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """Cross entropy with the release's label smoothing: 1 - eps for the true class.

    The other K - 1 classes get eps / (K - 1) each, unlike torch's ``label_smoothing``, which
    gives eps / K to all classes, the true one included. A single class cannot be smoothed.

    Args:
        logits: [N,K]. labels: int64 [N]. smoothing: eps in [0,1). reduction: as in torch.
    """
    classes = logits.shape[1]
    if smoothing == 0 or classes == 1:
        return F.cross_entropy(logits, labels, reduction=reduction)
    log_probabilities = F.log_softmax(logits, 1)
    true = log_probabilities.gather(1, labels[:, None])[:, 0]
    others = (log_probabilities.sum(1) - true) / (classes - 1)
    losses = -(1 - smoothing) * true - smoothing * others
    return {"mean": losses.mean, "sum": losses.sum, "none": lambda: losses}[reduction]()


def drop_then_relu(x: Tensor, drop: nn.Module) -> Tensor:
    """The first of a block's two drop positions: after BN, before ReLU."""
    return torch.relu(drop(x))
