"""Accuracy on images with shuffled patches: the paper's Tables 1 and 13."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from ....defective.attacks.base import check_count
from ....defective.errors import UserError
from ....defective.robustness.shuffle import PAPER_GRIDS, check_grid, shuffle_patches
from ...store import Store
from ..arithmetic import full_precision, memory_advice
from ..images import TestImages
from ..models import NamedModel
from ..predictions import digest_of
from .common import KEPT, Job, Progress, Tally, cells_of, check_evaluation, logits_of, stage


def evaluate_shuffle(
    targets: Sequence[NamedModel],
    images: TestImages,
    indices: Tensor,
    cells: Store,
    *,
    grids: Sequence[int] = PAPER_GRIDS,
    seed: int = 0,
    confidence: float | None = None,
    batch_size: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """A cell for each grid and target: accuracy on images cut into grid x grid shuffled patches.

    An image's order of patches depends on its number and the seed, so all targets see the same
    images. The release takes the first 4000 images in the order of the classes, and so a part of
    the classes; here the caller chooses.

    Args:
        indices: int64 [N], numbers of test images that all targets classify right.
        grids: patches along a side; 1 is the control, and has to give what clean images give.
        seed: of the orders. confidence: if given, only images count to whose class every target's
            softmax gives at least this (the release: 0.99).
        progress: told (images done, all, text), where an image counts once for each grid.

    Returns:
        Cells in the order of grids, then of targets.

    Raises:
        UserError: a grid that does not divide the images' side, a setting out of range, or no
            image of this confidence. What was finished before is kept.
    """
    check_evaluation(targets, indices, batch_size)
    if not len(grids):
        raise UserError("grids is empty; expected at least one, such as 2")
    for grid in grids:
        check_grid(grid, images.data.image_size)
    check_count("seed", seed, 0)
    if confidence is not None and not 0 < confidence < 1:
        raise UserError(f"confidence is {confidence}; expected a probability between 0 and 1")
    identity = {
        "seed": seed,
        "images": images.fingerprint(indices),
        "indices": digest_of(indices),
    }
    if confidence is not None:
        identity["confidence"] = confidence
        # Which images are left depends on all targets, not only on the cell's own.
        identity["images_confident_for"] = digest_of(sorted(t.digest for t in targets))

    @cache
    def chosen() -> Tensor:
        if confidence is None:
            return indices
        return _confident(targets, images, indices, confidence, batch_size)

    found = []
    for number, grid in enumerate(grids):
        done = stage(
            progress, number * len(indices), len(grids) * len(indices), f"patches {grid}x{grid}"
        )
        compute = partial(_accuracies, images, chosen, grid, seed, batch_size, done)
        jobs = [
            Job(t, "shuffle", f"{t.name}-{grid}", {"target": t.digest, "grid": grid, **identity})
            for t in targets
        ]
        found += cells_of(jobs, cells, compute)
        done(len(indices))
    return found


def _accuracies(
    images: TestImages,
    chosen: Callable[[], Tensor],
    grid: int,
    seed: int,
    batch_size: int,
    done: Callable[[int], None],
    targets: list[NamedModel],
) -> list[dict[str, Any]]:
    """Results of each target for one grid."""
    tally = Tally(targets)
    with memory_advice(images.device, batch_size, KEPT), full_precision():
        for part, clean, labels in images.batches(chosen(), batch_size):
            tally.add(shuffle_patches(clean, grid, seed, part), labels)
            done(tally.total)
    return [{"accuracy": rate, "grid": grid} for rate in tally.rates()]


def _confident(
    targets: Sequence[NamedModel],
    images: TestImages,
    indices: Tensor,
    confidence: float,
    batch_size: int,
) -> Tensor:
    """Those of the indices to whose class each target's softmax gives at least ``confidence``."""
    found = []
    for part, clean, labels in images.batches(indices, batch_size):
        sure = torch.ones_like(labels, dtype=torch.bool)
        for target in targets:
            shares = logits_of(target, clean).float().softmax(1)
            sure &= shares.gather(1, labels[:, None])[:, 0] >= confidence
        found.append(part[sure.cpu()])
    kept = torch.cat(found)
    if not len(kept):
        names = ", ".join(target.name for target in targets)
        raise UserError(
            f"confidence is {confidence}; none of {len(indices):,} images is recognised so surely "
            f"by all of {names}: lower it"
        )
    return kept
