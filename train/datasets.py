"""Data sets by name: where they come from and what they look like."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ..defective.errors import UserError, nearest
from ..defective.models import CIFAR10_STATISTICS, IMAGENET_STATISTICS, MNIST_STATISTICS
from .data import DataSet, Split, measured_statistics
from .image_folder import (
    TEST_SHARE,
    check_some,
    common_mode,
    decode_all,
    find_splits,
    has_test,
    image_format,
    visible,
)

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
    taken = None if has_test(path) else test_share
    size, _ = image_format(train[0][0])
    side = image_size or size[0]
    if side > RESIDENT_LIMIT:
        if image_size is None:
            raise UserError(
                f"{path}: images are larger than {RESIDENT_LIMIT} pixels "
                f"({train[0][0].name}: {size[0]}x{size[1]}); give --image-size, for example 224"
            )
        data = _from_files(path.resolve().name, classes, train, test, side)
        return replace(data, test_share=taken)
    transform = centre_crop(side) if image_size else None
    mode = common_mode(train)
    splits = {}
    for name, files in (("train", train), ("test", test)):
        images, labels = decode_all(files, mode, side, f"{path.name}: {name} images", transform)
        splits[name] = Split(labels, images, tuple(file for file, _ in files))
    mean, std = measured_statistics(splits["train"].images)
    return DataSet(
        path.resolve().name,
        tuple(classes),
        splits["train"],
        splits["test"],
        side,
        1 if mode == "L" else 3,
        mean,
        std,
        test_share=taken,
    )


def centre_crop(side: int) -> Callable:
    """Resize the shorter side and cut the middle."""
    from torchvision.transforms import v2 as transforms

    return transforms.Compose([transforms.Resize(side), transforms.CenterCrop(side)])


def _from_files(name, classes, train, test, side) -> DataSet:
    check_some(train)

    def split(files):
        labels = torch.tensor([label for _, label in files], dtype=torch.int64)
        return Split(labels, files=tuple(path for path, _ in files))

    return DataSet(name, tuple(classes), split(train), split(test), side, 3, *IMAGENET_STATISTICS)


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
        with alone(root / source.__name__):
            if not _is_whole(source, root):
                _fetch_for_torchvision(name, source, root)
    splits = []
    for train in (True, False):
        try:
            stored = source(root, train=train)
        except _NOT_WHOLE as error:
            raise _missing(name, root, _first_sentence(error)) from None
        images = torch.as_tensor(stored.data)
        images = images[..., None] if images.dim() == 3 else images
        splits.append(Split(torch.as_tensor(stored.targets, dtype=torch.int64), images))
    _, height, _, channels = splits[0].images.shape
    return DataSet(name, tuple(stored.classes), *splits, height, channels, *statistics)


_NOT_WHOLE = (RuntimeError, OSError, ValueError, EOFError, AssertionError)
"""What torchvision raises for data that are not there, or half unpacked by another process."""


def _is_whole(source, root: Path) -> bool:
    try:
        return all(source(root, train=train) for train in (True, False))
    except _NOT_WHOLE:
        return False


def _first_sentence(error: Exception) -> str:
    """torchvision goes on to advise an argument of its own."""
    return str(error).split(". ")[0] or "it is damaged"


def _fetch_for_torchvision(name: str, source, root: Path) -> None:
    """Put the archives where torchvision looks for them; it verifies and unpacks them, in place."""
    if hasattr(source, "tgz_md5"):
        fetch([source.url], root / source.filename, source.tgz_md5)
    else:
        for filename, md5 in source.resources:
            raw = root / source.__name__ / "raw" / filename
            fetch([mirror + filename for mirror in source.mirrors], raw, md5)
            # Half unpacked by a killed process, it would be taken for whole.
            raw.with_suffix("").unlink(missing_ok=True)
    try:
        source(root, download=True)
    except _NOT_WHOLE as error:
        raise _missing(name, root, _first_sentence(error)) from None


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
        with alone(base):
            if not base.is_dir():
                _unpack_tiny_imagenet(base)
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
    splits = []
    for files, what in ((train, "train"), (test, "val")):
        images, labels = decode_all(files, "RGB", 64, f"tiny-imagenet: {what} images")
        splits.append(Split(labels, images, tuple(file for file, _ in files)))
    return DataSet("tiny-imagenet", tuple(classes), *splits, 64, 3, *IMAGENET_STATISTICS)


def _unpack_tiny_imagenet(base: Path) -> None:
    archive = base.with_name(f"{base.name}.zip")
    fetch([TINY_URL], archive, TINY_MD5)
    unpacked = base.with_name("unpacking")
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


_CHUNK = 1 << 20
SECONDS = 30
"""After which a server that says nothing is given up."""


def fetch(urls: list[str], path: Path, md5: str, progress: bool = True) -> None:
    """Bring a file to ``path`` from the first of ``urls`` that works.

    Bytes arrive in ``path.part``, which a later call continues. The file gets its name only when
    its MD5 is right; a wrong one is removed, so that the next call starts anew. Of processes that
    want the same file one fetches it, and the others wait.

    Raises:
        UserError: no address worked, the checksum is wrong, or the folder cannot be written to.
    """
    if _has_md5(path, md5):
        return
    with alone(path):
        if not _has_md5(path, md5):
            _fetch(urls, path, md5, progress)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Alone among processes with what is made at ``path``: who comes second waits.

    The lock is the operating system's, and goes with a process that dies; the file that it is on,
    ``path.lock``, goes with whoever had it.

    Raises:
        UserError: the folder cannot be written to.
    """
    lock = path.with_name(path.name + ".lock")
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = lock.open("a")
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{path.parent}: cannot be written to ({reason})") from None
        with file:
            with suppress(OSError):  # a file system without locks: as if nobody else were there
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file.fileno(), lock):
                continue  # it was removed while we waited, and another process may hold a new one
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False


