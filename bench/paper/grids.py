"""Into how many patches a data set's images can be cut."""

from __future__ import annotations

from pathlib import Path

from ...defective.robustness.shuffle import PAPER_GRIDS
from ...train import folder
from .graph.data import Data
from .graph.sample_folder import SIDE

_SIDES = {
    "sample": 28,
    "mnist": 28,
    "fashion-mnist": 28,
    "cifar10": 32,
    "tiny-imagenet": 64,
    "imagenet": 224,
}


def fitting_grids(data: Data) -> tuple[int, ...]:
    """Those of the paper's 2, 4 and 8 patches a side that divide the images' side.

    Known before the images are there, since results are planned then.

    Raises:
        UserError: a folder that is none of images.
    """
    side = _side_of(data)
    return tuple(grid for grid in PAPER_GRIDS if side % grid == 0)


def _side_of(data: Data) -> int:
    """Pixels."""
    if data.image_size is not None:
        return data.image_size
    if data.made_by is not None:
        return SIDE
    if data.dataset in _SIDES:
        return _SIDES[data.dataset]
    _, train, _ = folder.find_splits(Path(data.dataset))
    size, _ = folder.image_format(train[0][0])
    return size[0]
