"""Test accuracy against seconds of training."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ....train.plots import panels
from ..schema import recipe
from . import style


def draw_convergence(rows: Sequence[dict]) -> Figure:
    """A curve for each seed, a panel for each network and data set, the target as a line.

    Args:
        rows: of the convergence benchmark, of one device.

    Raises:
        ValueError: no rows, or rows of several devices.
    """
    style.one_device(rows)
    cases: dict[tuple, list[dict]] = {}
    for row in rows:
        key = row["dataset"], row["arch"], row["defects"], row["target"], recipe(row)
        cases.setdefault(key, []).append(row)
    names = style.contestants(rows)
    handles = {
        name: Line2D([], [], color=style.colour(name, names), linestyle=_line(name), linewidth=2)
        for name in names
    }
    handles["target"] = Line2D([], [], color="#222222", linestyle=":", linewidth=1)
    size = style.panel_size(len(cases), 5.2, 3.6, 2)
    with style.canvas(rows, size, "accuracy against training time, one curve a seed") as fig:
        for axes, (case, found) in zip(
            panels(fig, len(cases), 2), sorted(cases.items()), strict=True
        ):
            dataset, arch, defects, target, how = case
            words = style.plain(f"{arch} {defects}, {dataset}"), style.plain(how, 90)
            axes.set_title("\n".join(filter(None, words)), fontsize=8)
            for row in found:
                points = row["history"]
                axes.plot(
                    [point["seconds"] for point in points],
                    [100 * point["accuracy"] for point in points],
                    color=style.colour(row["contestant"], names),
                    linestyle=_line(row["contestant"]),
                    linewidth=1.3,
                    marker="." if len(points) < 40 else None,
                    alpha=0.85,
                    clip_on=False,
                )
            axes.axhline(100 * target, color="#222222", linestyle=":", linewidth=1)
            axes.set_xlabel("training time (s)", fontsize=8)
            axes.set_ylabel("test accuracy (%)", fontsize=8)
            axes.tick_params(labelsize=8)
            axes.set_xlim(left=0)
            axes.set_ylim(top=min(100, axes.get_ylim()[1]))
            axes.grid(alpha=0.3)
        style.legend_above(fig, handles, 6)
    return fig


def _line(name: str) -> str:
    return "--" if name.endswith("-graph") else "-"
