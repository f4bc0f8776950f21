"""Which stylised image belongs to which test image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ....defective.errors import UserError
from ...data import DataSet
from ...image_folder import EXTENSIONS, files_in, image_format


@dataclass(frozen=True)
class StylizedFiles:
    """Stylised images and their originals.

    Attributes:
        root: the folder of the class folders. files: N paths.
        originals: int64 [N], numbers in the test split.
        without_original: how many more images belong to no test image.
    """

    root: Path
    files: tuple[Path, ...]
    originals: Tensor
    without_original: int

    def digest(self, done: Callable[[int], None]) -> str:
        """A hash of the files' names and contents.

        Raises:
            UserError: a file that is no image, found before anything is evaluated.
        """
        digest = hashlib.sha256()
        for number, file in enumerate(self.files, 1):
            image_format(file)
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{file.relative_to(self.root).as_posix()}\n{content}\n".encode())
            if number % 500 == 0 or number == len(self.files):
                done(number)
        return digest.hexdigest()[:32]


def find_stylized(folder: Path, data: DataSet) -> StylizedFiles:
    """Match the images in class folders with test images by class and file name.

    Raises:
        UserError: no such folder, test images without or with ambiguous names, or no match.
    """
    if data.test.files is None:
        raise UserError(
            f"{data.name} has no file names, by which stylised images find their originals; use a "
            "data set of image files, such as imagenet"
        )
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected <class>/<name>.png in it")
    root = next((folder / n for n in ("val", "test") if _is_split(folder / n, data)), folder)
    numbers = _numbers(data)
    files, originals, without = [], [], 0
    for path in sorted(Path(path) for name, path in files_in(root) if "/" in name):
        if path.suffix.lower() not in EXTENSIONS:
            continue
        number = numbers.get((path.relative_to(root).parts[0], path.stem))
        if number is None:
            without += 1
            continue
        files.append(path)
        originals.append(number)
    if not files:
        name, stem = next(iter(numbers))
        there = f"; {without:,} images of other names are there" if without else ""
        raise UserError(
            f"{root}: no stylised version of a test image of {data.name}; looked for "
            f"{name}/{stem}.png (or another extension) and so on{there}"
        )
    return StylizedFiles(root, tuple(files), torch.tensor(originals), without)


def _is_split(folder: Path, data: DataSet) -> bool:
    return folder.is_dir() and folder.name not in data.classes


def _numbers(data: DataSet) -> dict[tuple[str, str], int]:
    """{(class, file name without extension): number of the test image}."""
    found: dict[tuple[str, str], int] = {}
    pairs = zip(data.test.files, data.test.labels.tolist(), strict=True)
    for number, (file, label) in enumerate(pairs):
        first = found.setdefault((data.classes[label], file.stem), number)
        if first != number:
            raise UserError(
                f"{data.test.files[first]} and {file} differ only in folder or extension, so that "
                "a stylised image could belong to either; rename one"
            )
    return found