def _has_md5(path: Path, md5: str) -> bool:
    return path.is_file() and _md5(path) == md5


def _fetch(urls: list[str], path: Path, md5: str, progress: bool) -> None:
    part = path.with_name(path.name + ".part")
    failures = []
    for url in urls:
        try:
            _continue(url, part, progress)
        except (http.client.HTTPException, OSError, ValueError) as error:
            failures.append(f"{url}: {_in_words(error)}")
            continue
        found = _md5(part)
        if found == md5:
            part.replace(path)
            return
        part.unlink()
        failures.append(f"{url}: MD5 {found}, expected {md5}")
    raise UserError(
        f"could not download {path.name} ({'; '.join(failures)}); run the command again to "
        f"continue, or put the file at {path} yourself (MD5 {md5})"
    )


def _continue(url: str, part: Path, progress: bool) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=SECONDS)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # nothing beyond what is here: the file is complete
            return
        raise
    with response:
        if response.headers.get_content_type() == "text/html":  # before it replaces what is here
            raise ValueError("answered by a web page, such as a network asking for a login")
        resumed = response.status == 206
        length = response.headers.get("Content-Length")
        total = int(length) + (have if resumed else 0) if length else None
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            disable=not progress,
        )
        with bar, part.open("ab" if resumed else "wb") as file:
            task = bar.add_task(part.stem, total=total, completed=have if resumed else 0)
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.advance(task, len(chunk))
    if total is not None and part.stat().st_size < total:
        raise OSError(f"connection ended after {part.stat().st_size} of {total} bytes")


def _in_words(error: Exception) -> str:
    if isinstance(error, http.client.HTTPException) and not isinstance(error, OSError):
        return f"the connection broke off, or is no HTTP ({type(error).__name__})"
    reason = error.reason if type(error) is urllib.error.URLError else error
    return str(reason) or type(error).__name__


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
