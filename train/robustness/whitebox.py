"""Targets attacked themselves, with all that is known of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...defective.attacks import Attack, AttackResult, Status
from ...defective.errors import UserError
from ...defective.robustness.rates import share_of
from ..store import Store
from .arithmetic import full_precision
from .attacking import Source, keeps_batch
from .images import TestImages
from .models import NamedModel
from .predictions import Advance, digest_of, nobody, shown_target

PRECISION = "float32"
"""Without TF32: its ten bits turn the signs of small gradients."""


def sample_of_all(images: TestImages, count: int, seed: int) -> Tensor:
    """int64 [n]: the first ``count`` (or all) numbers of a seeded shuffle of the test images."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return order[:count]


def evaluate_white_box(
    target: NamedModel | Source,
    attack: Attack,
    images: TestImages,
    indices: Tensor,
    cells: Store,
    *,
    batch_size: int,
    advance: Advance = nobody,
) -> dict[str, Any]:
    """The cell of one attack on one target; an image's key in the attack is its index.

    ``robust_accuracy`` is the share of all images that are classified right before the attack and
    after it; ``defence`` the same share of those that were classified right before it (the paper's
    Table 12).

    Args:
        target: the model, or a :class:`Source` in float32 to keep its CUDA graphs over attacks.
        indices: int64 [N], numbers in the test split.

    Returns:
        A cell with further results ``forwards_mean`` and ``backwards_mean`` (passes an image),
        ``median_l2`` and ``median_linf`` (of the images that the attack turned, pixels in [0,1];
        None where it turned none) and ``statuses`` ({name: number of images}).

    Raises:
        UserError: a model that cannot be attacked, or settings that do not fit the images.
    """
    source = target if isinstance(target, Source) else Source(target, PRECISION)
    if source.precision != PRECISION:
        raise UserError(f"the source's precision is {source.precision}; expected {PRECISION}")
    model = source.model
    identity = {
        "target": model.digest,
        "attack": attack.parameters(),
        "images": images.fingerprint(indices),
        "indices": digest_of(indices),
        "precision": PRECISION,
    }

    def compute() -> dict[str, Any]:
        results, distances = [], []
        done = 0
        with full_precision(keeps_batch(attack)):
            for part, pixels, labels in images.batches(indices, batch_size):
                try:
                    result = attack(source.oracle(attack), pixels, labels, keys=part)
                except UserError as error:
                    raise UserError(f"{model.name}, {attack}: {error}") from None
                results.append(_on_cpu(result))
                distances.append(_distances(result, pixels))
                done += len(part)
                advance(done, len(indices))
        return _results(results, distances, images.labels[indices])

    shown = shown_target(model) | {"attack": str(attack)}
    label = f"{model.name}-{attack.name}"
    cell, _ = cells.get("white-box", label, identity, compute, shown=shown)
    return cell


_FIELDS = ("predictions", "clean_predictions", "status", "forwards", "backwards")


def _on_cpu(result: AttackResult) -> dict[str, Tensor]:
    """All but the images."""
    return {name: getattr(result, name).cpu() for name in _FIELDS}


def _distances(result: AttackResult, pixels: Tensor) -> Tensor:
    """float [n,2] on the CPU: Euclidean and largest distance of each image from its original."""
    delta = (result.images.float() - pixels).flatten(1)
    return torch.stack([delta.norm(dim=1), delta.abs().amax(1)], 1).cpu()


def _results(
    results: list[dict[str, Tensor]], distances: list[Tensor], labels: Tensor
) -> dict[str, Any]:
    every = {name: torch.cat([part[name] for part in results]) for name in _FIELDS}
    after = every["predictions"] == labels
    before = every["clean_predictions"] == labels
    turned = torch.cat(distances)[before & ~after]
    medians = turned.double().quantile(0.5, dim=0).tolist() if len(turned) else (None, None)
    counts = torch.bincount(every["status"].long(), minlength=len(Status)).tolist()
    return {
        "robust_accuracy": share_of(after & before),
        "defence": share_of(after, among=before),
        "forwards_mean": float(every["forwards"].double().mean()),
        "backwards_mean": float(every["backwards"].double().mean()),
        "median_l2": medians[0],
        "median_linf": medians[1],
        "statuses": {Status(i).name.lower(): n for i, n in enumerate(counts) if n},
    }
