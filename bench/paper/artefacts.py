"""What a reproduction is made of: trained networks, choices of images, adversarial sets, and the
evaluations that tables take their numbers from."""

from __future__ import annotations

import json
import shutil
import signal
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ...defective.attacks import parse_attack
from ...defective.errors import Terminated, UserError
from ...defective.models import ARCHITECTURES
from ...defective.robustness import load_set
from ...defective.robustness.rates import check_results
from ...defective.serialization import atomic_path, read_details
from ...train.config import FREE, TrainConfig
from ...train.datasets import load_dataset
from ...train.loop import StopRequest
from ...train.robustness.boundary import evaluate_boundary
from ...train.robustness.images import TestImages, choose_images, sample_of_all
from ...train.robustness.models import NamedModel, load_named
from ...train.robustness.protocols import (
    CleanPredictions,
    evaluate_clean,
    evaluate_noise,
    evaluate_shuffle,
    evaluate_white_box,
)
from ...train.robustness.sets import Source, make_set, told_settings
from ...train.robustness.stylized import evaluate_stylized
from ...train.robustness.transfer import evaluate_transfer
from ...train.run import run_training
from ...train.runfolder import CONFIG, STATE, SUMMARY, WEIGHTS
from ...train.screen import Progress
from ...train.store import Store as Cells
from ...train.store import read_record, write_record
from .data import Data
from .work import Artefact, Store

NETWORKS, IMAGES = 8, 3
"""How many a process keeps."""
_PLACES = (*FREE, "recipe", "dataset", "image_size", "train_limit")
"""Settings of training that decide no weights, or are the data's."""
PIXELS = "uint8"
"""Of adversarial images: rounded as an image file would, which is how the release evaluated."""
_MOST = 1 << 31
"""More than any number of test images; larger ones would be no int64."""


class Context:
    """What a process that makes artefacts holds on to: a device, and the data and networks that
    were used last.

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
        self._networks: OrderedDict[Any, NamedModel] = OrderedDict()
        self._images: OrderedDict[Any, tuple[TestImages, CleanPredictions]] = OrderedDict()

    def network(self, paths: tuple[str, ...], name: str) -> NamedModel:
        """The network, or ensemble of several, in run folders; on the device."""

        def load() -> NamedModel:
            several = [list(paths)] if len(paths) > 1 else []
            return load_named([] if several else list(paths), several, self.device)[0]

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


@dataclass(frozen=True)
class Training(Artefact):
    """One run of training: a run folder.

    Attributes:
        config: the settings; those of data and places are filled in from ``data`` and the store.
    """

    kind = "train"

    config: TrainConfig
    data: Data

    @property
    def label(self) -> str:
        config = self.config
        extra = [config.defects.replace(",", "+")]
        if config.regularizer != "none":
            extra.append(config.regularizer)
        if config.label_smoothing:
            extra.append("label-smoothing")
        if config.adversarial_eps:
            extra.append("logit-pairing" if config.logit_pairing else "adversarial")
        if config.thermometer:
            extra.append(f"thermometer{config.thermometer}")
        return "-".join([self.data.label, config.arch, *extra, f"s{config.seed}"])

    def settings(self) -> dict[str, Any]:
        # Only what differs from the defaults: a setting that is new next year changes no key.
        usual = asdict(TrainConfig())
        chosen = {
            name: value
            for name, value in asdict(self.config).items()
            if name not in _PLACES and value != usual[name]
        }
        return {"config": chosen, "data": self.data.settings()}

    def inputs(self) -> tuple[Artefact, ...]:
        return self.data.inputs()

    @property
    def share(self) -> float:
        """All of a GPU at the paper's width and above: that fills its arithmetic and memory."""
        width = self.config.width
        usual = ARCHITECTURES[self.config.arch].default_width
        return 1.0 if width is None or width >= usual else 0.25

    def is_done(self, store: Store) -> bool:
        # The summary is written last, but weights are large, and are what people leave behind.
        return all((self.path(store) / name).is_file() for name in (SUMMARY, WEIGHTS))

    def epochs_left(self, store: Store) -> int:
        """Of a training that was stopped, those that are not in the state that it goes on from."""
        folder = self.path(store)
        if not all((folder / name).is_file() for name in (CONFIG, STATE)):
            return self.config.epochs
        try:
            _, details = read_details(folder / WEIGHTS)  # written with the state
            return max(self.config.epochs - int(details["epoch"]), 0)
        except (UserError, LookupError, TypeError, ValueError):
            return self.config.epochs  # stopped in the first one

    def make(self, context: Context) -> None:
        folder = self.path(context.store)
        resume = folder if (folder / CONFIG).is_file() else None
        config = self.whole_config(context.store, str(context.device), context.workers)
        stop = StopRequest()  # here, since a training that fails reports no signal
        try:
            with context.screen.paused():
                outcome, _ = run_training(config, resume, whole=True, stop=stop)
            told = outcome.stopped_by
        except UserError as error:
            if stop.signal is None:
                raise
            context.screen.line(f"  failed: {error}")
            told = stop.signal
        if told is not None:
            # Finished or with a saved state: whoever asked for it stops as at any other moment.
            raise Terminated if told == signal.SIGTERM else KeyboardInterrupt

    def whole_config(
        self, store: Store, device: str, workers: int = TrainConfig.workers
    ) -> TrainConfig:
        """The settings with data and places."""
        folder, data = self.path(store), self.data
        return replace(
            self.config,
            dataset=data.location(store),
            data_root=data.root,
            download=data.download,
            image_size=data.image_size,
            train_limit=data.train_limit,
            out=str(folder.parent),
            name=folder.name,
            device=device,
            workers=workers,
        )


