"""Data sets, and batches of them as functions of (seed, epoch), however often resumed."""

from __future__ import annotations

import atexit
import hashlib
import multiprocessing
import re
import signal
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..defective.errors import RankError, UserError
from .config import Augmentation
from .image_folder import open_image


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

    def sample(self, count: int | None, seed: int) -> Split:
        """So many random images, in their own order; all of them for None or a larger number."""
        if count is None or count >= len(self):
            return self
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.subset(order[:count].sort().values)


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
            many = f"{len(names)} classes, number {first} of them {names[first]}"
            return many if len(names) > 12 else ", ".join(names)

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
        return replace(
            self, train=self.train.sample(train, seed), test=self.test.sample(test, seed)
        )


def _plain(name: str) -> str:
    """A class's name as it is compared: "T-shirt/top" is "t shirt top", "7 - seven" is "7"."""
    name = re.sub(r"^(\d) - [a-z]+$", r"\1", name)
    return re.sub(r"[/_\- ]+", " ", name).casefold()


Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""(mean, std) per channel of pixels in [0,1]."""


def measured_statistics(images: Tensor) -> Statistics:
    """Of uint8 images [N,H,W,C]; std is at least 1/255."""
    counts = torch.stack(
        [torch.bincount(images[..., c].flatten(), minlength=256) for c in range(images.shape[-1])]
    ).double()
    counts /= counts.sum(1, keepdim=True)
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean = counts @ levels
    std = ((levels - mean[:, None]).square() * counts).sum(1).sqrt().clamp_min(1 / 255)
    return tuple(mean.tolist()), tuple(std.tolist())


Batch = tuple[Tensor, Tensor]
"""Images [B,C,H,W], float32, pixels in [0,1], and labels int64 [B], both on the device."""


def derived_seed(*parts: object) -> int:
    """A seed in [0, 2^63) from any values; different values give independent seeds."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def steps_per_epoch(images: int, batch_size: int, world_size: int = 1) -> int:
    """Steps that see every image; a last batch of less than two images a rank is left out.

    Batch norm has no variance of a single value.
    """
    full, rest = divmod(images, batch_size)
    return full + (rest >= 2 * world_size)


