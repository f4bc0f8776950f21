"""Training and test curves: the paper's Figure 14."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from . import style

_STYLE = {"train": ("#4c72b0", "--"), "val": ("#55a868", "-"), "test": ("#c44e52", "-")}


def draw_curves(history: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Accuracy and loss against the epoch, and the learning rate below.

    Args:
        history: one mapping an epoch, with the keys of metrics.jsonl.
    """
    figure = style.new((9, 4.2), title)
    grid = figure.add_gridspec(2, 2, height_ratios=(4, 1))
    epochs = [record["epoch"] for record in history]
    marker = "o" if len(epochs) < 20 else None
    for column, (key, label, scale) in enumerate(
        (("acc1", "accuracy (%)", 100), ("loss", "loss", 1))
    ):
        axes = figure.add_subplot(grid[0, column])
        for split, (colour, line) in _STYLE.items():
            if f"{split}/{key}" in history[0]:
                values = [scale * record[f"{split}/{key}"] for record in history]
                axes.plot(
                    epochs, values, line, color=colour, marker=marker, markersize=3, label=split
                )
                robust = f"{split}/robust_acc1"
                if key == "acc1" and robust in history[0]:
                    attacked = [scale * record[robust] for record in history]
                    axes.plot(epochs, attacked, ":", color=colour, marker=marker, markersize=3)
                    axes.lines[-1].set_label(f"{split}, attacked")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend()
        below = figure.add_subplot(grid[1, column], sharex=axes)
        below.plot(
            epochs,
            [record["lr"] for record in history],
            color="#777777",
            marker=marker,
            markersize=3,
        )
        below.set_xlabel("epoch")
        below.set_ylabel("lr")
        below.grid(alpha=0.3)
        below.locator_params(axis="x", integer=True)
    return figure
