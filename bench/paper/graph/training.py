"""Trained networks as artefacts."""

from __future__ import annotations

import signal
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ....defective.errors import UserError
from ....defective.serialization import read_details
from ....train.commands.train import train
from ....train.config import TrainConfig
from ....train.loop import FREE
from ....train.robustness.termination import Terminated
from ....train.runfolder import CONFIG, STATE, SUMMARY, WEIGHTS
from ....train.stop import StopRequest
from .artefact import Artefact
from .context import Context
from .data import Data
from .store import Store

_PLACES = (*FREE, "recipe", "dataset", "image_size", "train_limit")
"""Settings of training that decide no weights, or are the data's."""


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
        usual = {f.name: f.default for f in fields(TrainConfig)}
        usual |= {
            f.name: f.default_factory()
            for f in fields(TrainConfig)
            if f.default_factory is not MISSING
        }
        chosen = {
            name: value
            for name, value in asdict(self.config).items()
            if name not in _PLACES and value != usual[name]
        }
        return {"config": chosen, "data": self.data.settings()}

    def inputs(self) -> tuple[Artefact, ...]:
        return self.data.inputs()

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
                outcome, _ = train(config, resume, whole=True, stop=stop)
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

    def load(self, context: Context):
        """The :class:`NamedModel`, on the context's device."""
        paths = tuple(str(member.path(context.store)) for member in self.members)
        return context.network(paths, self.name)

    def checkpoints(self, store: Store) -> list[Path]:
        """The run folders."""
        return [member.path(store) for member in self.members]
