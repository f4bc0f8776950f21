"""A table of trainings: those alike but for network, masks and seed are one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, asdict, fields

from ....train.config import TrainConfig
from ....train.loop import FREE
from ...report.document import Break, Inline, Span, Table
from ..graph.training import Training
from .wording import count

_OF_NETWORK = ("arch", "width", "defects", "seed", "mask_seed")
_SHOWN = ("recipe", "epochs", "batch_size", "lr", "schedule", "milestones", "warmup")
_DATA = ("dataset", "image_size", "train_limit")
_FEW = 6
"""Variants and seeds that are listed; of more the first and the last."""


def training_table(trainings: Sequence[Training]) -> Table:
    """Architectures, variants, seeds and recipe of the trainings."""
    groups: dict[str, list[Training]] = {}
    for training in trainings:
        values = asdict(training.config)
        alike = {k: v for k, v in values.items() if k not in (*_OF_NETWORK, *FREE, *_DATA)}
        groups.setdefault(repr([training.data.label, sorted(alike.items())]), []).append(training)
    names = [
        *("networks", "variants", "seeds", "recipe"),
        *("epochs", "batch", "learning rate", "further settings"),
    ]
    return Table(names, [_row(group) for group in groups.values()], left=8)


def _row(group: Sequence[Training]) -> list[Inline]:
    configs = [training.config for training in group]
    config = configs[0]
    return [
        _lines(list(dict.fromkeys(each.arch for each in configs))),
        _some([each.defects for each in configs], "variant"),
        _some([str(seed) for seed in sorted({each.seed for each in configs})], "seed"),
        config.recipe,
        str(config.epochs),
        str(config.batch_size),
        _lines(_rate(config)),
        _lines(_further(config)),
    ]


def _some(names: Sequence[str], noun: str) -> str:
    names = list(dict.fromkeys(names))
    if len(names) <= _FEW:
        return ", ".join(names)
    return f"{', '.join(names[: _FEW - 2])}, ..., {names[-1]} ({count(len(names), noun)})"


def _lines(words: Sequence[str]) -> Inline:
    """Each on a line of its own."""
    found: list[Span] = []
    for word in words:
        found += [*([Break()] if found else []), word]
    return tuple(found)


def _rate(config: TrainConfig) -> list[str]:
    """The learning rate and its course."""
    if config.schedule == "step":
        epochs = ", ".join(map(str, config.milestones))
        return [f"{config.lr:g}", f"divided by 10 after {epochs}"]
    if config.schedule == "one-cycle":
        return [f"{config.lr:g} at its peak", f"one-cycle, rising for {100 * config.warmup:g} %"]
    return [f"{config.lr:g}", config.schedule]


def _further(config: TrainConfig) -> list[str]:
    """Settings that differ from the defaults, and the augmentation."""
    hidden = {*_OF_NETWORK, *_SHOWN, *_DATA, *FREE, "augment"}
    found = [f"augment {config.augment}"]
    for item in fields(TrainConfig):
        usual = item.default if item.default_factory is MISSING else item.default_factory()
        value = getattr(config, item.name)
        if item.name not in hidden and value != usual:
            found.append(f"{item.name.replace('_', '-')} {_told(value)}")
    return found


def _told(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
