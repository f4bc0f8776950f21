"""The sample as an image folder with stylised copies: a stand-in for ImageNet to try out."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ....train.datasets import load_dataset
from .artefact import Artefact
from .context import Context
from .store import Store

SIDE = 32
"""Divided by the paper's 2, 4 and 8 patches, which 28 is not."""


@dataclass(frozen=True)
class SampleFolder(Artefact):
    """``images/{train,test}/<class>/*.png`` of the sample, 32 pixels a side, and ``stylized/``.

    A stylised image keeps the outlines of a test image, the smooth part of its pixels, and has the
    texture, the rest, of an image of another class. It stands in for Stylized-ImageNet (Geirhos
    et al., 2019), which cannot be passed on, where a command is tried out; it is no measure of it.

    Attributes:
        train, test: numbers of images.
    """

    kind = "data"

    train: int
    test: int

    @property
    def label(self) -> str:
        return "sample-folder"

    def settings(self) -> dict[str, Any]:
        return {"train": self.train, "test": self.test, "side": SIDE}

    def inputs(self) -> tuple[Artefact, ...]:
        return ()

    def is_done(self, store: Store) -> bool:
        return self.path(store).is_dir()

    def make(self, context: Context) -> None:
        path = self.path(context.store)
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        try:
            self._write(work)
            work.chmod(0o755)
            work.rename(path)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise

    def _write(self, folder: Path) -> None:
        data = load_dataset("sample")
        padding = (SIDE - data.image_size) // 2
        for split, name, count in (
            (data.train, "train", self.train),
            (data.test, "test", self.test),
        ):
            labels = split.labels[:count]
            images = F.pad(split.images[:count, :, :, 0], (padding,) * 4)
            _save(images, labels, data.classes, folder / "images" / name)
            if name == "test":
                _save(stylized(images, labels), labels, data.classes, folder / "stylized")


def stylized(images: Tensor, labels: Tensor) -> Tensor:
    """uint8 [N,H,W] with the smooth part of each image and the texture of another class's."""
    pixels = images.float()
    smooth = F.avg_pool2d(pixels[:, None], 5, 1, 2, count_include_pad=False)[:, 0]
    texture = pixels - smooth
    others = torch.tensor([_another(labels, number) for number in range(len(labels))])
    return (smooth + 2 * texture[others]).round().clamp(0, 255).to(torch.uint8)


def _another(labels: Tensor, number: int) -> int:
    """The next image of another class, around the end; itself where there is none."""
    different = (labels.roll(-number - 1) != labels[number]).nonzero()
    return (number + 1 + int(different[0])) % len(labels) if len(different) else number


def _save(images: Tensor, labels: Tensor, classes: tuple[str, ...], folder: Path) -> None:
    for number, (image, label) in enumerate(zip(images.numpy(), labels.tolist(), strict=True)):
        place = folder / classes[label].replace("/", "-").replace(" ", "-")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number:05}.png")