@dataclass(frozen=True)
class Model:
    """A network or an ensemble of networks, as a row or a column of a table.

    Attributes:
        name: for people. members: the trainings; several are an ensemble (the mean of logits).
    """

    name: str
    members: tuple[Training, ...]

    @property
    def data(self) -> Data:
        return self.members[0].data

    @property
    def label(self) -> str:
        """Of the first member, for names of files: display names differ between tables."""
        number = f"{len(self.members)}x-" if len(self.members) > 1 else ""
        return f"{number}{self.members[0].label}"

    @property
    def key(self) -> str:
        return "+".join(member.key for member in self.members)

    @property
    def share(self) -> float:
        """Of a GPU, where it is attacked."""
        return max(member.share for member in self.members)

    def load(self, context: Context) -> NamedModel:
        """On the context's device."""
        paths = tuple(str(member.path(context.store)) for member in self.members)
        return context.network(paths, self.name)


@dataclass(frozen=True)
class Sample(Artefact):
    """Which test images: the first of a seeded shuffle that all ``models`` classify right.

    Without models, the first of the shuffle. docs/paper.md says why images are common to all
    sources.
    """

    kind = "sample"
    suffix = ".json"

    data: Data
    models: tuple[Model, ...]
    count: int
    seed: int = 0

    @property
    def label(self) -> str:
        names = f"-right-for-{len(self.models)}" if self.models else ""
        return f"{self.data.label}-{self.count}{names}-s{self.seed}"

    def settings(self) -> dict[str, Any]:
        return {"count": self.count, "seed": self.seed, "data": self.data.settings()} | (
            {"ensembles": [len(m.members) for m in self.models]}
        )

    def inputs(self) -> tuple[Artefact, ...]:
        return (*self.data.inputs(), *(m for model in self.models for m in model.members))

    def make(self, context: Context) -> None:
        images = context.images(self.data)
        if self.models:
            models = [model.load(context) for model in self.models]
            found = choose_images(
                models, images, self.count, self.seed, context.batch_size, context.progress
            )
            indices, details = found.indices, found.describe()
        else:
            indices = sample_of_all(images, self.count, self.seed)
            details = {"asked": self.count, "found": len(indices), "seed": self.seed}
        path = self.path(context.store)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            content = {"indices": indices.tolist(), "details": details}
            temporary.write_text(json.dumps(content) + "\n")

    def read(self, store: Store) -> tuple[Tensor, dict[str, Any]]:
        """(int64 [N], how they were chosen). Raises UserError if the file is damaged."""
        path = self.path(store)
        try:
            content = json.loads(path.read_text())
            indices, details = content["indices"], content["details"]
            if type(indices) is not list or not all(
                type(i) is int and 0 <= i < _MOST for i in indices
            ):
                raise ValueError("indices are no numbers of images")
            details = dict(details)
            if type(details.get("found", 0)) is not int:
                raise ValueError("how many were found is no number")
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(f"{path}: no choice of images ({error}); remove it") from None
        return torch.tensor(indices, dtype=torch.int64), details


