"""What the protocols share: checks, counting, and cells of several targets in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....defective.attacks.base import check_count
from ....defective.attacks.oracle import check_evaluation_mode
from ....defective.errors import UserError
from ....defective.robustness.rates import Rate, proportion
from ...store import Store
from ..models import NamedModel
from ..predictions import shown_target

Progress = Callable[[int, int, str], None]
"""Told (done, all, what is done) as a protocol goes on."""

KEPT = "; finished results are kept, and the same command goes on with the others"


def stage(progress: Progress, before: int, total: int, text: str) -> Callable[[int], None]:
    """What to tell how much of a stage is done, where ``before`` of ``total`` came before it."""
    return lambda done: progress(before + done, total, text)


@dataclass(frozen=True)
class Job:
    """A cell that is wanted of a target; fields as :meth:`Store.get` takes them."""

    target: NamedModel
    kind: str
    label: str
    identity: dict[str, Any]

    def is_done(self, cells: Store) -> bool:
        return cells.path(self.kind, self.label, self.identity).is_file()


def cells_of(
    jobs: Sequence[Job],
    cells: Store,
    compute: Callable[[list[NamedModel]], list[dict[str, Any]]],
) -> list[dict[str, Any]]:
    """The cells of some jobs, in their order; what is missing is computed in one pass.

    The pass counts in the first computed cell's seconds.

    Args:
        compute: gets the targets whose cells are missing, and returns their results.
    """
    missing = [job for job in jobs if not job.is_done(cells)]
    results: list[dict[str, Any]] = []

    def of(job: Job) -> dict[str, Any]:
        if not results:
            results.extend(compute([job.target for job in missing]))
        return results[missing.index(job)]

    found = []
    for job in jobs:
        shown = shown_target(job.target) | right_for([each.target for each in jobs])
        cell, _ = cells.get(job.kind, job.label, job.identity, lambda job=job: of(job), shown=shown)
        found.append(cell)
    return found


def right_for(targets: Sequence[NamedModel]) -> dict[str, list[str]]:
    """For a cell's ``shown``: whom its images are right for, and so which images they are."""
    return {"right_for": [target.name for target in targets]}


class Tally:
    """How many of the images that it is shown each target classifies right."""

    def __init__(self, targets: Sequence[NamedModel]):
        self.targets, self.right, self.total = targets, [0] * len(targets), 0

    def add(self, pixels: Tensor, labels: Tensor) -> None:
        """Classify images [n,C,H,W] in [0,1]. Raises UserError as :func:`logits_of`."""
        for number, target in enumerate(self.targets):
            self.right[number] += int((logits_of(target, pixels).argmax(1) == labels).sum())
        self.total += len(labels)

    def rates(self) -> list[Rate]:
        """One for each target."""
        return [proportion(right, self.total) for right in self.right]


@torch.no_grad()
def logits_of(target: NamedModel, pixels: Tensor) -> Tensor:
    """[n,K]. Raises UserError where they are not finite: a class would be made of nothing."""
    logits = target.model(pixels)
    if not bool(logits.isfinite().all()):
        raise UserError(f"{target.name}: its logits are not finite: its weights diverged")
    return logits


def check_evaluation(targets: Sequence[NamedModel], indices: Tensor, batch_size: int) -> None:
    """Arguments that all protocols have.

    Raises:
        UserError: no targets, one in training mode, no images, an image twice, or no batch size.
    """
    if not targets:
        raise UserError("no targets to evaluate; give run folders or checkpoints")
    for target in targets:
        try:
            check_evaluation_mode(target.model)
        except UserError as error:
            raise UserError(f"{target.name}: {error}") from None
    if indices.dtype != torch.int64 or indices.dim() != 1:
        raise UserError(
            f"indices is {tuple(indices.shape)} {indices.dtype}; expected int64 [N], numbers of "
            "test images"
        )
    if not len(indices):
        names = ", ".join(target.name for target in targets)
        raise UserError(f"no images to evaluate on: is there any that all of {names} get right?")
    if len(indices.unique()) != len(indices):
        raise UserError("indices has a test image twice; expected each once")
    check_count("batch_size", batch_size)
