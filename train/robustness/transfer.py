"""Adversarial images of one network against another: the paper's main protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...defective.errors import UserError
from ...defective.robustness import AdversarialSet
from ...defective.robustness.rates import (
    counted_for_defence,
    defence_rate_over_all,
    fooled_source,
    outcomes_of,
    same_wrong_class,
    success_defence_rate,
)
from ..store import Store
from .images import TestImages
from .models import NamedModel, full_precision, relation
from .protocols import CleanPredictions, Progress, classes_of, digest_of, nobody, shown_target

_PREDICTIONS = ("clean_predictions", "predictions", "unrounded_predictions")


def evaluate_transfer(
    target: NamedModel,
    found: AdversarialSet,
    images: TestImages,
    store: Store,
    *,
    batch_size: int,
    clean: CleanPredictions | None = None,
    common: Sequence[NamedModel] = (),
    content: str | None = None,
    progress: Progress = nobody,
) -> dict[str, Any]:
    """The cell of one target on one adversarial set; images are matched by data set index.

    Args:
        clean: clean predictions to share between sets and targets.
        common: targets of a comparison: P1 is given also on the images that all of them classify
            right. Empty for none.
        content: :func:`content_digest` of the set, where it is known already.

    Returns:
        A cell whose results are ``defence`` (P1), ``defence_all`` (P2), ``defence_common``,
        ``defence_unrounded`` (of uint8 sets: P1 with fooling judged before rounding),
        ``same_wrong_class``, ``fooled_source``, ``relation``, ``outcomes`` (of P1, image by image)
        and ``warnings``, one line each.

    Raises:
        UserError: the set is not of these test images, or does not fit the target.
    """
    check_set(found, images, [target])
    clean = clean or CleanPredictions(images, batch_size)
    details = found.details
    identity: dict[str, Any] = {
        "target": target.digest,
        "set": {
            "attack": details["attack"],
            "source": details["source"]["digest"],
            "data": details["data"]["fingerprint"],
            "pixels": details["pixels"],
            "precision": details["precision"],
            "content": content or content_digest(found),
        },
    }
    if common:
        identity["images_common"] = digest_of(sorted(model.digest for model in common))

    def compute() -> dict[str, Any]:
        adversarial = torch.zeros(len(found), dtype=torch.int64)
        with full_precision():
            for start in range(0, len(found), batch_size):
                part = slice(start, start + batch_size)
                adversarial[part] = classes_of(target, found.pixels(part).to(images.device))
                progress(min(part.stop, len(found)), len(found), "")
        only = clean.right_for_all(common, found.indices) if common else None
        rates = _rates(found, clean.of(target, found.indices), adversarial, only)
        return rates | {"relation": relation(details["source"], target)}

    shown = shown_target(target) | {
        "source": details["source"]["name"],
        "attack": details["attack_text"],
        "pixels": details["pixels"],
    }
    label = f"{target.name}-{shown['source']}-{details['attack']['attack']}"
    return store.get("transfer", label, identity, compute, shown=shown)[0]


def _rates(
    found: AdversarialSet, original: Tensor, adversarial: Tensor, only: Tensor | None
) -> dict[str, Any]:
    """Results of a target that gives int64 [N] ``original`` and ``adversarial`` classes."""
    source = {"labels": found.labels, "source_clean_predictions": found.clean_predictions}
    stored = source | {"source_adversarial_predictions": found.predictions}
    target = {
        "target_clean_predictions": original,
        "target_adversarial_predictions": adversarial,
    }
    results: dict[str, Any] = {
        "defence": success_defence_rate(**stored, **target),
        "defence_all": defence_rate_over_all(
            labels=found.labels, target_adversarial_predictions=adversarial
        ),
        "same_wrong_class": same_wrong_class(**stored, **target),
        "fooled_source": fooled_source(**stored),
        "warnings": [],
    }
    among = counted_for_defence(**stored, target_clean_predictions=original)
    results["outcomes"] = outcomes_of(adversarial == found.labels, among)
    if only is not None:
        results["defence_common"] = success_defence_rate(**stored, **target, only=only)
    if found.images.dtype == torch.uint8:
        before = source | {"source_adversarial_predictions": found.unrounded_predictions}
        results["defence_unrounded"] = success_defence_rate(**before, **target)
    if not results["defence"]["n"]:
        seen = f"the adversarial set fools its source on none of its {len(found):,} images"
        if fooled := int(found.fooled.sum()):
            seen = f"the target classifies none of the {fooled:,} images right that fool the source"
        results["warnings"] = [f"no image is left for the success defence rate (P1): {seen}"]
    return results


def content_digest(found: AdversarialSet) -> str:
    """A hash of what the set's rates depend on: images made again elsewhere differ a little."""
    digest = hashlib.sha256()
    for name in ("indices", *_PREDICTIONS, "images"):
        digest.update(getattr(found, name).contiguous().numpy())
    return digest.hexdigest()[:32]


def check_set(
    found: AdversarialSet, images: TestImages, targets: Sequence[NamedModel], where: str = "the set"
) -> None:
    """Whether a set, in the file ``where``, is of these test images and for networks like these.

    Raises:
        UserError: it is not; the message names both data sets or both shapes.
    """
    details = found.details
    try:
        source, name = details["source"], details["data"]["name"]
        texts = name, details["data"]["fingerprint"], source["name"], source["digest"]
        texts += details["attack_text"], details["pixels"], details["precision"]
        known = all(isinstance(text, str) for text in (*texts, details["attack"]["attack"]))
        known = known and isinstance(source["members"], list)
    except (KeyError, TypeError):
        known = False
    if not known:
        raise UserError(
            f"{where} does not say what it was made of; make it again with: scotoma attack"
        )
    here = images.data
    same = not len(found) or int(found.indices.max()) < len(images)
    same = same and images.fingerprint(found.indices) == details["data"]["fingerprint"]
    if not same or not torch.equal(images.labels[found.indices], found.labels):
        fix = "take the same --data-root and test images, or make the set again"
        if name != here.name:
            fix = f"give --dataset and --data-root of the set's images of {name}"
        raise UserError(
            f"{where} holds adversarial images of {name}, which are not the test images of "
            f"{here.name} ({len(images):,}) that are evaluated here; {fix}"
        )
    shape = tuple(found.images.shape[1:])
    for target in targets:
        relation(source, target)  # refuses a damaged description
        spec = target.members[0].spec
        wanted = (spec.in_channels, spec.image_size, spec.image_size)
        if shape != wanted:
            there, takes = ("x".join(map(str, each)) for each in (shape, wanted))
            raise UserError(
                f"{where} holds images of {there}, but {target.name} takes {takes}; evaluate it "
                "with sets of its own size"
            )
        for name in ("labels", *_PREDICTIONS):
            most = int(getattr(found, name).max()) if len(found) else 0
            if most >= spec.num_classes:
                raise UserError(
                    f"{where} has {name} of class {most}, but {target.name} has "
                    f"{spec.num_classes} classes, 0 to {spec.num_classes - 1}"
                )
