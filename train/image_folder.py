"""Image folders: ``train/<class>/*`` and ``test/<class>/*`` (or ``val/``), or ``<class>/*``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import file_digest, sha256
from pathlib import Path, PurePath

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor

from ..defective.errors import UserError

LEFT_BY_SYSTEMS = {"@eaDir", "@Recycle", "#recycle", "__MACOSX", "$RECYCLE.BIN", "lost+found"}
LEFT_BY_SYSTEMS |= {"System Volume Information"}
"""Folders that file servers, archives and file systems make; with previews among them."""
UNCOMPRESSED = {".bmp", ".pgm", ".ppm", ".tif", ".tiff"}
"""Formats whose files may have the same size whatever is in the image."""
SMALL = 64 << 20
"""Bytes that are read in any case: who uses the images reads them more than once."""


def visible(folder: str | Path) -> Iterator[os.DirEntry]:
    """The entries of a folder, but for hidden ones and what systems leave beside people's files.

    Raises:
        UserError: a link that leads nowhere. OSError: a folder that cannot be read.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name in LEFT_BY_SYSTEMS:
                continue
            if entry.is_symlink() and not Path(entry.path).exists():
                to = Path(entry.path).readlink()
                raise UserError(
                    f"{entry.path}: a link that leads nowhere ({to}); mend or remove it"
                )
            yield entry


def files_in(folder: Path) -> list[tuple[str, str]]:
    """(name below the folder, path) of its :func:`visible` files, sorted.

    Links to folders are followed, but not into a folder that holds them.

    Raises:
        UserError: a folder that cannot be read, or a link that leads nowhere.
    """
    try:
        return sorted(_walk(str(folder), "", frozenset()))
    except OSError as error:
        raise _unreadable(error) from None


def _walk(folder: str, below: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, str]]:
    status = Path(folder).stat()
    identity = status.st_dev, status.st_ino
    if identity in above:  # a link to a folder that holds it
        return
    for entry in visible(folder):
        if entry.is_dir():
            yield from _walk(entry.path, f"{below}{entry.name}/", above | {identity})
        elif entry.is_file():
            yield below + entry.name, entry.path


def files_digest(files: Sequence[tuple[str, str | Path]], about: bytes = b"") -> str:
    """A hash of files' names and sizes, and of what is in them where sizes tell too little.

    Hardly any change of a compressed image keeps its size; in ``UNCOMPRESSED`` formats most do. So
    contents count in these formats, and of all files where they are ``SMALL`` together.

    Args:
        files: (name that counts, path), in an order that counts. about: is hashed before them.

    Raises:
        UserError: a file that cannot be read.
    """
    digest = sha256(about)
    try:
        sizes = [Path(path).stat().st_size for _, path in files]
        small = sum(sizes) <= SMALL
        for (name, path), size in zip(files, sizes, strict=True):
            digest.update(b"%b\0%d\n" % (os.fsencode(name), size))  # names need not be UTF-8
            if small or PurePath(name).suffix.lower() in UNCOMPRESSED:
                with Path(path).open("rb") as file:
                    digest.update(file_digest(file, "sha256").digest())
    except OSError as error:
        raise _unreadable(error) from None
    return digest.hexdigest()[:32]


def _unreadable(error: OSError) -> UserError:
    return UserError(f"{error.filename}: cannot be read ({error.strerror or error})")


EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
TEST_SHARE = 0.1
"""Of each class, where a folder has no test images of its own."""
_SPLIT_NAMES = {"train", "training", "test", "testing", "val", "valid", "validation"}

Files = list[tuple[Path, int]]
"""Images and their labels."""


def has_test(root: Path) -> Path | None:
    """The folder of the test images, if there is one."""
    return next((root / n for n in ("test", "val") if (root / n).is_dir()), None)


def find_splits(root: Path, share: float = TEST_SHARE) -> tuple[list[str], Files, Files]:
    """(classes, training files with labels, test files with labels), in sorted order.

    Without ``test/`` and ``val/``, the test files are ``share`` of each class. Which ones depends
    on their names alone, and those of a smaller share are among those of a larger one.

    Args:
        root: holds train/<class>/*, and test/<class>/* or val/<class>/*; or <class>/* alone.
            Files count as :func:`files_in` finds them.

    Raises:
        UserError: no such folders, fewer than two classes, a class without images in either, or
            with too few to take any off; a link that leads nowhere.
    """
    base, test_root = root / "train", has_test(root)
    if test_root is not None and not base.is_dir():
        raise UserError(f"{root}: {test_root.name}/ is there, but no train/<class>/*")
    train = _by_class(base) if base.is_dir() else {}
    if not train and test_root is None:
        base, train = root, _by_class(root)
        if splits := sorted(name for name in train if name.lower() in _SPLIT_NAMES):
            raise UserError(
                f"{root / splits[0]}: looks like a split, not like a class; expected "
                "train/<class>/* and test/<class>/* (or val/) in the folder, or <class>/* alone"
            )
    if not train:
        raise UserError(
            f"{base}: no class folders with images; expected train/<class>/* and test/<class>/* "
            f"(or val/) in {root}, or <class>/* alone"
        )
    if len(train) == 1:
        raise UserError(f"{base}: only one class, {next(iter(train))!r}; expected two or more")
    if test_root is None:
        train, test = _taken_off(base, train, share)
    else:
        test = _by_class(test_root)
    lacks = []
    for where, own, others in ((test_root, test, train), (base, train, test)):
        if missing := [repr(name) for name in sorted(others.keys() - own)]:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            lacks.append(f"{where.name}/ has no images of {', '.join(missing[:5])}{more}")
    if lacks:
        raise UserError(f"{root}: {'; '.join(lacks)}; train and test need the same classes")
    classes = sorted(train)
    return classes, *(
        [(path, label) for label, name in enumerate(classes) for path in split[name]]
        for split in (train, test)
    )


