"""Which test images are attacked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...defective.errors import UserError
from ..config import check_seed
from .arithmetic import full_precision
from .images import TestImages
from .models import NamedModel


@dataclass(frozen=True)
class Sample:
    """A choice of test images, and how it came about.

    Attributes:
        indices: int64 [N], numbers in the test split, in the order of the shuffle.
        asked: how many were wanted. seed: of the shuffle. looked_at: how many images of the
            shuffle were looked at to find these. correct_for: the models that get them right.
    """

    indices: Tensor
    asked: int
    seed: int
    looked_at: int
    correct_for: tuple[NamedModel, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def describe(self) -> dict[str, Any]:
        """Plain values for files."""
        return {
            "asked": self.asked,
            "found": len(self),
            "seed": self.seed,
            "looked_at": self.looked_at,
            "correct_for": [{"name": m.name, "digest": m.digest} for m in self.correct_for],
        }


def choose_images(
    models: Sequence[NamedModel],
    images: TestImages,
    count: int,
    seed: int = 0,
    batch_size: int = 250,
    advance: Callable[[int, int], None] | None = None,
) -> Sample:
    """The first ``count`` of a seeded shuffle of the test images that all models get right.

    All sources of a comparison share them, so that differences are the attacks', not the images'
    (the paper draws 5000 test images that its source gets right). Images are classified in the
    order of the shuffle until there are enough, each once by each model.

    Args:
        count: how many; fewer are returned if there are not so many.
        batch_size: images classified at once; the choice does not depend on it.
        advance: told (images found, ``count``) after every batch.

    Raises:
        UserError: a count or seed out of range, or no image that all models get right.
    """
    if count < 1:
        raise UserError(f"--samples is {count}; expected at least 1")
    check_seed("sample-seed", seed)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    found: list[Tensor] = []
    total = looked_at = 0
    with torch.no_grad(), full_precision():
        for indices, pixels, labels in images.batches(order, batch_size):
            right = torch.ones_like(labels, dtype=torch.bool)
            for model in models:
                right &= model.model(pixels).argmax(1) == labels
            found.append(indices[right.cpu()])
            total, looked_at = total + len(found[-1]), looked_at + len(indices)
            if advance:
                advance(min(total, count), count)
            if total >= count:
                break
    if not total:
        names = ", ".join(model.name for model in models)
        raise UserError(
            f"none of the {len(images):,} test images of {images.data.name} is classified right "
            f"by all of {names}: train them first, or leave the weakest out"
        )
    chosen = torch.cat(found)
    if total >= count:  # the batch may have reached further than was needed
        looked_at = int((order == chosen[count - 1]).nonzero()) + 1
    return Sample(chosen[:count], count, seed, looked_at, tuple(models))
