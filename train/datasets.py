"""Data sets by name: where they come from and what they look like."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..defective.errors import UserError, nearest
from ..defective.models import CIFAR10_STATISTICS, IMAGENET_STATISTICS, MNIST_STATISTICS
from .data import DataSet, Split, Statistics, measured_statistics
from .image_folder import (
    TEST_SHARE,
    Files,
    check_some,
    common_mode,
    decode_all,
    find_splits,
    has_test,
    image_format,
    visible,
)
from .runfolder import alone_in

RESIDENT_LIMIT = 64
"""Images up to this side are decoded once and kept on the training device."""


def default_root() -> Path:
    """$SCOTOMA_DATA, or ~/.cache/scotoma/data."""
    return Path(os.environ.get("SCOTOMA_DATA") or Path.home() / ".cache/scotoma/data")


def load_dataset(
    name: str,
    root: str | Path | None = None,
    download: bool = False,
    image_size: int | None = None,
    test_share: float = TEST_SHARE,
) -> DataSet:
    """A data set by name, or the image folder at a path.

    Args:
        name: a key of ``DATASETS`` or the path of an image folder.
        root: folder in which named data sets live; None for :func:`default_root`.
        download: fetch what is missing; otherwise nothing touches the network.
        image_size: side to bring the images to, in pixels; None keeps theirs.
        test_share: of each class, to test on, where a folder has no test images of its own.

    Raises:
        UserError: unknown name, data not there (with the command to get it), damaged data.
    """
    root = Path(root) if root else default_root()
    if name in DATASETS:
        data = DATASETS[name](root / name, download, image_size)
    elif name and Path(name).is_dir():  # an empty name is the current folder's too
        data = load_folder(Path(name), image_size, test_share)
    else:
        raise UserError(
            f"dataset {name!r} is unknown and no folder of that path exists; expected one of "
            f"{', '.join(DATASETS)}, or an image folder.{nearest(name, DATASETS)}"
        )
    if image_size and data.image_size != image_size:
        data = _resized(data, image_size)
    return data


def load_folder(
    path: Path, image_size: int | None = None, test_share: float = TEST_SHARE
) -> DataSet:
    """An image folder. Small images are held in memory, larger ones read as they are needed.

    Of an image that is not square the middle is taken, if an ``image_size`` is given; it is refused
    otherwise.

    Statistics for normalisation are those of the training images where they are in memory, and
    ImageNet's otherwise.
    """
    classes, train, test = find_splits(path, test_share)
    name = path.resolve().name
    size, _ = image_format(train[0][0])
    side = image_size or size[0]
    if side > RESIDENT_LIMIT and image_size is None:
        raise UserError(
            f"{path}: images are larger than {RESIDENT_LIMIT} pixels "
            f"({train[0][0].name}: {size[0]}x{size[1]}); give --image-size, for example 224"
        )
    if side > RESIDENT_LIMIT:
        data = _from_files(name, classes, train, test, side)
    else:
        transform = centre_crop(side) if image_size else None
        data = _decoded(name, classes, train, test, side, common_mode(train), transform)
    return data if has_test(path) else replace(data, test_share=test_share)


def centre_crop(side: int) -> Callable:
    """Resize the shorter side and cut the middle."""
    from torchvision.transforms import v2 as transforms

    return transforms.Compose([transforms.Resize(side), transforms.CenterCrop(side)])


def _from_files(name: str, classes: list[str], train: Files, test: Files, side: int) -> DataSet:
    check_some(train)
    splits = [
        Split(torch.tensor([label for _, label in files]), files=tuple(path for path, _ in files))
        for files in (train, test)
    ]
    return DataSet(name, tuple(classes), *splits, side, 3, *IMAGENET_STATISTICS)


def _decoded(
    name: str,
    classes: list[str],
    train: Files,
    test: Files,
    side: int,
    mode: str,
    transform: Callable | None = None,
    statistics: Statistics | None = None,
) -> DataSet:
    """All images in memory. ``statistics``: for normalisation; None for those of the training."""
    splits = []
    for what, files in (("train", train), ("test", test)):
        images, labels = decode_all(files, mode, side, f"{name}: {what} images", transform)
        splits.append(Split(labels, images, tuple(file for file, _ in files)))
    statistics = statistics or measured_statistics(splits[0].images)
    return DataSet(name, tuple(classes), *splits, side, 1 if mode == "L" else 3, *statistics)


def _resized(data: DataSet, side: int) -> DataSet:
    from torchvision.transforms import v2 as transforms

    if side > RESIDENT_LIMIT:
        raise UserError(
            f"--image-size is {side}; {data.name} is kept in memory, where {RESIDENT_LIMIT} is the "
            "limit: use a data set of larger images"
        )

    def resize(split: Split) -> Split:
        images = split.images.permute(0, 3, 1, 2)
        chunks = [
            transforms.functional.resize(chunk, [side, side], antialias=True)
            for chunk in images.split(1024)
        ]
        return replace(split, images=torch.cat(chunks).permute(0, 2, 3, 1).contiguous())

    return replace(data, train=resize(data.train), test=resize(data.test), image_size=side)


def _sample(_root: Path, _download: bool, _size) -> DataSet:
    path = Path(__file__).parent / "sample" / "fashion-mnist-7000.npz"
    with np.load(path, allow_pickle=False) as arrays:
        train, test = (
            Split(
                torch.from_numpy(arrays[f"{name}_labels"].astype(np.int64)),
                torch.from_numpy(arrays[f"{name}_images"])[..., None],
            )
            for name in ("train", "test")
        )
    return DataSet("sample", FASHION_CLASSES, train, test, 28, 1, *FASHION_STATISTICS)


FASHION_STATISTICS = ((0.2860,), (0.3530,))
FASHION_CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat")
FASHION_CLASSES += ("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def _from_torchvision(name: str, root: Path, download: bool, _size) -> DataSet:
    import torchvision

    source, statistics = _TORCHVISION[name]
    source = getattr(torchvision.datasets, source)
    if download and not _is_whole(source, root):
        with _fetching(name, root):
            if not _is_whole(source, root):
                for file, _ in getattr(source, "resources", ()):
                    # Half unpacked by a killed process, it would be taken for whole.
                    (root / source.__name__ / "raw" / file).with_suffix("").unlink(missing_ok=True)
                source(root, download=True)
    splits = []
    for train in (True, False):
        try:
            stored = source(root, train=train)
        except _NOT_WHOLE as error:
            # torchvision goes on to advise an argument of its own.
            raise _missing(name, root, str(error).split(". ")[0] or "it is damaged") from None
        images = torch.as_tensor(stored.data)
        images = images[..., None] if images.dim() == 3 else images
        splits.append(Split(torch.as_tensor(stored.targets, dtype=torch.int64), images))
    _, height, _, channels = splits[0].images.shape
    return DataSet(name, tuple(stored.classes), *splits, height, channels, *statistics)


SECONDS = 30
"""After which a server that says nothing is given up."""
_NOT_WHOLE = (RuntimeError, OSError, ValueError, EOFError, AssertionError)
"""What torchvision raises for data that are not there, or half unpacked by another process."""


def _is_whole(source, root: Path) -> bool:
    try:
        return all(source(root, train=train) for train in (True, False))
    except _NOT_WHOLE:
        return False


@contextmanager
def _fetching(name: str, root: Path) -> Iterator[None]:
    """Alone among processes that fetch a data set: who comes second waits, and finds it.

    Raises:
        UserError: whatever went wrong, and what to do; or the folder cannot be written to.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with alone_in(root, "a download", wait=True):
            before = socket.getdefaulttimeout()
            socket.setdefaulttimeout(SECONDS)
            try:
                yield
            finally:
                socket.setdefaulttimeout(before)
    except UserError:
        raise
    except (*_NOT_WHOLE, http.client.HTTPException, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(
            f"dataset {name!r} could not be fetched into {root}: {reason}. Run the command again, "
            "or put the files there yourself"
        ) from None


_TORCHVISION = {
    "cifar10": ("CIFAR10", CIFAR10_STATISTICS),
    "mnist": ("MNIST", MNIST_STATISTICS),
    "fashion-mnist": ("FashionMNIST", FASHION_STATISTICS),
}

TINY_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
TINY_FOLDER = "tiny-imagenet-200"


def _tiny_imagenet(root: Path, download: bool, image_size: int | None) -> DataSet:
    """200 classes of 64x64; the labelled validation images serve as the test set."""
    base = root / TINY_FOLDER
    if not base.is_dir():
        if not download:
            raise _missing("tiny-imagenet", root, f"{base} is not there")
        with _fetching("tiny-imagenet", root):
            if not base.is_dir():
                _fetch_tiny_imagenet(base)
    annotations = base / "val" / "val_annotations.txt"
    if not annotations.is_file():
        raise _missing("tiny-imagenet", root, f"{annotations} is not there")
    classes = sorted(entry.name for entry in visible(base / "train") if entry.is_dir())
    number = {name: index for index, name in enumerate(classes)}
    train = [
        (path, number[name])
        for name in classes
        for path in sorted((base / "train" / name / "images").glob("[!.]*.JPEG"))
    ]
    test = []
    for line in annotations.read_text().splitlines():
        image, name, *_ = [*line.split("\t"), "", ""]
        if name not in number:
            raise _missing("tiny-imagenet", root, f"{annotations} has a line {line[:40]!r}")
        test.append((base / "val" / "images" / image, number[name]))
    side = image_size or 64
    if side > RESIDENT_LIMIT:
        return _from_files("tiny-imagenet", classes, train, test, side)
    return _decoded("tiny-imagenet", classes, train, test, 64, "RGB", None, IMAGENET_STATISTICS)


def _fetch_tiny_imagenet(base: Path) -> None:
    from torchvision.datasets.utils import download_url

    archive, unpacked = base.with_name(f"{base.name}.zip"), base.with_name("unpacking")
    download_url(TINY_URL, archive.parent, archive.name, TINY_MD5)
    shutil.rmtree(unpacked, ignore_errors=True)
    with zipfile.ZipFile(archive) as file:  # the checksum vouches for its content
        file.extractall(unpacked)
    (unpacked / base.name).rename(base)
    unpacked.rmdir()


def _imagenet(root: Path, _download: bool, image_size: int | None) -> DataSet:
    if not (root / "train").is_dir() or has_test(root) is None:
        raise UserError(
            f"dataset 'imagenet': {root} holds no train/<class>/* and val/<class>/*; ImageNet "
            "cannot be downloaded without an account: get it from image-net.org, sort it into "
            "class folders, and put it (or a link) there, or give --data-root"
        )
    classes, train, test = find_splits(root)
    return _from_files("imagenet", classes, train, test, image_size or 224)


def _missing(name: str, root: Path, reason: str) -> UserError:
    reason = " ".join(reason.split()).rstrip(".")
    return UserError(
        f"dataset {name!r} is not (whole) in {root}: {reason}. Add --download to fetch it "
        "there, or give --data-root"
    )


DATASETS: dict[str, Callable[[Path, bool, int | None], DataSet]] = {
    "sample": _sample,
    **{name: partial(_from_torchvision, name) for name in _TORCHVISION},
    "tiny-imagenet": _tiny_imagenet,
    "imagenet": _imagenet,
}
