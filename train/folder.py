"""Image folders: ``train/<class>/*`` and ``test/<class>/*`` or ``val/<class>/*``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
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


# Formats that Pillow decodes by itself: an EPS file in disguise would start Ghostscript.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF")
_GREY = ("1", "L", "I", "I;16", "I;16B", "I;16L")

# Threads read images, and catching a warning is not safe in threads: _reading looks by itself.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


@contextmanager
def _reading(path: Path):
    """An opened image; whatever is wrong with it becomes a UserError that names the file."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise ValueError(f"{image.width}x{image.height} is over {limit} pixels")
            yield image
    except UserError:
        raise
    except Exception as error:  # Pillow raises many types for damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: not a readable image ({reason}); remove or replace it") from None


def open_image(path: Path, mode: str = "RGB") -> Image.Image:
    """A decoded image in mode "RGB" or "L"; 16-bit grey keeps its upper 8 bits.

    Raises:
        UserError: the file is corrupt, unreadable, of another format, or of float pixels.
    """
    with _reading(path) as image:
        if image.mode == "F":
            raise UserError(f"{path}: float pixels have no fixed range; convert it to 8 bits")
        if image.mode.startswith("I"):
            levels = np.asarray(image).astype(np.int64) >> 8
            return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert(mode)
        return image.convert(mode)


def image_format(path: Path) -> tuple[tuple[int, int], str]:
    """((width, height), "L" for grey or "RGB") from a file's header. Raises UserError."""
    with _reading(path) as image:
        return image.size, "L" if image.mode in _GREY else "RGB"


def common_mode(files: list[tuple[Path, int]]) -> str:
    """ "L" if every file is grey, else "RGB"; reads headers until the first colour image."""
    return "L" if all(image_format(path)[1] == "L" for path, _ in files) else "RGB"


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
