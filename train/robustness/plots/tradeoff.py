"""Clean accuracy against the defence rate: the paper's Figure 5."""

from __future__ import annotations

from matplotlib.figure import Figure

from ... import style
from ..arranged import Arranged
from .placing import place_labels


def draw(found: Arranged) -> Figure | None:
    """A point a target with its 95 % intervals, a panel for each (source, attack), on one scale.

    None without an attack for which two targets have both a clean accuracy and a P1.
    """
    clean = _clean(found)
    panels = []
    for column in found.columns("transfer"):
        points = {
            name: (clean[name], cell["results"]["defence"])
            for name, cell in column.cells.items()
            if name in clean and cell["results"]["defence"]["rate"] is not None
        }
        if len(points) > 1:
            panels.append((column, points))
    if not panels:
        return None
    across = min(3 if len(panels) > 4 else 2, len(panels))
    most = max(len(points) for _, points in panels)
    wide, high = (6.4, 4.4) if most > 6 else (5.2, 3.6)
    size = (wide * across, high * -(-len(panels) // across) + 0.5)
    figure = style.new(size, "Clean accuracy and success defence rate (P1), 95 % intervals")
    shown = style.short(found.targets, 30)
    all_axes = style.panels(figure, len(panels), across)
    pairs = [pair for _, points in panels for pair in points.values()]
    accuracies, defences = (
        style.percent_limits(
            [100 * each[i][key] for each in pairs for key in ("low", "high")], 0.12
        )
        for i in range(2)
    )
    for axes, (column, points) in zip(all_axes, panels, strict=True):
        _points(axes, found.targets, points)
        axes.set(xlim=defences, ylim=accuracies)
        axes.set_title(style.short([column.label], 72)[column.label], fontsize=9)
    # Labels are placed where the layout has put the axes.
    figure.draw_without_rendering()
    for axes, (_, points) in zip(all_axes, panels, strict=True):
        places = {
            shown[name]: (100 * defence["rate"], 100 * accuracy["rate"])
            for name, (accuracy, defence) in points.items()
        }
        lines = []
        for accuracy, defence in points.values():
            x, y = 100 * defence["rate"], 100 * accuracy["rate"]
            lines.append((100 * defence["low"], 100 * defence["high"], y, y))
            lines.append((x, x, 100 * accuracy["low"], 100 * accuracy["high"]))
        place_labels(axes, places, lines)
    return figure


def _clean(found: Arranged) -> dict[str, dict]:
    """Of each target its accuracy on the most images."""
    best: dict[str, dict] = {}
    for column in found.columns("clean"):
        for name, cell in column.cells.items():
            rate = cell["results"]["accuracy"]
            if rate["rate"] is not None and (name not in best or rate["n"] > best[name]["n"]):
                best[name] = rate
    return best


def _points(axes, targets: list[str], points: dict[str, tuple[dict, dict]]) -> None:
    for name, (accuracy, defence) in points.items():
        number = targets.index(name)
        x, y = 100 * defence["rate"], 100 * accuracy["rate"]
        drawn = axes.errorbar(
            x,
            y,
            xerr=_whiskers(defence),
            yerr=_whiskers(accuracy),
            color=style.colour(number),
            marker=style.marker(number),
            markersize=6,
            elinewidth=0.8,
            linestyle="none",
            clip_on=False,
            zorder=3,  # above the frame
        )
        for bar in drawn[2]:
            bar.set_clip_on(False)
    axes.set_xlabel("success defence rate (P1, %)")
    axes.set_ylabel("clean accuracy (%)")
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)


def _whiskers(rate: dict) -> list[list[float]]:
    """Lengths below and above in percent; rounding must not make an empty one negative."""
    below, above = rate["rate"] - rate["low"], rate["high"] - rate["rate"]
    return [[100 * max(0.0, below)], [100 * max(0.0, above)]]
