"""The images of an experiment: which, where, how many of them and of what size."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...defective.errors import UserError
from ...defective.robustness.shuffle import PAPER_GRIDS
from ...train import image_folder as folder
from ...train.datasets import DATASETS, TINY_FOLDER, default_root, load_dataset
from ...train.image_folder import files_digest, files_in
from .work import Artefact, Store

if TYPE_CHECKING:
    from torch import Tensor

    from .artefacts import Context

SIDE = 32
"""Of :class:`SampleFolder`. Divided by the paper's 2, 4 and 8 patches, which 28 is not."""


@dataclass(frozen=True)
class Data:
    """A data set, by name, as an image folder, or as an artefact that is an image folder.

    Attributes:
        role: the paper's data set that it stands for: cifar10, mnist, tiny-imagenet, imagenet.
        dataset: a name or a folder's path; "" with ``made_by``. content: of a folder, as of
            :func:`folder_content`; of a name, as of :func:`named_content`.
        image_size, train_limit: as settings of training.
        root, download: where named data sets live, and whether to fetch them; decide nothing else.
        made_by: the artefact that is the image folder. lossy: whether a folder's files are JPEG,
        which is said of images that are without loss in the paper's files; decides nothing else.
        stylized: a folder of stylised test images, or "". stylized_content: a hash as ``content``.
    """

    role: str
    dataset: str
    content: str = ""
    image_size: int | None = None
    train_limit: int | None = None
    root: str | None = None
    download: bool = False
    made_by: SampleFolder | None = None
    stylized: str = ""
    stylized_content: str = ""
    lossy: bool = False

    def settings(self) -> dict[str, Any]:
        """What determines the images: a moved folder is the same."""
        named = self.dataset if self.dataset in DATASETS else ""
        found = {
            "dataset": named or self.content,
            "image_size": self.image_size,
            "train_limit": self.train_limit,
        }
        return found | ({"content": self.content} if named and self.content else {})

    def inputs(self) -> tuple[Artefact, ...]:
        return () if self.made_by is None else (self.made_by,)

    def location(self, store: Store) -> str:
        """A name, or the folder."""
        return self.dataset if self.made_by is None else str(self.made_by.path(store) / "images")

    def stylized_folder(self, store: Store) -> Path | None:
        """Stylised copies of the test images; None where there are none."""
        if self.stylized:
            return Path(self.stylized)
        return None if self.made_by is None else self.made_by.path(store) / "stylized"

    @property
    def label(self) -> str:
        """For names of files; a folder may be moved."""
        if self.made_by is not None:
            return self.made_by.label
        return self.dataset if self.dataset in DATASETS else "folder"


def folder_content(folder: Path, option: str = "--data") -> str:
    """A hash of a folder's files: their names below it, which a move leaves as they are, sizes,
    and contents where sizes tell too little (:func:`scotoma.train.image_folder.files_digest`).

    Args:
        option: that named the folder, for messages.

    Raises:
        UserError: no such folder, or an empty one.
    """
    if not folder.is_dir():
        raise UserError(
            f"{option} {folder}: no such image folder, and no data set of that name; expected "
            "<class>/<image> in it, or a name of 'scotoma train --help'"
        )
    files = files_in(folder)
    if not files:
        raise UserError(f"{option} {folder}: no files in it; expected <class>/<image> in it")
    return files_digest(files)


def named_content(dataset: str, root: str | None) -> str:
    """A hash of what lies in a named data set's folder, where nothing else vouches for it, or "".

    That is ImageNet, whatever it is; and Tiny-ImageNet if it has not the archive's number of
    images. A folder that is not there yet has none: what a download brings is verified.
    """
    folder = (Path(root) if root else default_root()) / dataset
    if dataset == "tiny-imagenet":
        folder /= TINY_FOLDER
    elif dataset != "imagenet":
        return ""
    files = files_in(folder) if folder.is_dir() else []
    images = Counter(name.partition("/")[0] for name, _ in files if name.endswith(".JPEG"))
    tiny = KNOWN["tiny-imagenet"]
    if dataset == "tiny-imagenet" and (images["train"], images["val"]) == (tiny.train, tiny.test):
        return ""
    return files_digest(files) if files else ""


# How many images, and of what size, without reading them: results are planned, and times estimated,
# before the images are there.


@dataclass(frozen=True)
class DataInfo:
    """Attributes: train, test: numbers of images. side: in pixels. channels, classes: numbers."""

    train: int
    test: int
    side: int
    channels: int
    classes: int


KNOWN = {
    "sample": DataInfo(6_000, 1_000, 28, 1, 10),
    "cifar10": DataInfo(50_000, 10_000, 32, 3, 10),
    "mnist": DataInfo(60_000, 10_000, 28, 1, 10),
    "fashion-mnist": DataInfo(60_000, 10_000, 28, 1, 10),
    "tiny-imagenet": DataInfo(100_000, 10_000, 64, 3, 200),
    "imagenet": DataInfo(1_281_167, 50_000, 224, 3, 1000),
}


def info_of(data: Data) -> DataInfo:
    """Of a data set with its limits.

    Raises:
        UserError: a folder that is no data set.
    """
    if data.made_by is not None:
        found = DataInfo(data.made_by.train, data.made_by.test, SIDE, 1, 10)
    elif data.dataset == "imagenet" and data.content:  # people use parts of it
        root = Path(data.root) if data.root else default_root()
        whole, part = KNOWN["imagenet"], _counted(root / "imagenet", data.content)
        found = replace(part, side=whole.side, channels=whole.channels)
    elif data.dataset in KNOWN:
        found = KNOWN[data.dataset]
    else:
        found = _counted(Path(data.dataset), data.content)
    train = found.train if data.train_limit is None else min(found.train, data.train_limit)
    return replace(found, train=train, side=data.image_size or found.side)


@lru_cache(maxsize=64)  # ImageNet is a million files, and hundreds of artefacts ask
def _counted(path: Path, content: str) -> DataInfo:
    """Of an image folder with a content hash; small ones are read whole later, here only names."""
    classes, train, test = folder.find_splits(path)
    if not train or not test:
        raise UserError(f"{path}: no training or no test images")
    size, mode = folder.image_format(train[0][0])
    return DataInfo(len(train), len(test), size[0], 1 if mode == "L" else 3, len(classes))


def fitting_grids(data: Data) -> tuple[int, ...]:
    """Those of the paper's 2, 4 and 8 patches a side that divide the images' side.

    Raises:
        UserError: a folder that is no data set.
    """
    return tuple(grid for grid in PAPER_GRIDS if info_of(data).side % grid == 0)


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
    share = 0.0

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
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _write(self, folder: Path) -> None:
        import torch.nn.functional as F

        data = load_dataset("sample")
        padding = (SIDE - data.image_size) // 2
        for name, split, count in (
            ("train", data.train, self.train),
            ("test", data.test, self.test),
        ):
            labels = split.labels[:count]
            images = F.pad(split.images[:count, :, :, 0], (padding,) * 4)
            _save(images, labels, data.classes, folder / "images" / name)
        _save(stylized(images, labels), labels, data.classes, folder / "stylized")


def stylized(images: Tensor, labels: Tensor) -> Tensor:
    """uint8 [N,H,W] with the smooth part of each image and the texture of another class's."""
    import torch
    import torch.nn.functional as F

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
    from PIL import Image

    for number, (image, label) in enumerate(zip(images.numpy(), labels.tolist(), strict=True)):
        place = folder / classes[label].replace("/", "-").replace(" ", "-")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number:05}.png")
