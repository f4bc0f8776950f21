"""Accuracy on Stylized-ImageNet, or on any other stylised copies of test images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...defective.errors import UserError
from ..data import DataSet, Split
from ..datasets import centre_crop
from ..image_folder import EXTENSIONS, files_in, image_format, open_image
from ..store import Store
from .images import TestImages
from .models import NamedModel
from .protocols import (
    CleanPredictions,
    Progress,
    cells_of,
    count_right,
    digest_of,
    stage,
)


class StylizedFiles(NamedTuple):
    """Stylised images below ``root``, the test images that they belong to (int64 [N]), and how many
    more images belong to none."""

    root: Path
    files: list[Path]
    originals: Tensor
    without_original: int

    def digest(self, done: Callable[[int], None]) -> str:
        """A hash of the files' names and contents. Raises UserError for a file that is no image."""
        digest = hashlib.sha256()
        for number, file in enumerate(self.files, 1):
            image_format(file)
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{file.relative_to(self.root).as_posix()}\n{content}\n".encode())
            if number % 500 == 0 or number == len(self.files):
                done(number)
        return digest.hexdigest()[:32]


def find_stylized(folder: Path, data: DataSet) -> StylizedFiles:
    """Match the images in class folders with test images by class and file name.

    Raises:
        UserError: no such folder, test images without or with ambiguous names, or no match.
    """
    if data.test.files is None:
        raise UserError(
            f"{data.name} has no file names, by which stylised images find their originals; use a "
            "data set of image files, such as imagenet"
        )
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected <class>/<name>.png in it")
    splits = (folder / name for name in ("val", "test") if name not in data.classes)
    root = next((split for split in splits if split.is_dir()), folder)
    numbers = _numbers(data)
    files, originals, without = [], [], 0
    for path in sorted(Path(path) for name, path in files_in(root) if "/" in name):
        if path.suffix.lower() not in EXTENSIONS:
            continue
        number = numbers.get((path.relative_to(root).parts[0], path.stem))
        if number is None:
            without += 1
            continue
        files.append(path)
        originals.append(number)
    if not files:
        name, stem = next(iter(numbers))
        there = f"; {without:,} images of other names are there" if without else ""
        raise UserError(
            f"{root}: no stylised version of a test image of {data.name}; looked for "
            f"{name}/{stem}.png (or another extension) and so on{there}"
        )
    return StylizedFiles(root, files, torch.tensor(originals), without)


def _numbers(data: DataSet) -> dict[tuple[str, str], int]:
    """{(class, file name without extension): number of the test image}."""
    found: dict[tuple[str, str], int] = {}
    pairs = zip(data.test.files, data.test.labels.tolist(), strict=True)
    for number, (file, label) in enumerate(pairs):
        first = found.setdefault((data.classes[label], file.stem), number)
        if first != number:
            raise UserError(
                f"{data.test.files[first]} and {file} differ only in folder or extension, so that "
                "a stylised image could belong to either; rename one"
            )
    return found


def evaluate_stylized(
    targets: Sequence[NamedModel],
    images: TestImages,
    folder: Path,
    store: Store,
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
        progress: an image counts once as a file, for each target once as an original, and once as
            a stylised image.

    Returns:
        Cells in the order of the targets, with further results ``stylised`` (images that belong to
        a test image), ``without_original`` (images that do not) and ``originals_wrong`` (images
        left out since a target gets their original wrong).

    Raises:
        UserError: the data set's images have no file names, no image belongs to a test image, an
            unreadable image, or no original that all targets get right. Finished cells are kept.
    """
    found = find_stylized(folder, images.data)
    count = len(found.files)
    total = (len(targets) + 2) * count
    identity = {
        "files": found.digest(stage(progress, 0, total, "reading stylised images")),
        "images": images.fingerprint(found.originals),
        # Which originals are left depends on all targets, not only on the cell's own.
        "images_right_for": digest_of(sorted(t.digest for t in targets)),
    }

    def compute(missing: list[NamedModel]) -> list[dict[str, Any]]:
        predictions = clean or CleanPredictions(images, batch_size)
        right = torch.ones(count, dtype=torch.bool)
        for number, target in enumerate(targets, 1):
            told = stage(progress, number * count, total, f"originals by {target.name}")
            classes = predictions.of(target, found.originals, lambda n, *_, told=told: told(n))
            right &= classes == images.labels[found.originals]
        if not bool(right.any()):
            names = ", ".join(t.name for t in targets)
            raise UserError(
                f"{folder}: of {count:,} stylised images no original is classified right by all "
                f"of {names}: train them first, or leave the weakest out"
            )
        done = stage(progress, total - int(right.sum()), total, "stylised images")
        files = [file for file, kept in zip(found.files, right.tolist(), strict=True) if kept]
        styled = _like(images, files, images.labels[found.originals[right]])
        batches = styled.batches(torch.arange(len(files)), batch_size)
        rates = count_right(missing, (([pixels], labels) for _, pixels, labels in batches), done)
        counts = {
            "stylised": count,
            "without_original": found.without_original,
            "originals_wrong": int((~right).sum()),
        }
        return [{"accuracy": rate, **counts} for (rate,) in rates]

    made = cells_of("stylized", targets, folder.resolve().name, identity, store, compute)
    progress(total, total, "stylised images")
    return made


def _like(images: TestImages, files: list[Path], labels: Tensor) -> TestImages:
    """Images in files, brought to the size and channels of the test images and read as they are."""
    data, pixels = images.data, None
    if images.split.images is not None:  # small ones lie in memory
        crop, mode = centre_crop(data.image_size), "L" if data.in_channels == 1 else "RGB"
        stacked = np.stack([np.asarray(crop(open_image(file, mode))) for file in files])
        pixels = torch.from_numpy(stacked).view(*stacked.shape[:3], data.in_channels)
    split = Split(labels, pixels, tuple(files))
    return TestImages(replace(data, test=split), images.device, images.workers)
