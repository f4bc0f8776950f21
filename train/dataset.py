"""What a data set is, wherever it comes from."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..defective.errors import UserError


@dataclass(frozen=True)
class Split:
    """Labelled images, either in memory or as files.

    Attributes:
        labels: int64 [N].
        images: uint8 [N,H,W,C], or None.
        files: N paths, where the images are read from files of their own.
    """

    labels: Tensor
    images: Tensor | None = None
    files: tuple[Path, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> Split:
        return Split(
            self.labels[indices],
            None if self.images is None else self.images[indices],
            None if self.files is None else tuple(self.files[i] for i in indices.tolist()),
        )


@dataclass(frozen=True)
class DataSet:
    """A data set, ready to train on.

    Attributes:
        name: for run names and figures. classes: names in the order of the labels.
        train, test: the splits. validation: images held out of train, or None.
        test_share: of each class of an image folder that was taken off for testing; None if it has
            test images of its own.
        image_size, in_channels: of the images that a network gets.
        mean, std: per-channel statistics of pixels in [0,1], for the network's normalisation.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    image_size: int
    in_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    validation: Split | None = None
    test_share: float | None = None

    @property
    def test_note(self) -> str:
        """Where the test images are from, to write behind their number; often nothing."""
        share = self.test_share
        return "" if share is None else f" ({share:.3g} of each class, as there is no test folder)"

    def check_names(self, names: object, path: str | Path) -> None:
        """Refuse a network of other classes, or of the same in another order.

        Capitals do not count, nor what a folder's name has in place of a "/" or a space, nor
        torchvision's word behind a digit.

        Args:
            names: of the network's classes. What is no list of text is not compared: checkpoints
                need not have any. path: of the network.

        Raises:
            UserError: names both lists.
        """
        if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
            return
        ours, theirs = [_plain(n) for n in self.classes], [_plain(n) for n in names]
        if ours == theirs:
            return
        order = " in another order" if sorted(ours) == sorted(theirs) else ""
        first = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), 0)

        def told(names) -> str:
            if len(names) <= 12:
                return ", ".join(names)
            return f"{len(names)} classes, number {first} of them {names[first]}"

        raise UserError(
            f"{path} was trained on {told(names)}; {self.name} has{order} {told(self.classes)}. "
            "Give the data set of its classes; if they are the same, rename the folders"
        )

    @property
    def resident(self) -> bool:
        return self.train.images is not None

    def hold_out(self, fraction: float, seed: int) -> DataSet:
        """Move a random share of the training images to ``validation``."""
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))
        count = max(1, round(fraction * len(self.train)))
        if count >= len(self.train):
            raise UserError(f"--validation-fraction {fraction}: no training image would be left")
        held, kept = order[:count].sort().values, order[count:].sort().values
        return replace(self, train=self.train.subset(kept), validation=self.train.subset(held))

    def limited(self, train: int | None, test: int | None, seed: int) -> DataSet:
        """Keep a random ``train`` and ``test`` images; None keeps all."""

        def limit(split: Split, count: int | None) -> Split:
            if count is None or count >= len(split):
                return split
            order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
            return split.subset(order[:count].sort().values)

        return replace(self, train=limit(self.train, train), test=limit(self.test, test))


def _plain(name: str) -> str:
    """A class's name as it is compared: "T-shirt/top" is "t shirt top", "7 - seven" is "7"."""
    name = re.sub(r"^(\d) - [a-z]+$", r"\1", name)
    return re.sub(r"[/_\- ]+", " ", name).casefold()


def measured_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) per channel of uint8 images [N,H,W,C], as pixels in [0,1]; std at least 1/255."""
    counts = torch.stack(
        [torch.bincount(images[..., c].flatten(), minlength=256) for c in range(images.shape[-1])]
    ).double()
    counts /= counts.sum(1, keepdim=True)
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean = counts @ levels
    std = ((levels - mean[:, None]).square() * counts).sum(1).sqrt().clamp_min(1 / 255)
    return tuple(mean.tolist()), tuple(std.tolist())
