"""A table as heat maps side by side: ours, the paper's, and the difference."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ....train import plots
from ..experiment import Place

_WIDE, _HIGH = 0.56, 0.23
"""Inches of a cell."""
_GAP, _HEAD = 0.25, 1.8
"""Inches between panels, and the least that a panel's title needs."""
_LONGEST = 26
"""Characters of a name."""
_LETTER = 0.084
"""Inches of a letter of the title, on average and a little more."""
_LINE = 10
"""Characters of a word in a cell's line."""
_RATES, _DIFFERENCES = colormaps["cividis"], colormaps["RdBu"]
_SPAN = 0.5
"""The difference that has the full colour; differences span less only in small tables."""


@dataclass(frozen=True)
class Panel:
    """One heat map.

    Attributes:
        values: fractions. words: what stands in places without a number. signed: whether values
            are differences, which may be negative.
    """

    title: str
    values: Mapping[Place, float]
    words: dict[Place, str] = field(default_factory=dict)
    signed: bool = False


def draw(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    panels: Sequence[Panel],
    axes_names: tuple[str, str],
) -> Figure:
    """The panels side by side, all of the same rows and columns.

    Args:
        axes_names: what rows and columns are, in a word each.
    """
    across, down = _WIDE * len(columns), _HIGH * len(rows)
    names, heads = plots.short(rows, _LONGEST), plots.short(columns, _LONGEST)
    corner = f"{axes_names[1]} →\n{axes_names[0]} ↓"
    left = 0.2 + 0.068 * max(map(len, [*names.values(), *corner.split("\n")]))
    above = 0.72 + 0.062 * max(map(len, heads.values()))
    pitch = max(across + _GAP, _HEAD)
    width = max(5.0, 0.3 + _LETTER * len(title), left + len(panels) * pitch + 0.05)
    height = above + down + 0.25
    # Places are computed, not laid out: cells keep their size at any number.
    figure = plots.new((width, height), layout=None)
    figure.text(0.15 / width, 1 - 0.12 / height, plots.plain(title), fontsize=11, va="top")
    look = {"fontsize": 8, "color": "#555555", "ha": "right", "va": "bottom"}
    figure.text((left - 0.06) / width, (down + 0.2) / height, corner, **look)
    for number, panel in enumerate(panels):
        x = left + number * pitch
        box = x / width, 0.15 / height, across / width, down / height
        axes = figure.add_axes(box)
        _panel(axes, panel, rows, columns)
        axes.set_xticks(range(len(columns)), [heads[c] for c in columns], fontsize=8, rotation=90)
        axes.set_yticks(range(len(rows)), [names[r] for r in rows] if not number else [])
        axes.tick_params(length=0, axis="y", labelsize=8)
        figure.text(x / width, 1 - 0.42 / height, plots.plain(panel.title), fontsize=9.5, va="top")
    return figure


def _panel(axes: Axes, panel: Panel, rows: Sequence[str], columns: Sequence[str]) -> None:
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            _cell(axes, x, y, panel, (row, column))
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _cell(axes: Axes, x: int, y: int, panel: Panel, place: Place) -> None:
    box = (x - 0.5, y - 0.5), 1, 1
    value = panel.values.get(place)
    look = {"ha": "center", "va": "center", "fontsize": 7.5}
    if value is None:
        word = panel.words.get(place, "")
        shown = {"facecolor": "#eeeeee" if word else "#ffffff", "edgecolor": "#dddddd"}
        axes.add_patch(Rectangle(*box, linewidth=0.5, **shown))
        lines = textwrap.wrap(word, _LINE)
        look |= {"fontsize": 6.5 if len(lines) < 2 else 5.5, "linespacing": 1.0}
        axes.text(x, y, "\n".join(map(plots.plain, lines)), color="#777777", **look)
        return
    fill = _fill(value, panel.signed)
    axes.add_patch(Rectangle(*box, facecolor=fill, edgecolor="#ffffff", linewidth=0.5))
    text = f"{round(100 * value, 2) + 0:{'+' if panel.signed else ''}.2f}"
    axes.text(x, y, text, color=_ink(fill), **look)


def _fill(value: float, signed: bool) -> tuple[float, ...]:
    """The colour of a fraction, or of a difference around white."""
    chosen: Colormap = _DIFFERENCES if signed else _RATES
    return chosen(min(1.0, max(0.0, 0.5 + value / (2 * _SPAN) if signed else value)))


def _ink(fill: Sequence[float]) -> str:
    """Black where its contrast is better than white's (relative luminance of WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in fill[:3]]
    bright = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if bright > 0.179 else "#ffffff"