def _by_class(folder: Path) -> dict[str, list[Path]]:
    """The images of each class folder; an empty folder is no class.

    Raises:
        UserError: a folder that cannot be read, or one of other files beside class folders.
    """
    found, others = {}, []
    try:
        names = sorted(entry.name for entry in visible(folder) if entry.is_dir())
    except OSError as error:
        raise _unreadable(error) from None
    for name in names:
        files = [Path(path) for _, path in files_in(folder / name)]
        if images := sorted(path for path in files if path.suffix.lower() in EXTENSIONS):
            found[name] = images
        elif files:
            others.append(folder / name)
    if found and others:
        raise UserError(f"{others[0]}: class without images ({', '.join(sorted(EXTENSIONS))})")
    return found


def _taken_off(base: Path, files: dict[str, list[Path]], share: float):
    """(training images, test images) of each class, told by a hash of their names."""
    train, test = {}, {}
    for name, paths in files.items():
        count = max(1, round(share * len(paths)))
        if count >= len(paths):
            raise UserError(
                f"{base / name}: too few images ({len(paths)}) to take {share:.0%} off "
                "for testing; add images, a smaller --validation-fraction, or test/<class>/*"
            )
        digests = {path: sha256(os.fsencode(path.relative_to(base))).digest() for path in paths}
        chosen = set(sorted(paths, key=digests.get)[:count])
        test[name] = [path for path in paths if path in chosen]
        train[name] = [path for path in paths if path not in chosen]
    return train, test


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
    """A decoded image in mode "RGB" or "L"; 16-bit pixels keep their upper 8 bits.

    Raises:
        UserError: the file is corrupt, unreadable, of another format, or of pixels that have no
            fixed range: float, 32-bit or signed integers.
    """
    with _reading(path) as image:
        return _converted(image, path, mode)[0]


def _converted(image: Image.Image, path: Path, mode: str) -> tuple[Image.Image, bool | None]:
    """(the image in ``mode``, whether it is of 16 bits of which only 12 are used; None of 8)."""
    # Of 16-bit PNG and PGM Pillow makes "I" too, over the whole range of 16 bits.
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        kind = "float" if image.mode == "F" else "32-bit or signed integer"
        raise UserError(f"{path}: {kind} pixels have no fixed range; convert it to 8 bits")
    deep = image.mode.startswith("I") or ";16" in str(image.tile)
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64) >> 8
        image = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    image = image.convert(mode)
    return image, int(np.asarray(image).max()) < 16 if deep else None


def _warn_of_few_bits(few: list[bool | None], example: Path) -> None:
    """``few``: of each image, as of :func:`_converted`."""
    if True in few and False not in few:
        warnings.warn(
            f"{example.parent}: 16-bit images without a value over 4095, as of 12-bit cameras; "
            "their upper 8 bits are used, so that they are (almost) black: scale them to 16 bits",
            stacklevel=3,
        )


def check_some(files: Files) -> None:
    """What :func:`decode_all` would find, in a few of the files that may have many bits.

    Raises:
        UserError: as :func:`open_image`.
    """
    many = [path for path, _ in files if path.suffix.lower() in (".png", ".tif", ".tiff")]
    few = []
    for path in many[:: len(many) // 8 + 1]:
        with _reading(path) as image:
            few.append(_converted(image, path, "RGB")[1])
    if few:
        _warn_of_few_bits(few, many[0])


def image_format(path: Path) -> tuple[tuple[int, int], str]:
    """((width, height), "L" for grey or "RGB") from a file's header. Raises UserError."""
    with _reading(path) as image:
        return image.size, "L" if image.mode in _GREY else "RGB"


def common_mode(files: Files) -> str:
    """ "L" if every file is grey, else "RGB"; reads headers until the first colour image."""
    return "L" if all(image_format(path)[1] == "L" for path, _ in files) else "RGB"


def decode_all(
    files: Files,
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
        UserError: a corrupt file, images of different or oblong sizes, or in mode "L" one of
            colour; grey is three equal channels in mode "RGB".
    """
    few: list[bool | None] = []

    def decode(path: Path) -> np.ndarray:
        with _reading(path) as image:
            if mode == "L" and image.mode not in _GREY:
                raise UserError(
                    f"{path}: not a grey image ({image.mode}), but all training images are grey; "
                    "convert it, or the training images to RGB"
                )
            image, uses_few = _converted(image, path, mode)
        few.append(uses_few)
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
                square = "" if height == width else "images have to be square; "
                raise UserError(
                    f"{files[index][0]}: {width}x{height} pixels, expected {side}x{side}; {square}"
                    f"give --image-size {min(side, height, width)} to resize the shorter side of "
                    "each image and cut out the middle, or resize the files"
                )
            images[index] = array.reshape(images.shape[1:])
    _warn_of_few_bits(few, files[0][0])
    labels = torch.tensor([label for _, label in files], dtype=torch.int64)
    return torch.from_numpy(images), labels
