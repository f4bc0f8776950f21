"""What a process that makes artefacts holds on to: device, data, networks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ....train.datasets import load_dataset
from ....train.robustness.images import TestImages
from ....train.robustness.models import NamedModel, load_named
from ....train.robustness.predictions import CleanPredictions
from ....train.screen import Progress
from ....train.store import Store as Cells
from .data import Data
from .store import Store

NETWORKS, IMAGES = 8, 3
"""How many are kept."""


class Context:
    """A device, and the data and networks that were used last.

    Args:
        store: of the artefacts. device: where they are made. batch_size: images at once, in attacks
            and evaluations. workers: loader processes, for large images only.
        screen: gets lines and progress for people.
    """

    def __init__(
        self,
        store: Store,
        device: torch.device,
        screen: Progress,
        batch_size: int = 250,
        workers: int = 4,
    ):
        self.store, self.device, self.screen = store, device, screen
        self.batch_size, self.workers = batch_size, workers
        self.cells = Cells(store.folder / "cells")
        self._networks: OrderedDict[Any, NamedModel] = OrderedDict()
        self._images: OrderedDict[Any, tuple[TestImages, CleanPredictions]] = OrderedDict()

    def network(self, paths: tuple[str, ...], name: str) -> NamedModel:
        """The network, or ensemble of several, in run folders; on the device."""

        def load() -> NamedModel:
            ensembles = None if len(paths) == 1 else [list(paths)]
            return load_named([] if ensembles else list(paths), ensembles, self.device)[0]

        return replace(_kept(self._networks, paths, load, NETWORKS), name=name)

    def images(self, data: Data) -> TestImages:
        """The whole test split."""
        return self._data(data)[0]

    def clean(self, data: Data) -> CleanPredictions:
        """Predictions for clean test images, each network's made once."""
        return self._data(data)[1]

    def _data(self, data: Data) -> tuple[TestImages, CleanPredictions]:
        where = data.location(self.store)

        def load() -> tuple[TestImages, CleanPredictions]:
            found = load_dataset(where, data.root, data.download, data.image_size)
            images = TestImages(found, self.device, self.workers)
            return images, CleanPredictions(images, self.batch_size)

        return _kept(self._images, (where, data.root, data.image_size), load, IMAGES)

    def progress(self, done: int, total: int, _text: str = "") -> None:
        self.screen.advance(done, total)


def _kept(cache: OrderedDict, key: Any, load: Callable[[], Any], most: int) -> Any:
    """A value from a cache of the ``most`` used last."""
    if key in cache:
        cache.move_to_end(key)
    else:
        while len(cache) >= most:  # before, since a device's memory may hold no more
            cache.popitem(last=False)
        cache[key] = load()
    return cache[key]
