"""The decision-based score: how far the boundary attack has to go (the paper's Table 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor

from ...defective.attacks import Attack, Status
from ...defective.errors import UserError
from ...defective.robustness.rates import check_results
from ..store import Store, key_of, read_record, write_record
from .images import TestImages
from .models import NamedModel, full_precision
from .protocols import PRECISION, Progress, count_statuses, shown_targets, stage, which
from .sets import Source

Outcomes = dict[int, tuple[Status, float, int]]
"""By an image's number: status, squared L2 / (C*H*W), and forward passes."""


def evaluate_boundary(
    targets: Sequence[NamedModel],
    images: TestImages,
    indices: Tensor,
    store: Store,
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
        progress: an image counts once for each target.

    Returns:
        Cells in the order of the targets. Their scores are None where no image counts, and
        ``score_median_interval`` (see :func:`median_interval`) is None where too few do.

    Raises:
        UserError: a model that cannot be attacked, or damaged files. What was finished before is
            kept.
        OSError: a file cannot be written.
    """
    count, found, chosen = len(indices), [], which(images, indices)
    for number, target in enumerate(targets):
        text = f"{attack.name} on {target.name}"
        done = stage(progress, number * count, len(targets) * count, text)
        identity = {"target": target.digest, "attack": attack.parameters(), **chosen}
        # Names of models, which may change from one command to the next, are no part of its name.
        file = store.folder / f"boundary-{key_of('boundary', identity)}.parts"
        compute = partial(_scores, target, attack, images, indices, batch_size, file, done)
        shown = shown_targets(target, targets) | {"attack": str(attack)}
        label = f"{target.name}-{attack.name}"
        found.append(store.get("boundary", label, identity, compute, shown=shown)[0])
        file.unlink(missing_ok=True)
        done(count)
    return found


def _scores(
    target: NamedModel,
    attack: Attack,
    images: TestImages,
    indices: Tensor,
    batch_size: int,
    file: Path,
    done: Callable[[int], None],
) -> dict[str, Any]:
    """Attack the images that are not in ``file``, and keep each batch there."""
    outcomes = _read_outcomes(file)
    left = indices[torch.tensor([index not in outcomes for index in indices.tolist()])]
    done(len(outcomes))
    source = Source(target, PRECISION)
    with full_precision():
        for part, clean, labels in images.batches(left, batch_size):
            result = source.attacked(attack, clean, labels, part)
            scores = (result.images.double() - clean.double()).flatten(1).square().mean(1)
            columns = (part, result.status, scores, result.forwards)
            for index, status, *rest in zip(*(c.tolist() for c in columns), strict=True):
                outcomes[index] = (Status(status), *rest)
            write_record(file, {str(i): [int(s), *rest] for i, (s, *rest) in outcomes.items()})
            done(len(outcomes))
    return _results(outcomes)


def _read_outcomes(file: Path) -> Outcomes:
    """Of finished batches. Raises UserError if the file is damaged."""
    if not file.is_file():
        return {}
    stored = read_record(file, "batches of an evaluation", fix="remove it")
    stored.pop("digest", None)
    try:
        check_results(stored)
        return {
            int(index): (Status(status), float(score), int(forwards))
            for index, (status, score, forwards) in stored.items()
        }
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: no batches of an evaluation ({error}); remove it") from None


def _results(outcomes: Outcomes) -> dict[str, Any]:
    statuses, scores, forwards = zip(*outcomes.values(), strict=True)
    turned = [i for i, status in enumerate(statuses) if status == Status.FOOLED]
    scores, forwards = [scores[i] for i in turned], [forwards[i] for i in turned]
    return {
        "score_median": median(scores) if scores else None,
        "score_median_interval": median_interval(scores),
        "score_mean": fmean(scores) if scores else None,
        "n": len(scores),
        "statuses": count_statuses(torch.tensor(statuses)),
        "forwards_mean": fmean(forwards) if scores else None,
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
