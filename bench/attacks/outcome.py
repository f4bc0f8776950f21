"""What an attack achieved, and whether that agrees with a peer of equal settings."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from .case import Case

EQUAL_PREDICTIONS = {"float32": 0.95, "bfloat16": 0.8}
"""Least share, for attacks in a ball. Signs of gradients near zero differ with the order of sums,
and in bfloat16 many more do."""
SUCCESS = {"float32": 0.02, "bfloat16": 0.05}
"""How much lower the success rate may be; in a ball, how far it may be in either direction."""
LONGER = {"cw-l2": 1.01, "cw-l2-stop": 1.05, "boundary": 1.25}
"""How much longer the median perturbation may be. Where nothing is random and nobody stops early
only rounding excuses; the boundary attack is random, and here it has one seed and few images."""


@dataclass(frozen=True)
class Outcome:
    """Results of one contestant on a batch.

    Attributes:
        success: share of the images that the network gets wrong afterwards.
        median_l2: of the perturbations of those, in units of pixels in [0,1]; None without any.
        equal_pixels, equal_predictions: shares that are the same as the peer's; None for the peer.
        forwards, backwards: passes per image, mean; None where nobody counted.
        most_forwards: of one image.
    """

    success: float
    median_l2: float | None
    equal_pixels: float | None = None
    equal_predictions: float | None = None
    forwards: float | None = None
    backwards: float | None = None
    most_forwards: int | None = None

    def as_dict(self) -> dict:
        return asdict(self)


@torch.no_grad()
def predictions(model: nn.Module, images: Tensor) -> Tensor:
    """Classes, in the same batches for every contestant."""
    return torch.cat([model(part).argmax(1) for part in images.split(250)])


def judge(
    found: Tensor,
    classes: Tensor,
    images: Tensor,
    labels: Tensor,
    peer: tuple[Tensor, Tensor] | None,
    counts: tuple[Tensor, Tensor] | None,
) -> Outcome:
    """What became of a batch.

    Args:
        found, classes: adversarial images, and the plain network's classes for them.
        images, labels: of the target. peer: the peer's ``found`` and ``classes``.
        counts: forward and backward passes of each image.
    """
    fooled = classes != labels
    lengths = torch.linalg.vector_norm((found - images).flatten(1), dim=1)[fooled]
    equal = {}
    if peer is not None:
        equal["equal_pixels"] = float((found == peer[0]).double().mean())
        equal["equal_predictions"] = float((classes == peer[1]).double().mean())
    passes = {}
    if counts is not None:
        forwards, backwards = counts
        passes = {"forwards": float(forwards.double().mean())}
        passes["backwards"] = float(backwards.double().mean())
        passes["most_forwards"] = int(forwards.max())
    return Outcome(
        success=float(fooled.double().mean()),
        median_l2=float(lengths.median()) if len(lengths) else None,
        **equal,
        **passes,
    )


def disagreement(own: Outcome, peer: Outcome, case: Case, dtype: str) -> list[str]:
    """Why a time of this outcome would mean nothing beside the peer's; empty if it means something.

    Success rates are rates of a batch: one image more or less never counts.
    """
    problems = []
    allowed = max(SUCCESS[dtype], 1.5 / case.batch_size)
    gap = own.success - peer.success
    if gap < -allowed or (gap > allowed and not case.setup.minimal):
        problems.append(
            f"success rate {own.success:.4f} beside {peer.success:.4f}, allowed difference "
            f"{allowed:.4f}"
        )
    if not case.setup.minimal:
        least = min(EQUAL_PREDICTIONS[dtype], 1 - 1.5 / case.batch_size)
        if own.equal_predictions < least:
            problems.append(
                f"{own.equal_predictions:.4f} of the predictions are equal, least {least:.4f}"
            )
    elif own.median_l2 is not None and peer.median_l2 is not None:
        most = peer.median_l2 * LONGER[case.attack]
        if own.median_l2 > most:
            problems.append(f"median L2 {own.median_l2:.5g}, allowed {most:.5g}")
    return problems
