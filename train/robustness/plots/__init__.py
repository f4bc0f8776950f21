"""Pictures of an evaluation: each module builds a figure, or None where it has nothing to draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ... import style
from ...config import PictureFormat
from ..arranged import Arranged


def draw_all(
    cells: Sequence[dict[str, Any]],
    folder: Path,
    *,
    samples: dict[str, Any] | None = None,
    format: PictureFormat = "png",
) -> list[Path]:
    """Write the pictures that apply, each whole or not at all.

    The same pictures in another format, of an earlier call, are removed.

    Args:
        cells: as :meth:`scotoma.train.robustness.cells.Cells.all` gives them, in any order.
        folder: made if need be.
        samples: images for the examples and the shuffled ones; any key may be missing. "clean"
            float [n,C,H,W] with pixels in [0,1], "labels" n names of their classes; "rows" as
            :func:`.examples.draw` takes them; "shuffled" {k: float [m,C,H,W]}, the first m of
            "clean" in grids of k x k.

    Returns:
        The files written: transfer, noise, tradeoff, examples and shuffled, as FORMAT.

    Raises:
        UserError: a cell without a result that its kind must have. OSError: it cannot be written.
    """
    from . import examples, heatmap, noise, shuffled, tradeoff  # all of matplotlib, too

    found, samples = Arranged(cells), samples or {}
    made = []
    for name, draw, material in (
        ("transfer", heatmap.draw, found),
        ("noise", noise.draw, found),
        ("tradeoff", tradeoff.draw, found),
        ("examples", examples.draw, samples),
        ("shuffled", shuffled.draw, samples),
    ):
        figure = draw(material)
        if figure is not None:
            folder.mkdir(parents=True, exist_ok=True)
            made.append(style.save_as(figure, folder / name, format))
    return made
