"""Which data sets are there, and how to get the others. Nothing is read or fetched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...train import datasets
from .line import ABSENT, FAILED, OK, Examination, Line
from .places import free_space

_CIFAR = "cifar-10-batches-py"
_MNIST = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")

# Patterns below a data set's folder, each of which must match a file; of a tuple one is enough.
FILES: dict[str, list[str | tuple[str, ...]]] = {
    "cifar10": [
        *(f"{_CIFAR}/{name}" for name in ("batches.meta", "test_batch")),
        *(f"{_CIFAR}/data_batch_{number}" for number in range(1, 6)),
    ],
    "mnist": [f"MNIST/raw/{name}-ubyte" for name in _MNIST],
    "fashion-mnist": [f"FashionMNIST/raw/{name}-ubyte" for name in _MNIST],
    "tiny-imagenet": [
        "tiny-imagenet-200/train/*/images/*.JPEG",
        "tiny-imagenet-200/val/images/*.JPEG",
        "tiny-imagenet-200/val/val_annotations.txt",
    ],
    "imagenet": ["train/*/*", ("val/*/*", "test/*/*")],
}


def data_sets(examination: Examination) -> Iterator[Line]:
    root = (examination.data_root or datasets.default_root()).expanduser().absolute()
    fix = "free some, or export SCOTOMA_DATA=/another/folder"
    yield free_space("data root", root, fix)
    for name in datasets.DATASETS:
        yield _sample() if name == "sample" else line(name, root)


def _sample() -> Line:
    folder = Path(datasets.__file__).parent / "sample"
    if any(folder.glob("*.npz")):
        return Line("sample", OK, "in the package", values={"folder": str(folder)})
    fix = "install scotoma again: pip install --force-reinstall --no-deps ."
    return Line("sample", FAILED, f"{folder} has no images", fix, {"folder": None})


def line(name: str, root: Path) -> Line:
    """Whether a data set's files are under the data root."""
    folder = root / name
    absent = first_missing(folder, FILES.get(name, ["*"]))
    if absent is None:
        return Line(name, OK, f"in {folder}", values={"folder": str(folder)})
    begun = folder.is_dir() and any(folder.iterdir())
    detail = f"not whole: {folder} has no {absent}" if begun else f"not in {root}"
    return Line(name, ABSENT, detail, how_to_get(name, root), {"folder": None})


def first_missing(folder: Path, patterns: list[str | tuple[str, ...]]) -> str | None:
    """The first pattern that no file matches; None if all do."""
    for pattern in patterns:
        alternatives = (pattern,) if isinstance(pattern, str) else pattern
        if not any(next(folder.glob(p), None) for p in alternatives):
            return " or ".join(alternatives)
    return None


def how_to_get(name: str, root: Path) -> str:
    if name == "imagenet":
        return (
            "get it from image-net.org (needs an account), sort it into train/<class>/ and "
            f"val/<class>/, then: ln -s /that/folder {root / name}"
        )
    elsewhere = (
        "" if root == datasets.default_root().expanduser().absolute() else f" --data-root {root}"
    )
    return f"scotoma train --dataset {name} --download{elsewhere}"
