"""Accuracy under Gaussian noise: the paper's Figure 4."""

from __future__ import annotations

from matplotlib.figure import Figure

from ... import style
from ..arranged import Arranged
from ..labels import flat


def draw(found: Arranged) -> Figure | None:
    """Accuracy against epsilon = 2 sigma in levels of 255, one line a target with its 95 %
    interval, a panel for each group of otherwise equal settings, on one scale; None without noise
    cells."""
    groups = found.by("noise", "epsilon", "sigma")
    if not groups:
        return None
    names = [n for n in found.targets if any(n in c.cells for _, g in groups for c in g.values())]
    shown = style.short(names, 44)
    across = min(2, len(groups))
    size = (5.2 * across + 3.4, 3.6 * -(-len(groups) // across) + 0.6)
    figure = style.new(size, "Accuracy under Gaussian noise")
    handles = {}
    same = _shared([settings for settings, _ in groups])
    all_axes = style.panels(figure, len(groups), across)
    ends = []
    for axes, (settings, columns) in zip(all_axes, groups, strict=True):
        own = {
            key: value
            for key, value in flat(settings).items()
            if key not in same and key not in ("images", "indices")
        }
        cells = [cell for column in columns.values() for cell in column.cells.values()]
        counts = sorted({cell["results"]["accuracy"]["n"] for cell in cells})
        axes.set_title(style.plain(", ".join(f"{k} {v}" for k, v in own.items()))[:70], fontsize=9)
        for number, name in enumerate(names):
            points = [
                (255 * epsilon, column.cells[name]["results"]["accuracy"])
                for epsilon, column in columns.items()
                if name in column.cells
                and column.cells[name]["results"]["accuracy"]["rate"] is not None
            ]
            if points:
                handles[name] = _line(axes, number, points, shown[name])
                ends += [100 * rate[key] for _, rate in points for key in ("low", "high")]
        axes.set_xlabel("epsilon = 2 sigma (levels of 255)")
        number_of = " to ".join(map(str, counts[:1] + counts[1:][-1:]))
        axes.set_ylabel(f"accuracy (%) of {number_of} images\nthat all targets get right clean")
        axes.grid(alpha=0.3)
    for axes in all_axes:
        axes.set_ylim(style.percent_limits(ends))
    figure.legend(
        handles.values(),
        [shown[name] for name in handles],
        loc="outside right center",
        fontsize=8,
        frameon=False,
        title="target, 95 % interval",
        title_fontsize=8,
    )
    return figure


def _line(axes, number: int, points: list[tuple[float, dict]], name: str):
    levels = [level for level, _ in points]
    low, middle, high = ([100 * rate[key] for _, rate in points] for key in ("low", "rate", "high"))
    look = {"color": style.colour(number)}
    axes.fill_between(levels, low, high, alpha=0.15, linewidth=0, **look)
    (drawn,) = axes.plot(
        levels,
        middle,
        style.line(number),
        marker=style.marker(number),
        markersize=4,
        linewidth=1.4,
        clip_on=False,
        label=name,
        **look,
    )
    return drawn


def _shared(settings: list[dict]) -> set[str]:
    """Keys whose values are the same in all."""
    flattened = [flat(each) for each in settings]
    return {k for k, v in flattened[0].items() if all(f.get(k) == v for f in flattened)}