@dataclass(frozen=True)
class AdversarialImages(Artefact):
    """Adversarial images of one source, by one attack, on one sample.

    Attributes:
        attack: as :func:`scotoma.defective.attacks.parse_attack` reads it. most: only so many of
            the sample's images; None for all.
    """

    kind = "set"
    suffix = ".safetensors"

    source: Model
    attack: str
    sample: Sample
    most: int | None = None

    @property
    def label(self) -> str:
        attack = parse_attack(self.attack)
        return f"{self.source.label}-{attack.name}-{told_settings(attack)}"

    def settings(self) -> dict[str, Any]:
        return {
            "attack": parse_attack(self.attack).parameters(),
            "most": self.most,
            "pixels": PIXELS,
            "members": len(self.source.members),
        }

    def inputs(self) -> tuple[Artefact, ...]:
        return (*self.source.members, self.sample, *self.sample.data.inputs())

    @property
    def affinity(self) -> str:
        return f"attack {self.source.key}"

    @property
    def share(self) -> float:
        return self.source.share

    def make(self, context: Context) -> None:
        indices, details = self.sample.read(context.store)
        path = self.path(context.store)
        path.parent.mkdir(parents=True, exist_ok=True)
        make_set(
            Source(self.source.load(context), "float32", cuda_graph=True),
            parse_attack(self.attack),
            context.images(self.sample.data),
            indices[: self.most],
            path,
            batch_size=context.batch_size,
            pixels=PIXELS,
            sampling=details,
            say=lambda text: context.screen.line(f"    {text}"),
            advance=context.progress,
        )


Protocol = Literal["clean", "transfer", "white-box", "boundary", "noise", "shuffle", "stylized"]


