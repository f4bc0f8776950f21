"""Accuracy under Gaussian noise, the scale on a logarithmic axis: Figure 4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from ....train import plots
from ..experiment import Place
from ..judge import Estimate


def draw(
    rows: Sequence[str], columns: Sequence[str], values: Mapping[Place, Estimate]
) -> Figure | None:
    """A line for each row and its 95 % intervals; None without a number.

    Args:
        columns: twice the standard deviation in levels of 255, as text.
    """
    lines = {
        row: [(float(c), values[row, c]) for c in columns if (row, c) in values] for row in rows
    }
    lines = {row: points for row, points in lines.items() if points}
    if not lines:
        return None
    figure = plots.new((6.6, 4.4), "Accuracy under Gaussian noise")
    axes = figure.subplots()
    for number, (row, points) in enumerate(lines.items()):
        look = {"color": plots.colour(number), "label": plots.plain(row)}
        _line(axes, number, points, look)
    ticks = sorted({float(c) for c in columns})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("2 sigma (levels of 255, logarithmic)")
    axes.set_ylabel("accuracy (%)")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", fontsize=8, title="95 % intervals", title_fontsize=8)
    return figure


def _line(axes, number: int, points: Sequence[tuple[float, Estimate]], look: dict) -> None:
    x = [level for level, _ in points]
    middle = [100 * each.value for _, each in points]
    low = [100 * (each.value if each.low is None else each.low) for _, each in points]
    high = [100 * (each.value if each.high is None else each.high) for _, each in points]
    axes.fill_between(x, low, high, alpha=0.15, linewidth=0, color=look["color"])
    kind = plots.line(number)
    look |= {"marker": plots.marker(number), "markersize": 4, "linewidth": 1.4, "clip_on": False}
    axes.plot(x, middle, kind, **look)
