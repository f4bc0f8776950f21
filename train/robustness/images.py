"""Test images of a data set, by their numbers, and choices of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...defective.errors import UserError
from ..config import check_seed, setting
from ..data import DataSet, StreamedBatches
from ..image_folder import files_digest
from .models import NamedModel, full_precision, load_common_data, load_named


class TestImages:
    """The test split, for attacks and evaluations: always in order, never augmented.

    Args:
        device: where batches go. workers: loader processes, for images that are read from files.
    """

    __test__ = False  # not a test case, whatever its name begins with

    def __init__(self, data: DataSet, device: torch.device, workers: int = 0):
        self.data, self.device, self.workers = data, device, workers
        self.split = data.test
        self.labels = data.test.labels
        self._prints: dict[bytes, str] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, indices: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(indices [n], images float32 [n,C,H,W] in [0,1], labels [n]) in the order asked for.

        Indices stay on the CPU, images and labels are on the device.

        Raises:
            UserError: an index that the test split does not have, or an unreadable file.
        """
        self._check(indices)
        if not len(indices):
            return
        if self.split.images is None:
            files = StreamedBatches(
                self.split.subset(indices), self.device, self.data.image_size, workers=self.workers
            )
            streamed = files.in_order(size)
            for part, (images, labels) in zip(indices.split(size), streamed, strict=True):
                yield part, images, labels
            return
        for part in indices.split(size):
            images = self.split.images[part].to(self.device).permute(0, 3, 1, 2).contiguous()
            yield part, images.float().div_(255), self.labels[part].to(self.device)

    def fingerprint(self, indices: Tensor) -> str:
        """A hash of which images these are: of their pixels, or of the size they are brought to
        and their files (:func:`scotoma.train.image_folder.files_digest`).

        Raises UserError as :meth:`batches`."""
        self._check(indices)
        key = indices.numpy().tobytes()
        if key in self._prints:  # many evaluations are of the same images
            return self._prints[key]
        about = self.labels[indices].numpy().tobytes()
        if self.split.images is None:
            paths = [self.split.files[index] for index in indices.tolist()]
            named = [(f"{path.parent.name}/{path.name}", path) for path in paths]
            found = files_digest(named, about + b"%d\n" % self.data.image_size)
        else:
            digest = hashlib.sha256(about)
            for part in indices.split(4096):
                digest.update(self.split.images[part].contiguous().numpy().tobytes())
            found = digest.hexdigest()[:32]
        self._prints[key] = found
        return found

    def _check(self, indices: Tensor) -> None:
        """A negative index would be another image without a word."""
        wrong = indices[(indices < 0) | (indices >= len(self))]
        if len(wrong):
            raise UserError(
                f"image {int(wrong[0])} is asked for, but {self.data.name} has {len(self):,} test "
                "images: another data set, or another version of it"
            )


@dataclass(frozen=True)
class Sample:
    """A choice of test images, int64 [N] in the order of a shuffle, and how it came about.

    Attributes:
        asked: how many were wanted. looked_at: how many images of the shuffle were looked at to
            find these. correct_for: the models that get them right.
    """

    indices: Tensor
    asked: int
    seed: int
    looked_at: int
    correct_for: tuple[NamedModel, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def describe(self) -> dict[str, Any]:
        """Plain values for files."""
        return {
            "asked": self.asked,
            "found": len(self),
            "seed": self.seed,
            "looked_at": self.looked_at,
            "correct_for": [{"name": m.name, "digest": m.digest} for m in self.correct_for],
        }


def sample_of_all(images: TestImages, count: int, seed: int) -> Tensor:
    """int64 [n]: the first ``count`` (or all) numbers of a seeded shuffle of the test images."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return order[:count]


def choose_images(
    models: Sequence[NamedModel],
    images: TestImages,
    count: int,
    seed: int = 0,
    batch_size: int = 250,
    advance: Callable[[int, int], None] = lambda found, count: None,
) -> Sample:
    """The first ``count`` of a seeded shuffle of the test images that all models get right.

    All sources of a comparison share them, so that differences are the attacks', not the images'
    (the paper draws 5000 test images that its source gets right). Images are classified in the
    order of the shuffle until there are enough, each once by each model.

    Args:
        count: how many; fewer are returned if there are not so many.
        batch_size: classified at once; changes nothing. advance: told (found, ``count``).

    Raises:
        UserError: a count or seed out of range, or no image that all models get right.
    """
    if count < 1:
        raise UserError(f"--samples is {count}; expected at least 1")
    check_seed("sample-seed", seed)
    order = sample_of_all(images, len(images), seed)
    found: list[Tensor] = []
    total = looked_at = 0
    with torch.no_grad(), full_precision():
        for indices, pixels, labels in images.batches(order, batch_size):
            right = torch.ones_like(labels, dtype=torch.bool)
            for model in models:
                right &= model.model(pixels).argmax(1) == labels
            found.append(indices[right.cpu()])
            total, looked_at = total + len(found[-1]), looked_at + len(indices)
            advance(min(total, count), count)
            if total >= count:
                break
    if not total:
        names = ", ".join(model.name for model in models)
        raise UserError(
            f"none of the {len(images):,} test images of {images.data.name} is classified right "
            f"by all of {names}: train them first, or leave the weakest out"
        )
    chosen = torch.cat(found)
    if total >= count:  # the batch may have reached further than was needed
        looked_at = int((order == chosen[count - 1]).nonzero()) + 1
    return Sample(chosen[:count], count, seed, looked_at, tuple(models))


@dataclass
class ImagesConfig:
    """What ``scotoma attack`` and ``scotoma evaluate`` are both asked: networks and test images.
    Raises UserError for a number out of range."""

    runs: Sequence[str] = setting(
        [], None, "run folders or checkpoints", "RUN", positional=True, nargs="*"
    )
    ensemble: Sequence[Sequence[str]] = setting(
        [],
        "networks",
        "two or more networks as one, the mean of their logits; may be repeated",
        "RUN",
        nargs="+",
        action="append",
    )
    dataset: str | None = setting(
        None, "images", "name or image folder; default: the networks' own"
    )
    data_root: str | None = setting(None, "images", "where data sets live")
    download: bool = setting(False, "images", "fetch the data set if need be")
    workers: int = setting(4, "images", "loader processes, for images over 64 pixels only")
    sample_seed: int = setting(0, "images", "of the choice of images")
    batch_size: int = setting(250, "run", "images attacked or classified together")
    device: str = setting("auto", "run", "auto, cpu, cuda or cuda:N")

    def __post_init__(self) -> None:
        for name, least in (("samples", 1), ("batch_size", 1), ("workers", 0)):
            value = getattr(self, name, None)
            if value is not None and value < least:
                option = name.replace("_", "-")
                raise UserError(f"--{option} is {value}; expected {least} or more")
        check_seed("sample-seed", self.sample_seed)

    def networks(self, device: torch.device) -> list[NamedModel]:
        return load_named(list(self.runs), [list(group) for group in self.ensemble], device)

    def images(self, models: list[NamedModel], device: torch.device) -> TestImages:
        """The test images, which fit all ``models``."""
        data = load_common_data(models, self.dataset, self.data_root, self.download)
        return TestImages(data, device, self.workers)
