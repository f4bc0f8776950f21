"""Test images of a data set, by their numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from ...defective.errors import UserError
from ..data import DataSet, StreamedBatches
from ..image_folder import files_digest


class TestImages:
    """The test split, for attacks and evaluations: always in order, never augmented.

    Args:
        data: the data set. device: where batches go. workers: loader processes, for images that
            are read from files.
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
        if self.split.images is None:
            key = indices.numpy().tobytes()
            if key not in self._prints:  # many evaluations are of the same images
                self._prints[key] = self._of_files(indices)
            return self._prints[key]
        digest = hashlib.sha256(self.labels[indices].numpy().tobytes())
        for part in indices.split(4096):
            digest.update(self.split.images[part].contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]

    def _of_files(self, indices: Tensor) -> str:
        paths = [self.split.files[index] for index in indices.tolist()]
        about = self.labels[indices].numpy().tobytes() + b"%d\n" % self.data.image_size
        return files_digest([(f"{path.parent.name}/{path.name}", path) for path in paths], about)

    def _check(self, indices: Tensor) -> None:
        """A negative index would be another image without a word."""
        wrong = indices[(indices < 0) | (indices >= len(self))]
        if len(wrong):
            raise UserError(
                f"image {int(wrong[0])} is asked for, but {self.data.name} has {len(self):,} test "
                "images: another data set, or another version of it"
            )
