"""Batches of images that are too large to keep: read and augmented by loader workers."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..defective.errors import RankError, UserError
from .batches import Batch, derived_seed, rank_share, steps_per_epoch
from .config import Augmentation
from .dataset import Split
from .folder import open_image

# Principal components of ImageNet's RGB values, in [0,1] (Krizhevsky et al., 2012, section 4.1):
# eigenvalues, and eigenvectors as columns.
_PCA_VALUES = torch.tensor([0.2175, 0.0188, 0.0045])
_PCA_VECTORS = torch.tensor(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
_PCA_SIGMA = 0.1
_STOPS = (signal.SIGINT, signal.SIGTERM)
_workers = weakref.WeakSet()
PLAIN_EPOCHS = 5
"""The release's ImageNet runs end with so many epochs of plain centre crops."""


class StreamedBatches:
    """Batches of a split of files, with the interface of ``ResidentBatches``.

    An image's augmentation depends on (seed, epoch, index) alone, not on the number of workers.

    Args:
        split: files and labels.
        device: where batches go.
        size: side of the images, in pixels.
        augment: "imagenet" is random resized crop, flip and PCA colour jitter, and in the last
            five of ``epochs`` a centre crop instead of the random one; the others as resident.
        epochs: length of the run. workers: loader processes. channels_last: memory format.
    """

    def __init__(
        self,
        split: Split,
        device: torch.device,
        size: int,
        augment: Augmentation = "none",
        epochs: int = 0,
        workers: int = 0,
        channels_last: bool = False,
    ):
        self.split, self.device, self.size = split, device, size
        self.augment, self.epochs, self.workers = augment, epochs, workers
        self.channels_last = channels_last

    def __len__(self) -> int:
        return len(self.split)

    def epoch(
        self,
        seed: int,
        epoch: int,
        batch_size: int,
        first_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[Batch]:
        """As :meth:`ResidentBatches.epoch`."""
        count = len(self)
        generator = torch.Generator().manual_seed(derived_seed(seed, "batches", epoch))
        order = torch.randperm(count, generator=generator).tolist()
        augment = self.augment
        if augment == "imagenet" and epoch >= self.epochs - PLAIN_EPOCHS:
            augment = "imagenet-plain"
        batches = []
        for step in range(first_step, steps_per_epoch(count, batch_size, world_size)):
            stop = min(count, (step + 1) * batch_size)
            batches.append(order[rank_share(step * batch_size, stop, rank, world_size)])
        return self._load(_Files(self.split, self.size, augment, seed, epoch), batches)

    def in_order(self, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """As :meth:`ResidentBatches.in_order`."""
        indices = range(len(self))
        batches = [
            list(indices[start : start + batch_size])
            for start in range(rank * batch_size, len(self), world_size * batch_size)
        ]
        return self._load(_Files(self.split, self.size, "none", 0, 0), batches)

    def _load(self, files: _Files, batches: list[list[int]]) -> Iterator[Batch]:
        loader = DataLoader(
            files,
            batch_sampler=batches,
            num_workers=self.workers,
            collate_fn=_collate,
            generator=torch.Generator(),  # the loader would draw from the global one
            worker_init_fn=_ignore_stops,
            pin_memory=self.device.type == "cuda",
        )
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        with _starting_workers() as workers:
            arriving = iter(loader)
        while True:
            try:
                loaded = next(arriving, None)
            except (RuntimeError, OSError, EOFError):
                # torch says it, or a read of the worker's socket, a moment before the process ends.
                if not wait([worker.sentinel for worker in workers], timeout=1):
                    raise
                raise RankError(
                    "a loader worker was killed, most likely because memory (or /dev/shm) ran "
                    f"out; try less than {self.workers} --workers, or a smaller --batch-size"
                ) from None
            if loaded is None:
                return
            if isinstance(loaded, str):
                raise RankError(loaded)
            images, labels, tints = (t.to(self.device, non_blocking=True) for t in loaded)
            pixels = images.permute(0, 3, 1, 2).contiguous(memory_format=layout).float().div_(255)
            if self.augment == "imagenet":
                pixels = pixels.add_(tints[:, :, None, None]).clamp_(0, 1)
            yield pixels, labels


@contextmanager
def _starting_workers() -> Iterator[list[multiprocessing.Process]]:
    """What workers inherit, and what torch sets up for their sake. They are listed at its end.

    They begin with blocked signals, so that none meets a worker that does not ignore it yet. And
    torch would raise a worker's death in the middle of a step, after which there is no whole state
    to save; it is also noticed by whoever waits for that worker's images.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    died = signal.getsignal(signal.SIGCHLD)
    others = set(multiprocessing.active_children())
    started = []
    try:
        yield started
    finally:
        started += set(multiprocessing.active_children()) - others
        _workers.update(started)
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            signal.signal(signal.SIGCHLD, died or signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@atexit.register
def _kill_workers() -> None:
    """Those of batches that somebody still holds: they ignore what Python would end them by."""
    for worker in _workers:
        worker.kill()


def _ignore_stops(_worker: int) -> None:
    """What ends a process group reaches workers too; the main process decides when they end."""
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)


class _Files(Dataset):
    def __init__(self, split: Split, size: int, augment: str, seed: int, epoch: int):
        self.files, self.labels = split.files, split.labels
        self.seed, self.epoch = seed, epoch
        self.tint = augment.startswith("imagenet")
        self.transform = _transform(augment, size)

    def __getitem__(self, index: int):
        try:
            image = open_image(Path(self.files[index]))
        except UserError as error:
            return str(error)  # raised in the main process, without a worker's traceback
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(
                derived_seed(self.seed, "augment", self.epoch, index)
            )
            pixels = self.transform(image)
            tint = torch.zeros(3)
            if self.tint:
                tint = _PCA_VECTORS @ (_PCA_VALUES * torch.randn(3) * _PCA_SIGMA)
        return pixels.permute(1, 2, 0), self.labels[index], tint


def _transform(augment: str, size: int):
    from torchvision.transforms import v2 as transforms

    middle = [transforms.Resize(round(size * 256 / 224)), transforms.CenterCrop(size)]
    flip = transforms.RandomHorizontalFlip()
    steps = {
        "none": middle,
        "flip": [*middle, flip],
        "crop-flip": [*middle, transforms.RandomCrop(size, padding=size // 8), flip],
        "imagenet": [transforms.RandomResizedCrop(size), flip],
        "imagenet-plain": [*middle, flip],
    }[augment]
    return transforms.Compose([*steps, transforms.PILToTensor()])


def _collate(items: list[tuple[Tensor, Tensor, Tensor] | str]):
    for item in items:
        if isinstance(item, str):
            return item
    images, labels, tints = zip(*items, strict=True)
    return torch.stack(images), torch.stack(labels), torch.stack(tints)
