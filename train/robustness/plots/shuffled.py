"""Images with their patches in a random order: the paper's Figure 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ... import style
from ..wording import grid_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS = 6


def draw(samples: dict) -> Figure | None:
    """A row an image: the original and each grid; None without shuffled images.

    Args:
        samples: "shuffled" {k: [m,C,H,W]}, and the originals in the same order, under its key 1 or
            as the first m of "clean"; "labels" of the same.
    """
    grids = dict(samples.get("shuffled") or {})
    if not grids:
        return None
    count = min(_ROWS, *(len(images) for images in grids.values()))
    original = grids.pop(1, samples.get("clean"))
    columns = [] if original is None else [("original", original[:count])]
    columns += [(grid_text(grid), grids[grid]) for grid in sorted(grids)]
    count = min(len(images) for _, images in columns)
    if count == 0:
        return None
    labels = list(samples.get("labels") or [])[:count]
    labels += [""] * (count - len(labels))
    side, left = 1.5, 1.1
    figure = style.new(
        (side * len(columns) + left, side * count + 0.7), "Patches in a random order"
    )
    grid = figure.subplots(count, len(columns), squeeze=False)
    shown = [style.short([label], 18)[label] for label in labels]
    for row, axes in enumerate(grid):
        for cell, (title, images) in zip(axes, columns, strict=True):
            style.picture(cell, images[row])
            if row == 0:
                cell.set_title(title, fontsize=9)
        axes[0].set_ylabel(shown[row], fontsize=9, rotation=0, ha="right", va="center", labelpad=6)
    return figure
