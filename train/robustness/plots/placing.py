"""Labels beside points, none upon another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

_SIZE = 7.5
_CLEAR = 7.0
"""Hundredths of an inch that a label keeps from the middle of every point."""


def place_labels(
    axes: Axes,
    points: Mapping[str, tuple[float, float]],
    whiskers: Iterable[tuple[float, float, float, float]] = (),
) -> None:
    """Write each label near its point, inside the axes, with a thin line where it is far away.

    Places are tried from near to far; the first that meets no other label and no point is taken.
    The axes must have their final place in the figure.

    Args:
        points: by label, in the units of the data.
        whiskers: further lines to keep clear of: x from, x to, y from, y to.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    figure = axes.figure
    renderer = FigureCanvasAgg(figure).get_renderer()
    inside = axes.get_window_extent(renderer)
    unit = figure.dpi / 100
    centres = {label: axes.transData.transform(point) for label, point in points.items()}
    taken = [_around(x, y, _CLEAR * unit) for x, y in centres.values()]
    for left, right, low, high in whiskers:
        ends = axes.transData.transform([(left, low), (right, high)])
        taken.append(Bbox(ends).padded(unit))
    for label, (x, y) in centres.items():
        text = axes.annotate(
            label,
            points[label],
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=_SIZE,
            zorder=5,
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "#777777", "shrinkB": 4},
        )
        text.set_in_layout(False)
        box = text.get_window_extent(renderer)
        size = box.width + 4 * unit, box.height + 2 * unit
        box = _best(x, y, size, taken, inside, unit)
        taken.append(box)
        # In points, so that it holds at whatever resolution the picture is written.
        points_each = 72 / figure.dpi
        middle = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
        text.set_position(((middle[0] - x) * points_each, (middle[1] - y) * points_each))
        if _gap(x, y, box) < 14 * unit:
            text.arrow_patch.set_visible(False)


def _best(
    x: float, y: float, size: tuple[float, float], taken: list[Bbox], inside: Bbox, unit: float
) -> Bbox:
    """The nearest free place; where none is free, the one that covers least."""
    from matplotlib.transforms import Bbox

    best, least = None, math.inf
    for ring in range(60):
        distance = (8 + 5 * ring) * unit
        for step in range(24):
            angle = 2 * math.pi * step / 24
            # Sideways by the label's width more: it is its edge that keeps the distance.
            across, up = math.cos(angle), math.sin(angle)
            middle = x + across * (distance + size[0] / 2), y + up * (distance + size[1] / 2)
            box = Bbox.from_bounds(middle[0] - size[0] / 2, middle[1] - size[1] / 2, *size)
            if box.x0 < inside.x0 or box.x1 > inside.x1:
                continue
            if box.y0 < inside.y0 or box.y1 > inside.y1:
                continue
            covered = sum(_shared(box, other) for other in taken)
            if covered == 0:
                return box
            if covered < least:
                best, least = box, covered
    return best or Bbox.from_bounds(x - size[0] / 2, y + 8 * unit, *size)


def _around(x: float, y: float, reach: float) -> Bbox:
    from matplotlib.transforms import Bbox

    return Bbox.from_extents(x - reach, y - reach, x + reach, y + reach)


def _shared(one: Bbox, other: Bbox) -> float:
    """Area that two boxes have in common."""
    wide = min(one.x1, other.x1) - max(one.x0, other.x0)
    high = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(0.0, wide) * max(0.0, high)


def _gap(x: float, y: float, box: Bbox) -> float:
    return math.hypot(max(box.x0 - x, 0, x - box.x1), max(box.y0 - y, 0, y - box.y1))
