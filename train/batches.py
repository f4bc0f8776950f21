"""Batches as a function of (seed, epoch), for any number of ranks and however often resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from .dataset import Split

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
        for step in range(first_step, steps_per_epoch(count, batch_size, world_size)):
            stop = min(count, (step + 1) * batch_size)
            share = rank_share(step * batch_size, stop, rank, world_size)
            yield self._gather(order[share], shift[0, share], shift[1, share], flip[share].bool())

    def in_order(self, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """Every image once, without augmentation; ranks take turns of ``batch_size``."""
        for start in range(rank * batch_size, len(self), world_size * batch_size):
            chosen = torch.arange(start, min(start + batch_size, len(self)), device=self.device)
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
