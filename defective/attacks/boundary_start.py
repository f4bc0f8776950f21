"""Where the boundary attack begins: adversarial images that nobody had to search for long."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from . import draws
from .oracle import Oracle

UNLIMITED = 2**62


@dataclass(frozen=True)
class Judge:
    """Decisions of a model on some images of a batch, up to a number of passes for each.

    Args:
        oracle: of the model. labels: int64 [N], true classes of the whole batch.
        dtype: of the pixels that the model takes; a walk in float32 may be over float16 images.
        most: forward passes that an image may use.
    """

    oracle: Oracle
    labels: Tensor
    dtype: torch.dtype
    most: int = UNLIMITED

    def __call__(self, pixels: Tensor, rows: Tensor) -> Tensor:
        """bool [n], which of the pixels [n,C,H,W] are adversarial; rows as :class:`Oracle`'s."""
        return self.oracle.won(self.oracle(pixels.to(self.dtype), rows), self.labels[rows])

    def both(self, first: Tensor, second: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Judge two images [n,C,H,W] for each row in one forward pass."""
        pixels = torch.cat([first, second]).to(self.dtype)
        logits = self.oracle(pixels, rows)
        self.oracle.forwards[rows] += 1  # the oracle counted one pass for a row
        wrong = self.oracle.won(logits, self.labels[rows].repeat(2)).view(2, -1)
        return wrong[0], wrong[1]

    def left(self, rows: Tensor) -> Tensor:
        """int64 [n], passes that these images may still use."""
        return self.most - self.oracle.forwards[rows]


def blended_noise(
    judge: Judge, images: Tensor, rows: Tensor, keys: Tensor, seed: int, tries: int, steps: int
) -> tuple[Tensor, Tensor]:
    """Blend images with uniform noise, no more than it takes (Brendel et al., 2018, section 2.2).

    An image's noise is the first of its draws that is adversarial. The blend is the first of
    ``steps`` equal steps from the image to that noise. Images leave as soon as they are done.

    Args:
        images: [n,C,H,W], which the model classifies correctly. rows, keys: int64 [n].
        tries: draws of noise for an image, the numbers 0 to ``tries`` - 1 of its key and seed.

    Returns:
        Adversarial images, and bool [n]: whether one was found; otherwise the image is unchanged.
    """
    noise, found = images.clone(), torch.zeros_like(rows, dtype=torch.bool)
    waiting = torch.arange(len(rows), device=rows.device)
    for number in range(tries):
        waiting = waiting[judge.left(rows[waiting]) > 0]
        if not len(waiting):
            break
        shape = tuple(images.shape[1:])
        drawn = draws.uniform(keys[waiting], seed, number, shape, images.dtype)
        wrong = judge(drawn, rows[waiting])
        noise[waiting[wrong]], found[waiting[wrong]] = drawn[wrong], True
        waiting = waiting[~wrong]
    start, waiting = noise.clone(), found.nonzero().flatten()
    for number in range(1, steps):  # step 0 is the image and the last the noise: both are known
        waiting = waiting[judge.left(rows[waiting]) > 0]
        if not len(waiting):
            break
        mixed = torch.lerp(images[waiting], noise[waiting], number / steps).clamp_(0, 1)
        wrong = judge(mixed, rows[waiting])
        start[waiting[wrong]] = mixed[wrong]
        waiting = waiting[~wrong]
    return start, found


def check_starts(starts: Tensor, images: Tensor) -> None:
    """Raises UserError if ``starts`` are not one image of pixels in [0,1] for each image."""
    if not isinstance(starts, Tensor):
        raise UserError(f"starts is {type(starts).__name__}; expected a tensor like images")
    got = [tuple(starts.shape), starts.dtype, str(starts.device)]
    expected = [tuple(images.shape), images.dtype, str(images.device)]
    if got != expected:
        raise UserError(f"starts is {got}; expected {expected}, like images")
    least, most = (float(v) for v in starts.detach().aminmax())
    if not (least >= 0 and most <= 1):
        raise UserError(f"starts has pixels from {least:.4g} to {most:.4g}; expected [0,1]")
