"""Training and test accuracy against the epoch: Figure 14."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ....defective.errors import UserError
from ....train import plots
from ...report.document import Picture
from ..graph.training import Training
from . import data_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..experiment import Made

METRICS = "metrics.jsonl"
_LINES = {"train/acc1": ("train", "--"), "test/acc1": ("test", "-")}
_FEW = 20
"""With fewer epochs each is marked: a curve of one would not be seen."""

History = list[dict[str, float]]


def draw_training_curves(made: Made) -> list[Picture]:
    """A panel for each data set, a colour for each network, a curve for each seed.

    Trainings that are not there are left out.

    Raises:
        UserError: damaged metrics of a training.
    """
    store = made.context.store
    there = [a for a in made.experiment.attached.values() if a.is_done(store)]
    if not there:
        return []
    figure = figure_of([(a, read_history(a.path(store) / METRICS)) for a in there])
    names = " and ".join(dict.fromkeys(map(_name, there)))
    alt = f"training and test accuracy of {names} against the epoch"
    return [Picture(f"{made.definition.name}.png", alt, figure)]


def figure_of(trainings: Sequence[tuple[Training, History]]) -> Figure:
    """What :func:`draw_training_curves` shows of at least one training."""
    from matplotlib.lines import Line2D

    panels: dict[str, list[tuple[Training, History]]] = {}
    for training, history in trainings:
        panels.setdefault(training.data.role, []).append((training, history))
    names = list(dict.fromkeys(_name(training) for training, _ in trainings))
    figure = plots.new((4.6 * len(panels) + 0.4, 3.9), "ResNet-18: accuracy after each epoch")
    all_axes = plots.panels(figure, len(panels))
    for axes, several in zip(all_axes, panels.values(), strict=True):
        axes.set_title(plots.plain(data_name(several[0][0].data)), fontsize=9)
        for training, history in several:
            _draw(axes, history, plots.colour(names.index(_name(training))))
        values = (
            100 * record[key] for _, history in several for record in history for key in _LINES
        )
        axes.set_ylim(plots.percent_limits(values))
        axes.set_xlabel("epoch")
        axes.set_ylabel("accuracy (%)")
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
    handles = {
        f"{name}, {words}": Line2D([], [], color=plots.colour(number), linestyle=line)
        for number, name in enumerate(names)
        for words, line in _LINES.values()
    }
    figure.legend(
        handles.values(),
        [plots.plain(name) for name in handles],
        loc="outside lower center",
        ncols=4,
        fontsize=8,
        frameon=False,
    )
    return figure


def _name(training: Training) -> str:
    return training.config.defects


def _draw(axes, history: History, colour: str) -> None:
    marker = "o" if len(history) < _FEW else None
    epochs = [record["epoch"] for record in history]
    for key, (_, line) in _LINES.items():
        values = [100 * record[key] for record in history]
        look = {"color": colour, "marker": marker, "markersize": 3, "linewidth": 1.2}
        axes.plot(epochs, values, line, clip_on=False, **look)


def read_history(path: Path) -> History:
    """Epochs of a training, each with "epoch", "train/acc1" and "test/acc1" (fractions).

    Raises:
        UserError: no such file, or a damaged one.
    """
    keys = ("epoch", *_LINES)
    try:
        records = [json.loads(line) for line in path.read_text().splitlines()]
        history = [{key: float(record[key]) for key in keys} for record in records]
        if not history or not all(math.isfinite(v) for each in history for v in each.values()):
            raise ValueError("no numbers in it")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{path}: no metrics of a training ({error}); remove its folder to train it again"
        ) from None
    return history
