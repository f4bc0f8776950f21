"""Image folders: ``train/<class>/*`` and ``test/<class>/*`` or ``val/<class>/*``."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from rich.progress import track
from torch import Tensor

from ..defective.errors import UserError

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}


def find_splits(root: Path) -> tuple[list[str], list[tuple[Path, int]], list[tuple[Path, int]]]:
    """(classes, training files with labels, test files with labels), in sorted order.

    Raises:
        UserError: no train or test folder, no classes, no images, or classes that differ.
    """
    train_root = root / "train"
    test_root = next((root / n for n in ("test", "val") if (root / n).is_dir()), None)
    if not train_root.is_dir() or test_root is None:
        raise UserError(
            f"{root}: not an image folder; expected train/<class>/* and test/<class>/* (or val/)"
        )
    classes, test_classes = _classes(train_root), _classes(test_root)
    if not classes:
        raise UserError(f"{train_root}: no class folders; expected train/<class>/<image>")
    if classes != test_classes:
        differing = sorted(set(classes) ^ set(test_classes))
        raise UserError(
            f"{root}: train and {test_root.name} have different classes, first {differing[0]!r}"
        )
    return classes, _files(train_root, classes), _files(test_root, classes)


def _classes(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    found = []
    for label, name in enumerate(classes):
        of_class = sorted(
            p for p in (folder / name).rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file()
        )
        if not of_class:
            raise UserError(
                f"{folder / name}: class without images ({', '.join(sorted(EXTENSIONS))})"
            )
        found += [(path, label) for path in of_class]
    return found


def open_image(path: Path, mode: str = "RGB") -> Image.Image:
    """A decoded image. Raises UserError that names a corrupt or unreadable file."""
    try:
        with Image.open(path) as image:
            return image.convert(mode)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not a readable image ({error}); remove or replace it") from None
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: {error}") from None


def first_image_format(path: Path) -> tuple[tuple[int, int], str]:
    """((width, height), "L" for grey or "RGB") of a file."""
    try:
        with Image.open(path) as image:
            return image.size, "L" if image.mode in ("1", "L", "I", "I;16") else "RGB"
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"{path}: not a readable image ({error}); remove or replace it") from None


def decode_all(
    files: list[tuple[Path, int]],
    mode: str,
    size: int | None,
    description: str,
    transform: Callable[[Image.Image], Image.Image] | None = None,
) -> tuple[Tensor, Tensor]:
    """All images in memory.

    Args:
        files: paths and labels. mode: "RGB" or "L". size: expected side in pixels, checked after
            ``transform``; None to take the first image's.

    Returns:
        uint8 [N,H,W,C] and int64 [N].

    Raises:
        UserError: a corrupt file, or images of different or oblong sizes.
    """

    def decode(path: Path) -> np.ndarray:
        image = open_image(path, mode)
        return np.asarray(transform(image) if transform else image)

    first = decode(files[0][0])
    side = size or first.shape[0]
    images = np.empty((len(files), side, side, 1 if mode == "L" else 3), np.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        arrays = pool.map(decode, (path for path, _ in files))
        steps = track(arrays, description, total=len(files), transient=True)
        for index, array in enumerate(steps):
            if array.shape[:2] != (side, side):
                height, width = array.shape[:2]
                raise UserError(
                    f"{files[index][0]}: {width}x{height} pixels, expected {side}x{side}; give "
                    "--image-size to bring all images to one size"
                )
            images[index] = array.reshape(images.shape[1:])
    labels = torch.tensor([label for _, label in files], dtype=torch.int64)
    return torch.from_numpy(images), labels