def rank_share(start: int, stop: int, rank: int, world_size: int) -> slice:
    """The part of a global batch [start, stop) that a rank works on."""
    size = stop - start
    return slice(start + size * rank // world_size, start + size * (rank + 1) // world_size)


def _steps(
    count: int, batch_size: int, first_step: int, rank: int, world_size: int
) -> Iterator[slice]:
    """A rank's part of each global batch of an epoch of ``count`` images."""
    for step in range(first_step, steps_per_epoch(count, batch_size, world_size)):
        stop = min(count, (step + 1) * batch_size)
        yield rank_share(step * batch_size, stop, rank, world_size)


def _turns(count: int, batch_size: int, rank: int, world_size: int) -> Iterator[range]:
    """A rank's batches where ranks take turns."""
    for start in range(rank * batch_size, count, world_size * batch_size):
        yield range(start, min(start + batch_size, count))


class ResidentBatches:
    """A split that lives on the device as uint8 and is augmented there, a batch at a time.

    One gather does crop, flip and batching: images are stored padded, and each output pixel's
    source is computed from its image's random shift and flip. The random numbers of a whole
    epoch are drawn at once on the CPU, so the same images come out on every device.

    Args:
        split: images [N,H,W,C] and labels.
        device: where they are kept.
        augment: "none", "flip", or "crop-flip" (zero padding, random crop, flip).
        channels_last: memory format of the batches.
    """

    def __init__(
        self,
        split: Split,
        device: torch.device,
        augment: Literal["none", "flip", "crop-flip"] = "none",
        channels_last: bool = False,
    ):
        self.size = split.images.shape[1]
        # The paper pads 32 pixels by 4; larger images in proportion.
        self.padding = max(4, self.size // 8) if augment == "crop-flip" else 0
        self.flip = augment in ("flip", "crop-flip")
        self.device, self.channels_last = device, channels_last
        p = self.padding
        self.images = torch.nn.functional.pad(split.images, (0, 0, p, p, p, p)).to(device)
        self.labels = split.labels.to(device)
        self._offsets = torch.arange(self.size, device=device)

    def __len__(self) -> int:
        return len(self.labels)

    def epoch(
        self,
        seed: int,
        epoch: int,
        batch_size: int,
        first_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[Batch]:
        """The shuffled, augmented batches of an epoch, from ``first_step`` on.

        ``batch_size`` counts all ranks; each gets its share.
        """
        count = len(self)
        generator = torch.Generator().manual_seed(derived_seed(seed, "batches", epoch))
        order = torch.randperm(count, generator=generator)
        shift = torch.randint(0, 2 * self.padding + 1, (2, count), generator=generator)
        flip = torch.rand(count, generator=generator) < 0.5 if self.flip else torch.zeros(count)
        # Copied once an epoch, so that no step waits for the host.
        order, shift, flip = order.to(self.device), shift.to(self.device), flip.to(self.device)
        for share in _steps(count, batch_size, first_step, rank, world_size):
            yield self._gather(order[share], shift[0, share], shift[1, share], flip[share].bool())

    def in_order(self, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """Every image once, without augmentation; ranks take turns of ``batch_size``."""
        for turn in _turns(len(self), batch_size, rank, world_size):
            chosen = torch.arange(turn.start, turn.stop, device=self.device)
            middle = torch.full_like(chosen, self.padding)
            yield self._gather(chosen, middle, middle, torch.zeros_like(chosen, dtype=torch.bool))

    def _gather(self, chosen: Tensor, top: Tensor, left: Tensor, flip: Tensor) -> Batch:
        rows = top[:, None, None] + self._offsets[None, :, None]
        columns = torch.where(flip[:, None], self.size - 1 - self._offsets, self._offsets)
        columns = (left[:, None] + columns)[:, None, :]
        pixels = self.images[chosen[:, None, None], rows, columns]
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        pixels = pixels.permute(0, 3, 1, 2).contiguous(memory_format=layout)
        return pixels.float().div_(255), self.labels[chosen]


# Principal components of ImageNet's RGB values, in [0,1] (Krizhevsky et al., 2012, section 4.1):
# eigenvalues, and eigenvectors as columns.
_PCA_VALUES = torch.tensor([0.2175, 0.0188, 0.0045])
_PCA_VECTORS = torch.tensor(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
_PCA_SIGMA = 0.1
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
        batches = [order[s] for s in _steps(count, batch_size, first_step, rank, world_size)]
        return self._load(_Files(self.split, self.size, augment, seed, epoch), batches)

    def in_order(self, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """As :meth:`ResidentBatches.in_order`."""
        batches = [list(turn) for turn in _turns(len(self), batch_size, rank, world_size)]
        return self._load(_Files(self.split, self.size, "none", 0, 0), batches)

    def _load(self, files: _Files, batches: list[list[int]]) -> Iterator[Batch]:
        loader = DataLoader(
            files,
            batch_sampler=batches,
            num_workers=self.workers,
            collate_fn=_collate,
            generator=torch.Generator(),  # the loader would draw from the global one
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

    What ends a process group reaches workers too, in whom it stays blocked: the main process
    decides when they end. And torch would raise a worker's death in the middle of a step, after
    which there is no whole state to save; whoever waits for that worker's images notices it too.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
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
    """Those of batches that somebody still holds: what Python would end them by is blocked."""
    for worker in _workers:
        worker.kill()


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
        seed = derived_seed(self.seed, "augment", self.epoch, index)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
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
    if wrong := [item for item in items if isinstance(item, str)]:
        return wrong[0]
    return tuple(map(torch.stack, zip(*items, strict=True)))
