"""The walk of many images along a decision boundary, each with steps of its own size."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


class Window:
    """The latest outcomes of a trial, for each image: how often did it succeed?

    Args:
        hits: bool [n,length], outcomes, the oldest overwritten by the newest.
        seen: int64 [n], outcomes since the image was last judged.
    """

    def __init__(self, hits: Tensor, seen: Tensor):
        self.hits, self.seen = hits, seen

    @classmethod
    def empty(cls, like: Tensor, length: int) -> Window:
        """For as many images as ``like`` has, on its device."""
        seen = torch.zeros(len(like), dtype=torch.int64, device=like.device)
        return cls(torch.zeros(len(like), length, dtype=torch.bool, device=like.device), seen)

    def __getitem__(self, some: Tensor) -> Window:
        return Window(self.hits[some], self.seen[some])

    def add(self, outcomes: Tensor, number: int) -> None:
        """Outcomes bool [n] of trial ``number``, counted from zero without gaps."""
        self.hits[:, number % self.hits.shape[1]] = outcomes
        self.seen += 1

    def judge(self, low: float, high: float) -> tuple[Tensor, Tensor]:
        """Who succeeded more often than ``high`` or less than ``low``: two of bool [n].

        Only images with a full window are judged; those with a verdict begin a new window.
        """
        length = self.hits.shape[1]
        full, total = self.seen >= length, self.hits.sum(1)
        more, less = full & (total > high * length), full & (total < low * length)
        self.seen.masked_fill_(more | less, 0)
        return more, less


@dataclass
class Walk:
    """Images on their way, of which some may leave.

    Attributes:
        images, best: [n,C,H,W], originals and the nearest adversarial images so far.
        rows, keys: int64 [n], their places in the batch and the keys of their random numbers.
        last: int64 [n], number of the last step that each may take.
        distance: [n], Euclidean, between images and best.
        spherical, source: [n], sizes of the two steps, as parts of the distance.
        around, ahead: outcomes of spherical steps and of whole steps.
    """

    images: Tensor
    best: Tensor
    rows: Tensor
    keys: Tensor
    last: Tensor
    distance: Tensor
    spherical: Tensor
    source: Tensor
    around: Window
    ahead: Window

    def keep(self, staying: Tensor) -> None:
        """Only the images where ``staying``, bool [n], is true go on."""
        some = staying.nonzero().flatten()
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name)[some])

    def propose(self, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where a step could lead; Figure 2 of Brendel et al. (2018).

        First along the sphere around the image, in the part of the random direction that is
        orthogonal to the line to the image; by Pythagoras, a step along the tangent and back onto
        the sphere. Then straight towards the image. Clipping to [0,1] leaves the sphere, which the
        second part makes up for.

        Args:
            directions: standard normal [n,C,H,W].

        Returns:
            The points after the first and after the second part, and the latter's distance [n].
        """
        line = self.images - self.best
        along = (directions * line).flatten(1).sum(1) / self.distance.square()
        orthogonal = directions.addcmul_(_wide(along), line, value=-1)
        tangent = self.spherical * self.distance / length(orthogonal)
        onto = (self.spherical.square() + 1).rsqrt()
        sphere = torch.addcmul(self.images, _wide(tangent * onto), orthogonal)
        sphere = sphere.addcmul_(_wide(onto), line, value=-1).clamp_(0, 1)
        line = self.images - sphere
        radius = length(line)
        share = (self.source * self.distance + radius - self.distance).clamp_(min=0) / radius
        candidates = torch.addcmul(sphere, _wide(share), line).clamp_(0, 1)
        return sphere, candidates, length(self.images - candidates)

    def accept(self, candidates: Tensor, distance: Tensor, adversarial: Tensor) -> None:
        """Move where the candidate is adversarial, and nearer than before despite rounding."""
        better = adversarial & (distance < self.distance)
        self.best = torch.where(_wide(better), candidates, self.best)
        self.distance = torch.where(better, distance, self.distance)

    def adapt(self, around: Tensor, ahead: Tensor, number: int, factor: float) -> None:
        """Record outcomes bool [n] and change step sizes, as foolbox 3 does.

        A boundary that looks flat (over half of the spherical steps stay adversarial) allows larger
        steps, a curved one (under a fifth) smaller; and steps towards the image should succeed
        between a tenth and a quarter of the time.
        """
        self.around.add(around, number)
        self.ahead.add(ahead, number)
        change = _change(self.around.judge(0.2, 0.5), factor, self.source)
        self.spherical = self.spherical * change
        self.source = self.source * change * _change(self.ahead.judge(0.1, 0.25), factor, change)


def length(vectors: Tensor) -> Tensor:
    """Euclidean length [n] of [n,C,H,W]."""
    return vectors.flatten(1).square().sum(1).sqrt()


def _change(verdicts: tuple[Tensor, Tensor], factor: float, like: Tensor) -> Tensor:
    more, less = verdicts
    return torch.ones_like(like).masked_fill_(more, factor).masked_fill_(less, 1 / factor)


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]
