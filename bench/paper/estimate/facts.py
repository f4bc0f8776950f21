"""How many images a data set has, and of what size, without reading it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from ....defective.errors import UserError
from ....train import folder
from ....train.datasets import default_root
from ..graph.data import Data
from ..graph.sample_folder import SIDE, SampleFolder
from ..graph.store import Store


@dataclass(frozen=True)
class Facts:
    """Attributes: train, test: numbers of images. side: in pixels. channels, classes: numbers."""

    train: int
    test: int
    side: int
    channels: int
    classes: int


KNOWN = {
    "sample": Facts(6_000, 1_000, 28, 1, 10),
    "cifar10": Facts(50_000, 10_000, 32, 3, 10),
    "mnist": Facts(60_000, 10_000, 28, 1, 10),
    "fashion-mnist": Facts(60_000, 10_000, 28, 1, 10),
    "tiny-imagenet": Facts(100_000, 10_000, 64, 3, 200),
    "imagenet": Facts(1_281_167, 50_000, 224, 3, 1000),
}


def facts_of(data: Data, store: Store) -> Facts:
    """Of a data set with its limits.

    Raises:
        UserError: a folder that is no data set.
    """
    if isinstance(data.made_by, SampleFolder):
        found = Facts(data.made_by.train, data.made_by.test, SIDE, 1, 10)
    elif data.dataset == "imagenet" and data.content:  # people use parts of it
        root = Path(data.root) if data.root else default_root()
        whole = KNOWN["imagenet"]
        found = replace(
            _counted(root / "imagenet", data.content), side=whole.side, channels=whole.channels
        )
    elif data.dataset in KNOWN:
        found = KNOWN[data.dataset]
    else:
        found = _counted(Path(data.location(store)), data.content)
    train = found.train if data.train_limit is None else min(found.train, data.train_limit)
    side = data.image_size or found.side
    return Facts(train, found.test, side, found.channels, found.classes)


@lru_cache(maxsize=64)  # ImageNet is a million files, and hundreds of artefacts ask
def _counted(path: Path, content: str) -> Facts:
    """Of an image folder with a content hash; small ones are read whole later, here only names."""
    classes, train, test = folder.find_splits(path)
    if not train or not test:
        raise UserError(f"{path}: no training or no test images")
    size, mode = folder.image_format(train[0][0])
    return Facts(len(train), len(test), size[0], 1 if mode == "L" else 3, len(classes))
