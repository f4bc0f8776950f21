"""Predictions of networks for clean test images, each made once and shared by all protocols."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...defective.errors import UserError
from ...defective.robustness.rates import share_of
from ..store import Store
from .arithmetic import full_precision
from .images import TestImages
from .models import NamedModel

Advance = Callable[[int, int], None]
"""Told (images done, all) after every batch."""


def nobody(done: int, total: int) -> None:
    """For an :data:`Advance` that nobody listens to."""


class CleanPredictions:
    """Classes of test images, by their numbers in the data set; computed when they are needed.

    Args:
        images: the test split. batch_size: images classified at once.
    """

    def __init__(self, images: TestImages, batch_size: int):
        self.images, self.batch_size = images, batch_size
        self._known: dict[str, Tensor] = {}

    def of(self, target: NamedModel, indices: Tensor, advance: Advance = nobody) -> Tensor:
        """int64 [n] on the CPU: the classes that ``target`` gives images ``indices`` [n]."""
        known = self._known.setdefault(
            target.digest, torch.full((len(self.images),), -1, dtype=torch.int64)
        )
        missing = indices[known[indices] < 0].unique()
        if not len(missing):
            return known[indices]
        done = 0
        with full_precision():
            for part, pixels, _ in self.images.batches(missing, self.batch_size):
                known[part] = predicted(target.model, pixels)
                done += len(part)
                advance(done, len(missing))
        return known[indices]

    def right_for_all(self, targets: Iterable[NamedModel], indices: Tensor) -> Tensor:
        """bool [n]: which of the images every target classifies right."""
        right = torch.ones(len(indices), dtype=torch.bool)
        for target in targets:
            right &= self.of(target, indices) == self.images.labels[indices]
        return right


@torch.no_grad()
def predicted(model: nn.Module, pixels: Tensor) -> Tensor:
    """int64 [n] on the CPU: classes of images [n,C,H,W].

    Raises:
        UserError: logits that are not finite; their largest would be a class without a word.
    """
    logits = model(pixels)
    if not bool(logits.isfinite().all()):
        raise UserError("a network's logits are not finite: its weights diverged; leave it out")
    return logits.argmax(1).cpu()


def predict_all(
    model: nn.Module, batches: Iterable[Tensor], total: int, advance: Advance = nobody
) -> Tensor:
    """int64 [total] on the CPU: classes of images that come in batches on the model's device."""
    found = [torch.zeros(0, dtype=torch.int64)]
    done = 0
    with full_precision():
        for pixels in batches:
            found.append(predicted(model, pixels))
            done += len(pixels)
            advance(done, total)
    return torch.cat(found)


def evaluate_clean(
    target: NamedModel,
    images: TestImages,
    cells: Store,
    *,
    clean: CleanPredictions,
    fingerprint: str | None = None,
    advance: Advance = nobody,
) -> dict[str, Any]:
    """The cell of a target's accuracy on the whole test split.

    Args:
        fingerprint: of the whole split, where it is known already.
    """
    every = torch.arange(len(images))
    identity = {
        "target": target.digest,
        "data": images.data.name,
        "images": fingerprint or images.fingerprint(every),
    }

    def compute() -> dict[str, Any]:
        return {"accuracy": share_of(clean.of(target, every, advance) == images.labels)}

    shown = shown_target(target)
    return cells.get("clean", target.name, identity, compute, shown=shown)[0]


def shown_target(target: NamedModel) -> dict[str, str]:
    """Names of a target for people: as a cell's ``results["shown"]`` begins."""
    specs = [member.spec for member in target.members]
    archs = dict.fromkeys(spec.name for spec in specs)
    defects = dict.fromkeys(str(spec.defects) for spec in specs)
    return {
        "target": target.name,
        "target_arch": "+".join(archs),
        "target_defects": "+".join(defects),
    }


def digest_of(values: Sequence[str] | Tensor) -> str:
    """A short hash of texts or of int64 numbers, for identities."""
    if isinstance(values, Tensor):
        content = values.contiguous().numpy().tobytes()
    else:
        content = "\n".join(values).encode()
    return hashlib.sha256(content).hexdigest()[:32]
