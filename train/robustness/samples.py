"""The images that an evaluation's pictures show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...defective.robustness import AdversarialSet
from ...defective.robustness.shuffle import shuffle_patches
from .arithmetic import full_precision
from .images import TestImages
from .models import NamedModel
from .predictions import CleanPredictions, predicted

COUNT = 8


def example_samples(
    found: AdversarialSet,
    images: TestImages,
    targets: Sequence[NamedModel],
    clean: CleanPredictions,
) -> dict[str, Any]:
    """Originals and adversarial images that fool their source, and what every network says.

    Returns:
        "indices" int64 [n], and "clean" float [n,C,H,W], "labels" n names, "rows" as
        :func:`scotoma.train.robustness.plots.draw_all` takes them; n is at most eight, and the
        mapping is empty if the set fools nobody.
    """
    places = found.fooled.nonzero().flatten()[:COUNT]
    if not len(places):
        return {}
    part = found.subset(places)
    names, classes = images.data.classes, part.labels
    originals = _pixels(images, part.indices)
    adversarial = part.pixels()
    rows: list[dict[str, Any]] = []

    def add(title: str, shown: Tensor, predictions: Tensor) -> None:
        rows.append(
            {
                "title": title,
                "images": shown,
                "predicted": [names[c] for c in predictions.tolist()],
                "right": (predictions == classes).tolist(),
            }
        )

    for target in targets:
        add(f"original: {target.name}", originals, clean.of(target, part.indices))
    source, attack = found.details["source"], found.details["attack_text"]
    heading = f"{attack} from {source['name']}:"
    add(f"{heading} {source['name']}", adversarial, part.predictions)
    with full_precision():
        for target in targets:
            if target.digest != source["digest"]:
                said = predicted(target.model, adversarial.to(images.device))
                add(f"{heading} {target.name}", adversarial, said)
    labels = [names[c] for c in classes.tolist()]
    return {"indices": part.indices, "clean": originals, "labels": labels, "rows": rows}


def shuffled_samples(
    images: TestImages, indices: Tensor, grids: Sequence[int], seed: int
) -> dict[str, Any]:
    """The first images of ``indices`` with their patches shuffled, as the protocol does it.

    Returns:
        "shuffled" {k: float [n,C,H,W]} with the originals under 1, and "labels" n names.
    """
    chosen = indices[:COUNT]
    originals = _pixels(images, chosen)
    shuffled = {k: shuffle_patches(originals, k, seed, chosen) for k in grids if k != 1}
    labels = [images.data.classes[c] for c in images.labels[chosen].tolist()]
    return {"shuffled": {1: originals} | shuffled, "labels": labels}


def _pixels(images: TestImages, indices: Tensor) -> Tensor:
    """float [n,C,H,W] on the CPU."""
    return torch.cat([pixels.cpu() for _, pixels, _ in images.batches(indices, len(indices))])
