"""Accuracy on Stylized-ImageNet, or on any other stylised copies of test images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....defective.errors import UserError
from ...data import Split, StreamedBatches
from ...datasets import centre_crop
from ...image_folder import open_image
from ...store import Store
from ..arithmetic import full_precision, memory_advice
from ..images import TestImages
from ..models import NamedModel
from ..predictions import CleanPredictions, digest_of
from .common import KEPT, Job, Progress, Tally, cells_of, check_evaluation, stage
from .stylized_files import find_stylized


def evaluate_stylized(
    targets: Sequence[NamedModel],
    images: TestImages,
    folder: Path,
    cells: Store,
    *,
    clean: CleanPredictions | None = None,
    batch_size: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """A cell for each target: accuracy on stylised images whose originals all targets get right.

    Geirhos et al. (2019) stylise ImageNet's images with paintings, which keeps shapes and replaces
    textures, and keep classes' folders and files' names. A stylised image belongs to the test
    image of its class folder and file name, whatever the extension, and is resized and cropped as
    test images are.

    Args:
        images: of a data set of image files.
        folder: ``<class>/<name>.*``, or ``val/<class>/<name>.*`` or ``test/...`` in it.
        clean: clean predictions to share with other protocols.
        progress: told (images done, all, text), where an image counts once as a file, for each
            target once as an original, and once as a stylised image.

    Returns:
        Cells in the order of the targets, with further results ``stylised`` (images that belong to
        a test image), ``without_original`` (images that do not) and ``originals_wrong`` (images
        left out since a target gets their original wrong).

    Raises:
        UserError: the data set's images have no file names, no image belongs to a test image, an
            unreadable image, or no original that all targets get right. Finished cells are kept.
    """
    every = torch.arange(len(images))
    check_evaluation(targets, every, batch_size)
    found = find_stylized(folder, images.data)
    count = len(found.files)
    total = (len(targets) + 2) * count
    content = found.digest(stage(progress, 0, total, "reading stylised images"))
    right_for = digest_of(sorted(t.digest for t in targets))
    identity = {
        "files": content,
        "images": images.fingerprint(found.originals),
        # Which originals are left depends on all targets, not only on the cell's own.
        "images_right_for": right_for,
    }
    jobs = [
        Job(t, "stylized", f"{t.name}-{folder.resolve().name}", {"target": t.digest, **identity})
        for t in targets
    ]

    def compute(missing: list[NamedModel]) -> list[dict[str, Any]]:
        with memory_advice(images.device, batch_size, KEPT):
            predictions = clean or CleanPredictions(images, batch_size)
            right = torch.ones(count, dtype=torch.bool)
            for number, target in enumerate(targets, 1):
                told = stage(progress, number * count, total, f"originals by {target.name}")
                classes = predictions.of(target, found.originals, lambda n, _, told=told: told(n))
                right &= classes == images.labels[found.originals]
            if not bool(right.any()):
                names = ", ".join(t.name for t in targets)
                raise UserError(
                    f"{folder}: of {count:,} stylised images no original is classified right by "
                    f"all of {names}: train them first, or leave the weakest out"
                )
            done = stage(progress, total - int(right.sum()), total, "stylised images")
            files = [file for file, kept in zip(found.files, right.tolist(), strict=True) if kept]
            labels = images.labels[found.originals[right]]
            tally = Tally(missing)
            with full_precision():
                for pixels, true in _batches(images, files, labels, batch_size):
                    tally.add(pixels, true)
                    done(tally.total)
        counts = {
            "stylised": count,
            "without_original": found.without_original,
            "originals_wrong": int((~right).sum()),
        }
        return [{"accuracy": rate, **counts} for rate in tally.rates()]

    made = cells_of(jobs, cells, compute)
    progress(total, total, "stylised images")
    return made


def _batches(
    images: TestImages, files: list[Path], labels: Tensor, size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(pixels float32 [n,C,H,W] in [0,1], labels [n]) on the device, as the test images are."""
    data = images.data
    if images.split.images is None:
        split = Split(labels, files=tuple(files))
        streamed = StreamedBatches(split, images.device, data.image_size, workers=images.workers)
        yield from streamed.in_order(size)
        return
    from torchvision.transforms.v2.functional import pil_to_tensor

    crop, mode = centre_crop(data.image_size), "L" if data.in_channels == 1 else "RGB"
    for start in range(0, len(files), size):
        part = slice(start, start + size)
        pixels = [pil_to_tensor(crop(open_image(file, mode))) for file in files[part]]
        stacked = torch.stack(pixels).to(images.device)
        yield stacked.float().div_(255), labels[part].to(images.device)