@dataclass(frozen=True)
class Result(Artefact):
    """What one protocol of evaluation found, as cells of ``scotoma evaluate``.

    ===========  ==================================================================================
    clean        ``accuracy`` on the whole test split
    transfer     ``defence`` (P1), ``defence_all`` (P2), ``fooled_source`` and more, on a set
    white-box    ``defence``: of the images that are right before an attack on the network itself,
                 those after it
    boundary     ``score_median``: the squared distance that a decision-based attack ends at
    noise        ``accuracy`` under Gaussian noise; a cell for each epsilon
    shuffle      ``accuracy`` on images whose patches were shuffled; a cell for each grid
    stylized     ``accuracy`` on stylised images whose originals all targets classify right; a cell
                 for each target
    ===========  ==================================================================================

    Attributes:
        targets: the network; several with "stylized" only. on: the images that it meets; None for
            the whole test split. attack: its text, of "white-box" and "boundary".
        options: further arguments of the protocol, plain values, as pairs.
    """

    kind = "result"
    suffix = ".json"

    protocol: Protocol
    targets: tuple[Model, ...]
    on: Sample | AdversarialImages | None = None
    attack: str = ""
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def clean(cls, target: Model) -> Result:
        return cls("clean", (target,))

    @classmethod
    def transfer(cls, target: Model, images: AdversarialImages) -> Result:
        return cls("transfer", (target,), images)

    @classmethod
    def white_box(cls, target: Model, attack: str, sample: Sample) -> Result:
        return cls("white-box", (target,), sample, attack)

    @classmethod
    def boundary(cls, target: Model, attack: str, sample: Sample) -> Result:
        return cls("boundary", (target,), sample, attack)

    @classmethod
    def noise(
        cls, target: Model, sample: Sample, epsilons: tuple[float, ...], draws: int = 3
    ) -> Result:
        return cls("noise", (target,), sample, options=(("epsilons", epsilons), ("draws", draws)))

    @classmethod
    def shuffled(
        cls, target: Model, sample: Sample, grids: tuple[int, ...], seed: int = 0
    ) -> Result:
        return cls("shuffle", (target,), sample, options=(("grids", grids), ("seed", seed)))

    @classmethod
    def stylized(cls, targets: tuple[Model, ...]) -> Result:
        return cls("stylized", targets)

    @property
    def target(self) -> Model:
        """The network, or the first of them."""
        return self.targets[0]

    @property
    def images(self) -> AdversarialImages:
        """The set, of "transfer"."""
        return self.on

    @property
    def sample(self) -> Sample:
        """The choice of images behind those that are met, where there is one."""
        return self.on.sample if isinstance(self.on, AdversarialImages) else self.on

    @property
    def data(self) -> Data:
        return self.target.data if self.on is None else self.sample.data

    @property
    def label(self) -> str:
        names = "+".join(target.label for target in self.targets)
        match self.protocol:
            case "transfer":
                return f"{names}-against-{self.on.label}"
            case "shuffle":
                return f"{names}-shuffled"
            case "white-box":
                return f"{names}-white-box-{parse_attack(self.attack).name}"
        return f"{names}-{parse_attack(self.attack).name if self.attack else self.protocol}"

    def settings(self) -> dict[str, Any]:
        members = [len(target.members) for target in self.targets]
        found = {"protocol": self.protocol, "members": members[0], **dict(self.options)}
        if self.attack:
            found["attack"] = parse_attack(self.attack).parameters()
        if self.protocol == "stylized":
            found |= {"members": members, "folder": self.data.stylized_content}
        return found

    def inputs(self) -> tuple[Artefact, ...]:
        members = [member for target in self.targets for member in target.members]
        return (*members, *([] if self.on is None else [self.on]), *self.data.inputs())

    @property
    def affinity(self) -> str:
        """Results of one network are made one after the other."""
        return f"evaluate {self.target.key}"

    @property
    def share(self) -> float:
        return self.target.share if self.protocol == "white-box" else super().share

    def make(self, context: Context) -> None:
        path = self.path(context.store)
        parts = Cells(path.with_name(f".{path.stem}.parts"))  # what a stopped sweep goes on with
        write_record(path, {"key": self.key, "cells": self.compute(context, parts)})
        shutil.rmtree(parts.folder, ignore_errors=True)

    def compute(self, context: Context, cells: Cells) -> list[dict[str, Any]]:
        """The cells, each kept among ``cells`` as soon as it is there."""
        targets = [target.load(context) for target in self.targets]
        images, clean = context.images(self.data), context.clean(self.data)
        indices = self.on.read(context.store)[0] if isinstance(self.on, Sample) else None
        attack = parse_attack(self.attack) if self.attack else None
        how = {"batch_size": context.batch_size, "progress": context.progress} | dict(self.options)
        match self.protocol:
            case "clean":
                progress = context.progress
                return [evaluate_clean(targets[0], images, cells, clean=clean, progress=progress)]
            case "transfer":
                found = load_set(self.on.path(context.store))
                return [evaluate_transfer(targets[0], found, images, cells, clean=clean, **how)]
            case "white-box":
                return [evaluate_white_box(targets[0], attack, images, indices, cells, **how)]
            case "stylized":
                folder = self.data.stylized_folder(context.store)
                return evaluate_stylized(targets, images, folder, cells, clean=clean, **how)
            case "boundary":
                return evaluate_boundary(targets, images, indices, cells, attack=attack, **how)
            case "noise":
                return evaluate_noise(targets, images, indices, cells, **how)
        return evaluate_shuffle(targets, images, indices, cells, **how)

    def read(self, store: Store) -> list[dict[str, Any]]:
        """The ``results`` of each cell. Raises UserError if the file is damaged."""
        path = self.path(store)
        record = read_record(path, "result of a reproduction", "cells")
        try:
            found = [dict(cell["results"]) for cell in record["cells"]]
            check_results(found)
            return found
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path}: no result of a reproduction ({error}); remove it") from None
