"""Images from loader workers, as the paper's release and most training scripts have them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Dataset

from ...train.data import Batch, ResidentBatches


class Augmented(Dataset):
    """Random crop and flip of one image at a time, on the CPU.

    Args:
        images: uint8 [N,H,W,C]. labels: int64 [N].
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor):
        from torchvision.transforms import v2 as transforms

        self.images, self.labels = images.permute(0, 3, 1, 2).contiguous(), labels
        size = images.shape[1]
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(size, padding=size // 8),
                transforms.RandomHorizontalFlip(),
                transforms.ToDtype(torch.float32, scale=True),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        return self.transform(self.images[index]), self.labels[index]


def loader_batches(data: ResidentBatches, batch_size: int, device: torch.device) -> Iterator[Batch]:
    """Endless batches of the images of ``data`` in NCHW, from as many workers as there are cores,
    at most eight."""
    inner = slice(data.padding, data.padding + data.size)
    images = Augmented(data.images[:, inner, inner].cpu(), data.labels.cpu())
    loader = DataLoader(
        images,
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=min(8, len(os.sched_getaffinity(0))),
        pin_memory=device.type == "cuda",
        persistent_workers=True,
    )
    while True:
        for pixels, labels in loader:
            yield pixels.to(device, non_blocking=True), labels.to(device, non_blocking=True)
