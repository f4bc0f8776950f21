"""The operator at every site, held against the copy bandwidth."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from ....train.plots import marker
from ...layers import table
from ..compare import layer_clock
from . import style


def draw_layers(rows: Sequence[dict]) -> Figure:
    """Percent of the copy bandwidth reached at each site, forward and backward, with cold caches.

    Lines go from the 10 % to the 90 % quantile of the times.

    Args:
        rows: of the layer benchmark, of one device.

    Raises:
        ValueError: no rows, or rows of several devices.
    """
    style.one_device(rows)
    sites, names, clock = list(table.by_site(rows)), style.contestants(rows), layer_clock(rows)
    title = f"bytes that must move over time taken, cold caches, {clock} times"
    handles: dict[str, object] = {}
    size = 11, 0.3 * len(sites) + 2.0
    with style.canvas(rows, size, title) as figure:
        pair = figure.subplots(1, 2, sharey=True)
        for axes, step in zip(pair, ("forward", "backward"), strict=True):
            for row in rows:
                _dot(axes, row, (clock, step), sites, names, handles)
            axes.axvline(100, color="#222222", linestyle=":", linewidth=1)
            axes.set_title(step, fontsize=9)
            axes.set_xlabel("% of the bandwidth of a large copy", fontsize=8)
            axes.tick_params(axis="x", labelsize=8)
            axes.set_xlim(left=0)
            axes.grid(alpha=0.3)
        pair[0].set_yticks(range(len(sites)), [style.plain(s) for s in sites], fontsize=8)
        pair[0].set_ylim(len(sites) - 0.4, -0.6)
        style.legend_above(figure, {n: handles[n] for n in names if n in handles}, 6)
    return figure


def _dot(axes, row: dict, how: tuple[str, str], sites, names, handles: dict) -> None:
    clock, step = how
    time = row["times"].get("cold", {}).get(clock, {}).get(step)
    if time is None:
        return
    name, share = row["contestant"], time["copy_percent"]
    number = names.index(name)
    place = sites.index(row["site"]["name"]) + 0.5 * ((number + 0.5) / len(names) - 0.5)
    low, high = (share * time["median_us"] / time[q] for q in ("p90_us", "p10_us"))
    tint = style.colour(name, names)
    axes.plot([low, high], [place, place], color=tint, linewidth=1, alpha=0.7)
    (handles[name],) = axes.plot(
        [share],
        [place],
        linestyle="",
        marker=marker(number),
        markersize=5,
        color=tint,
        markeredgecolor="#ffffff",
        markeredgewidth=0.5,
    )
