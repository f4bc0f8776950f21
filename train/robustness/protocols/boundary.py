"""The decision-based score: how far the boundary attack has to go (the paper's Table 6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor

from ....defective.attacks import Attack, AttackResult, Oracle, Status
from ....defective.errors import UserError
from ....defective.robustness.rates import check_results
from ...store import Store, read_record, write_record
from ..arithmetic import full_precision, memory_advice
from ..images import TestImages
from ..models import NamedModel
from ..predictions import digest_of, shown_target
from .common import KEPT, Progress, check_evaluation, right_for, stage


def evaluate_boundary(
    targets: Sequence[NamedModel],
    images: TestImages,
    indices: Tensor,
    cells: Store,
    *,
    attack: Attack,
    batch_size: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """A cell for each target: the squared L2 distance of what an attack found, divided by C*H*W.

    All targets get the same images, and the same random numbers for each of them (the release
    takes another 500 images for each target). Only images count that the attack turned; of the
    others ``statuses`` has the numbers. ``forwards_mean`` is over the same images as the score.
    Finished batches are kept beside the cells until a target is done.

    Args:
        indices: int64 [N], numbers of test images that all targets classify right.
        attack: usually :class:`scotoma.defective.attacks.boundary.Boundary`; any will do that
            looks for small distances.
        progress: told (images done, all, text), where an image counts once for each target.

    Returns:
        Cells in the order of the targets. Their scores are None where no image counts, and
        ``score_median_interval`` (see :func:`median_interval`) is None where too few do.

    Raises:
        UserError: no images, a model that cannot be attacked, or damaged files. What was finished
            before is kept.
        OSError: a file cannot be written.
    """
    check_evaluation(targets, indices, batch_size)
    if not isinstance(attack, Attack):
        raise UserError(f"attack is {attack!r}; expected an attack, such as boundary")
    chosen = {"images": images.fingerprint(indices), "indices": digest_of(indices)}
    count, found = len(indices), []
    for number, target in enumerate(targets):
        text = f"{attack.name} on {target.name}"
        done = stage(progress, number * count, len(targets) * count, text)
        identity = {"target": target.digest, "attack": attack.parameters(), **chosen}
        work = Work(target, attack, images, indices, batch_size, done)
        found.append(_cell(work, identity, cells, right_for(targets)))
        done(count)
    return found


@dataclass(frozen=True)
class Work:
    """One target to attack; fields as the arguments of :func:`evaluate_boundary`."""

    target: NamedModel
    attack: Attack
    images: TestImages
    indices: Tensor
    batch_size: int
    done: Callable[[int], None]


def _cell(
    work: Work, identity: dict[str, Any], cells: Store, chosen: dict[str, Any]
) -> dict[str, Any]:
    label = f"{work.target.name}-{work.attack.name}"
    parts = Parts.beside(cells, cells.path("boundary", label, identity))

    def compute() -> dict[str, Any]:
        _finish(work, parts)
        return _results(parts.outcomes)

    shown = shown_target(work.target) | chosen | {"attack": str(work.attack)}
    cell, _ = cells.get("boundary", label, identity, compute, shown=shown)
    parts.remove()
    return cell


@dataclass(frozen=True)
class Outcome:
    """What became of an image: status, squared L2 / (C*H*W), and forward passes."""

    status: Status
    score: float
    forwards: int


class Parts:
    """Outcomes of the finished batches of one cell, by the images' numbers, and their file."""

    def __init__(self, file: Path):
        self.file = file
        self.outcomes: dict[int, Outcome] = {}

    @classmethod
    def beside(cls, cells: Store, cell: Path) -> Parts:
        """For a cell's file, whose name ends in a hash of what determines it. Names of models,
        which may change from one command to the next, are left out."""
        return cls(cells.folder / f"boundary-{cell.stem.rpartition('-')[2]}.parts")

    def load(self) -> None:
        """Raises UserError if the file is damaged."""
        if not self.file.is_file():
            return
        stored = read_record(self.file, "batches of an evaluation", fix="remove it")
        stored.pop("digest", None)
        try:
            check_results(stored)
            self.outcomes = {
                int(index): Outcome(Status(status), float(score), int(forwards))
                for index, (status, score, forwards) in stored.items()
            }
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{self.file}: no batches of an evaluation ({error}); remove it"
            ) from None

    def add(self, indices: Tensor, result: AttackResult, clean: Tensor) -> None:
        """Keep a batch of images [n,C,H,W]. Raises OSError."""
        delta = (result.images.double() - clean.double()).flatten(1)
        scores = delta.square().mean(1).tolist()
        rows = zip(result.status.tolist(), scores, result.forwards.tolist(), strict=True)
        for index, (status, score, forwards) in zip(indices.tolist(), rows, strict=True):
            self.outcomes[index] = Outcome(Status(status), score, forwards)
        stored = {i: [int(o.status), o.score, o.forwards] for i, o in self.outcomes.items()}
        write_record(self.file, stored)

    def remove(self) -> None:
        self.file.unlink(missing_ok=True)


def _finish(work: Work, parts: Parts) -> None:
    """Attack the images that ``parts`` has not."""
    parts.load()
    missing = [index not in parts.outcomes for index in work.indices.tolist()]
    left = work.indices[torch.tensor(missing)]
    work.done(len(parts.outcomes))
    if not len(left):
        return
    oracle = Oracle(work.target.model)
    with memory_advice(work.images.device, work.batch_size, KEPT), full_precision():
        for part, clean, labels in work.images.batches(left, work.batch_size):
            try:
                result = work.attack(oracle, clean, labels, keys=part)
            except UserError as error:
                raise UserError(f"{work.target.name}, {work.attack.name}: {error}") from None
            parts.add(part, result, clean)
            work.done(len(parts.outcomes))


def _results(outcomes: dict[int, Outcome]) -> dict[str, Any]:
    counts = Counter(outcome.status for outcome in outcomes.values())
    counted = [o for o in outcomes.values() if o.status == Status.FOOLED]
    scores = [outcome.score for outcome in counted]
    return {
        "score_median": median(scores) if scores else None,
        "score_median_interval": median_interval(scores),
        "score_mean": fmean(scores) if scores else None,
        "n": len(scores),
        "statuses": {status.name.lower(): counts[status] for status in Status if counts[status]},
        "forwards_mean": fmean(o.forwards for o in counted) if scores else None,
    }


def median_interval(values: Sequence[float]) -> list[float] | None:
    """[low, high]: two of the ``values`` that enclose the median with at least 95 % probability.

    How many of n values lie below the true median is binomial (n, 1/2), whatever their
    distribution. None for fewer than six, whose extremes are not sure enough.
    """
    count, below, term = 0, 0, 1  # term: ways to choose ``count`` of n; below: those of fewer
    while 40 * (below + term) <= 2 ** len(values):
        below, term, count = below + term, term * (len(values) - count) // (count + 1), count + 1
    ordered = sorted(values)
    return [ordered[count - 1], ordered[-count]] if count else None
