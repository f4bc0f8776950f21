"""Make the sample from Fashion-MNIST's original files.

    python -m scotoma.train.sample.build FOLDER

FOLDER holds the four ``*-ubyte.gz`` files of the original release (Debian's package
dataset-fashion-mnist puts them into /usr/share/datasets/fashion-mnist). Of each class the first
600 training and the first 100 test images are taken, in the order of the files.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of unsigned bytes: magic number, sizes, values."""
    data = gzip.decompress(path.read_bytes())
    dimensions = data[3]
    shape = np.frombuffer(data, ">i4", dimensions, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def first_of_each(labels: np.ndarray, count: int) -> np.ndarray:
    """Indices of the first ``count`` entries of every class, in file order."""
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c in range(10)]))


def main(folder: str) -> None:
    arrays = {}
    for split, stem, count in (("train", "train", 600), ("test", "t10k", 100)):
        images = read_idx(Path(folder) / f"{stem}-images-idx3-ubyte.gz")
        labels = read_idx(Path(folder) / f"{stem}-labels-idx1-ubyte.gz")
        chosen = first_of_each(labels, count)
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images[chosen], labels[chosen]
    np.savez_compressed(Path(__file__).parent / "fashion-mnist-7000.npz", **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
