"""Training and test curves: the paper's Figure 14."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import style
from .config import TrainConfig
from .schedule import learning_rate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = {"train": ("#4c72b0", "--"), "val": ("#55a868", "-"), "test": ("#c44e52", "-")}
_POINTS = 2000
"""Of the learning rate: more than a picture has pixels, and quick to draw."""


def draw_curves(
    history: Sequence[Mapping[str, Any]], config: TrainConfig, steps_per_epoch: int, data: str
) -> Figure:
    """Accuracy, loss, and the learning rate of the steps, against epochs.

    Args:
        history: one mapping an epoch, with the keys of metrics.jsonl. data: name of the data set.
    """
    width = "" if config.width is None else f", width {config.width}"
    figure = style.new((11, 3.7), f"{config.arch} {config.defects}{width}, on {data}")
    panels = figure.subplots(1, 3, width_ratios=(4, 4, 3))
    epochs = [record["epoch"] for record in history]
    marks = {"marker": "o" if len(epochs) < 20 else None, "markersize": 3, "clip_on": False}
    for axes, (key, label, scale) in zip(
        panels, (("acc1", "accuracy (%)", 100), ("loss", "loss", 1)), strict=False
    ):
        for split, (colour, line) in _STYLE.items():
            for name, look, words in (
                (f"{split}/{key}", line, split),
                (f"{split}/robust_{key}", ":", f"{split}, attacked"),
            ):
                if name in history[0]:
                    values = [scale * record[name] for record in history]
                    axes.plot(epochs, values, look, color=colour, label=words, **marks)
        if scale == 100:
            drawn = [value for line in axes.lines for value in line.get_ydata()]
            axes.set_ylim(style.percent_limits(drawn))
        axes.set_ylabel(label)
        axes.legend()
    panels[2].plot(*_learning_rates(config, len(history), steps_per_epoch), color="#777777")
    panels[2].set_ylabel("learning rate")
    for axes in panels:
        # An epoch's values are those at its end; the first begins at 0.
        axes.set_xlim(0, 1.03 * len(history))
        axes.set_xlabel("epoch")
        axes.locator_params(axis="x", integer=True)
        axes.grid(alpha=0.3)
    return figure


def _learning_rates(
    config: TrainConfig, epochs: int, steps_per_epoch: int
) -> tuple[list[float], list[float]]:
    """(epochs in the middle of a step, the step's learning rate), as the schedule has it."""
    steps = range(0, epochs * steps_per_epoch, math.ceil(epochs * steps_per_epoch / _POINTS))
    rates = [learning_rate(config, step, steps_per_epoch) for step in steps]
    return [(step + 0.5) / steps_per_epoch for step in steps], rates
