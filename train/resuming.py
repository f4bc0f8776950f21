"""The settings with which a run goes on: its own, or those that somebody asks for again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ..defective.errors import UserError
from .config import TrainConfig
from .graph import graph_refusal
from .loop import deciding, differing
from .runfolder import CONFIG, SUMMARY, WEIGHTS, RunFolder
from .setup import resolve

MOVED = ("dataset", "recipe")
"""Settings that may be others beside the free ones, where the caller answers for the images: a
folder may have been moved, and a recipe is a name for settings that are compared themselves."""


def as_saved(saved: TrainConfig, device: torch.device, processes: int) -> TrainConfig:
    """A run's own settings, on perhaps another machine than before, and in more processes."""
    graph = saved.cuda_graph is not False and graph_refusal(saved, device, processes) is None
    eager = saved.backend == "triton" and device.type != "cuda"
    return replace(saved, cuda_graph=graph, backend="auto" if eager else saved.backend)


def as_asked(
    asked: TrainConfig, saved: TrainConfig, device: torch.device, processes: int
) -> TrainConfig:
    """Settings that are asked for, resolved; what they leave to the device is as the run has it."""
    resolved = resolve(asked, device, processes)
    if asked.precision == "auto":
        resolved.precision = saved.precision
    if asked.channels_last is None:
        resolved.channels_last = saved.channels_last
    return resolved


def check_same(saved: TrainConfig, asked: TrainConfig, folder: Path) -> None:
    """Refuse to go on with another run than the one that is asked for.

    Raises:
        UserError: a setting that decides the weights differs; it is named, with both values.
    """
    name = differing(deciding(saved), deciding(asked), MOVED)
    if name is not None:
        raise UserError(
            f"{folder / CONFIG}: {name} is {getattr(saved, name)!r} there, and "
            f"{getattr(asked, name)!r} is asked for; remove the folder, and it is trained anew"
        )


def begin(config: TrainConfig, folder: RunFolder) -> None:
    """Make the folder of a new run, and keep others out.

    Args:
        config: resolved; ``overwrite`` lets it replace another run.

    Raises:
        UserError: something is there, or running there; says what to do.
    """
    folder.hold()
    path = folder.path
    if (path / CONFIG).is_file() and not config.overwrite:
        from .settings import load_resolved

        try:
            there = deciding(load_resolved(path / CONFIG))
        except UserError:  # damaged
            there = {}
        going_on = f", continue it with --resume {path}"
        if differing(there, deciding(config), ("recipe",)) is not None:
            state = "another run"
        elif all((path / name).is_file() for name in (SUMMARY, WEIGHTS)):
            state, going_on = f"this run, and it is finished: see {SUMMARY} there", ""
        else:
            state = "this run, unfinished"
        raise UserError(
            f"{path} holds {state}; choose another --name{going_on}, or replace it with --overwrite"
        )
    folder.create(replace(config, overwrite=False))
