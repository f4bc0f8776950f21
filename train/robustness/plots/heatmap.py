"""Success defence rates of all targets against all attacks, as a heat map."""

from __future__ import annotations

import textwrap

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ... import style
from ..arranged import Arranged, Column
from ..wording import DEFINITIONS

_MAP = colormaps["cividis"]
_FLAT = 8
"""With more columns than that, their labels stand upright."""


def draw(found: Arranged) -> Figure | None:
    """Targets as rows, (source, attack) as columns; None without transfer cells."""
    columns = found.columns("transfer")
    if not columns:
        return None
    names = [name for name in found.targets if any(name in c.cells for c in columns)]
    upright = len(columns) > _FLAT
    wide, high = 0.8 if upright else 1.5, 0.5
    shown = style.short(names, 40)
    across = max(6.0, 0.4 + 0.08 * max(map(len, shown.values())) + wide * len(columns))
    below = textwrap.wrap(DEFINITIONS[0], round(14.5 * across))
    size = (across, high * len(names) + (2.8 if upright else 1.7) + 0.14 * len(below))
    figure = style.new(size, "Success defence rate (P1, %)")
    axes = figure.add_subplot()
    for x, column in enumerate(columns):
        for y, name in enumerate(names):
            _cell(axes, x, y, column.cells.get(name), high / wide)
    axes.set_box_aspect(high * len(names) / (wide * len(columns)))
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), [shown[name] for name in names], fontsize=8.5)
    labels = [_label(column, upright) for column in columns]
    axes.set_xticks(range(len(columns)), labels, fontsize=8, rotation=90 if upright else 0)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("attack and its source", fontsize=8.5)
    axes.set_ylabel("target", fontsize=8.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.supxlabel("\n".join(below), fontsize=7.5, color="#555555")
    return figure


def _label(column: Column, upright: bool) -> str:
    """Attack and source, in lines as wide as a column."""
    texts = [column.label]
    if column.source:
        usual = f"{column.attack} from {column.source}"
        texts = [column.attack, f"from {column.source}", column.label.removeprefix(usual).strip()]
    width = 44 if upright else 22
    lines = [style.short([text], 2 * width)[text] for text in texts if text]
    return "\n".join(part for text in lines for part in textwrap.wrap(text, width))


def _cell(axes, x: int, y: int, cell: dict | None, aspect: float) -> None:
    box = (x - 0.5, y - 0.5), 1, 1
    if cell is None:
        axes.add_patch(Rectangle(*box, facecolor="#ffffff", edgecolor="#dddddd"))
        return
    rate, known = cell["results"]["defence"], cell["results"]["relation"]
    if rate["rate"] is None:
        patch = Rectangle(*box, facecolor="#eeeeee", edgecolor="#999999", hatch="////", linewidth=0)
        axes.add_patch(patch)
        text, ink = "no image", "#000000"
    else:
        fill = _MAP(rate["rate"])
        axes.add_patch(Rectangle(*box, facecolor=fill, edgecolor="#ffffff"))
        # Black where its contrast is better than white's (relative luminance of WCAG 2).
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in fill[:3]]
        bright = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        text, ink = f"{100 * rate['rate']:.2f}", "#000000" if bright > 0.179 else "#ffffff"
    marked = known != "transfer"
    back = {"facecolor": "#eeeeee", "edgecolor": "none", "pad": 1} if rate["rate"] is None else None
    axes.text(
        x,
        y - 0.12 if marked else y,
        text,
        ha="center",
        va="center",
        fontsize=9,
        color=ink,
        bbox=back,
    )
    if marked:
        axes.text(x, y + 0.26, known, ha="center", va="center", fontsize=7, color=ink, bbox=back)
        inner = (x - 0.5 + 0.04 * aspect, y - 0.46), 1 - 0.08 * aspect, 0.92
        axes.add_patch(Rectangle(*inner, fill=False, edgecolor=ink, linewidth=1, linestyle="--"))
