"""The inner optimisation of Carlini and Wagner's attack, for images that are at different steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .norms import at_least_float
from .oracle import Oracle

SHRINK = 0.999999
"""Pixels of exactly 0 and 1 would be infinitely far out under the inverse of tanh."""
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
PATIENCE = 2
"""Checks without progress after which an image's optimisation has stalled."""


class Descent:
    """Adam on squared L2 + c * hinge, each image with a constant and a step count of its own.

    The variable is w in pixels = (1 + tanh w) / 2, so that no step leaves [0,1] (Carlini and
    Wagner, 2017, section V). Everything is a tensor with one entry or row for each image that is
    left; nothing here waits for the device.

    Args:
        images: [n,C,H,W], pixels in [0,1]. labels, rows: int64 [n]; rows for the oracle's counts.
        constant: the first of all images. confidence: in logits. lr: Adam's.

    Attributes:
        best: [n,C,H,W], the nearest success of each image over all constants; the image itself
            where there is none. nearest: its L2 distance [n], infinite where there is none.
        found: bool [n], a success under the present constant.
        lowest: [n], the least loss under the present constant.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        rows: Tensor,
        constant: float,
        confidence: float,
        lr: float,
    ):
        self.confidence, self.lr = confidence, lr
        self.images, self.labels, self.rows, self.best = images, labels, rows, images
        wide = at_least_float(images)
        self.origin = torch.atanh((wide * 2 - 1) * SHRINK)
        self.offset = torch.zeros_like(self.origin)
        self.mean, self.square = self.offset.clone(), self.offset.clone()
        self.constants = wide.new_full((len(images),), constant)
        self.age = torch.zeros_like(self.constants, dtype=torch.float64)
        self.nearest = torch.full_like(self.constants, torch.inf)
        self.lowest, self.checked = self.nearest, self.nearest.clone()
        self.stalls = torch.zeros_like(labels)
        self.found = torch.zeros_like(labels, dtype=torch.bool)

    def step(self, oracle: Oracle) -> None:
        """Look at every image's present pixels, keep what succeeds, and take one step of Adam."""
        bent = torch.tanh(self.origin + self.offset)
        pixels = unbend(bent).to(self.images.dtype).requires_grad_()
        with torch.enable_grad():
            logits = oracle(pixels, self.rows)
            margin = margins(logits, self.labels)
            hinge = (self.confidence - (-margin if oracle.targeted else margin)).clamp_min(0)
            # Without the constant, which times float16's scale would overflow.
            gradient = oracle.gradient(hinge.sum(), pixels, self.rows)
        pixels = pixels.detach()
        moved = pixels - unbend(torch.tanh(self.origin))
        loss = moved.flatten(1).square().sum(1) + self.constants * hinge.detach()
        self.lowest = torch.minimum(self.lowest, loss)
        self._keep(oracle, pixels, logits.detach())
        gradient = (gradient * over(self.constants) + 2 * moved) * ((1 - bent * bent) / 2)
        self._move(gradient)

    def _keep(self, oracle: Oracle, pixels: Tensor, logits: Tensor) -> None:
        handicap = -self.confidence if oracle.targeted else self.confidence
        raised = logits.scatter_add(
            1, self.labels[:, None], torch.full_like(logits[:, :1], handicap)
        )
        success = oracle.won(raised, self.labels)
        distance = torch.linalg.vector_norm(
            (pixels - self.images).to(self.nearest).flatten(1), dim=1
        )
        better = success & (distance < self.nearest)
        self.best = torch.where(over(better), pixels, self.best)
        self.nearest = torch.where(better, distance, self.nearest)
        self.found = self.found | success

    def _move(self, gradient: Tensor) -> None:
        """Adam (Kingma and Ba, 2015)."""
        self.age += 1
        self.mean.lerp_(gradient, 1 - BETA1)
        self.square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        first, second = (over((1 - beta**self.age).to(gradient)) for beta in (BETA1, BETA2))
        self.offset -= self.lr * (self.mean / first) / ((self.square / second).sqrt() + EPSILON)

    def stalled(self, places: np.ndarray, progress: float) -> Tensor:
        """Whether the least loss is not at most ``progress`` times what it was, twice in a row.

        The least, since the present one goes up and down where the hinge begins; twice, since it
        goes up first where a step is large.

        Args:
            places: int64 [m], among the images left.

        Returns:
            bool [m]; False at the first check under a constant.
        """
        which = self._on_device(places)
        now = self.lowest[which]
        self.stalls[which] = torch.where(
            now <= progress * self.checked[which], 0, self.stalls[which] + 1
        )
        self.checked[which] = now
        return self.stalls[which] >= PATIENCE

    def restart(self, places: Sequence[int], constants: Sequence[float], warm: bool) -> None:
        """Begin anew with other constants.

        Args:
            places: among the images left. constants: one for each of these.
            warm: keep perturbation and Adam's state.
        """
        which = self._on_device(places)
        self.constants[which] = self.constants.new_tensor(constants)
        self.found[which], self.stalls[which] = False, 0
        self.checked[which] = self.lowest[which] = torch.inf
        if not warm:
            for state in (self.offset, self.mean, self.square, self.age):
                state[which] = 0

    def only(self, places: np.ndarray) -> None:
        """Let all images but these go; places: int64 [m], among the images left."""
        which = self._on_device(places)
        for name in _PER_IMAGE:
            setattr(self, name, getattr(self, name)[which])

    def _on_device(self, places: Sequence[int]) -> Tensor:
        return torch.as_tensor(places, device=self.rows.device)


_PER_IMAGE = (
    *("images", "labels", "rows", "best", "origin", "offset", "mean", "square"),
    *("constants", "age", "nearest", "lowest", "checked", "stalls", "found"),
)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the best other class is above the label's, in logits [n]; negative where it is not.

    Args:
        logits: [n,K]. labels: int64 [n].
    """
    true = labels[:, None]
    other = logits.detach().scatter(1, true, -torch.inf).argmax(1, keepdim=True)
    return (logits.gather(1, other) - logits.gather(1, true))[:, 0]


def unbend(bent: Tensor) -> Tensor:
    """From (-1,1), where tanh ends, to pixels."""
    return bent * 0.5 + 0.5


def over(values: Tensor) -> Tensor:
    """[n] -> [n,1,1,1]."""
    return values[:, None, None, None]
