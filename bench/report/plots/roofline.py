"""Every operator against the two roofs: bandwidth and matrix multiplication."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ....train.plots import marker
from ...roofline.table import flop_unit
from . import style

_TINTS = (
    "#b84a00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5c5c5c", "#7a5195",
)  # fmt: skip
_ROOFS = ("-", "--", "-.", ":")


def draw_roofline(rows: Sequence[dict]) -> Figure:
    """Log-log: operations per byte against operations per second, with the measured ceilings.

    Ceilings are those of the newest row. Operators differ in colour, backends in marker.

    Args:
        rows: of the roofline benchmark, of one device.

    Raises:
        ValueError: no rows, or rows of several devices.
    """
    style.one_device(rows)
    points = [row for row in rows if row["times"] and row["flops"] > 0 and row["bytes"] > 0]
    operators = sorted({row["operator"] for row in points})
    backends = sorted({row["backend"] for row in points}, key=lambda b: (b != "triton", b))
    ceilings = max(rows, key=lambda row: row["time"])["ceilings"]
    bandwidth = ceilings["copy_gb_per_s"] / 1e3  # TB/s
    unit, factor = flop_unit(rows[0])
    matmul = dict(sorted(ceilings["matmul_tflop_per_s"].items(), key=lambda item: -item[1]))
    with style.canvas(rows, (9.5, 6), "operators against measured ceilings") as figure:
        axes = figure.subplots()
        xs = [row["flops"] / row["bytes"] for row in points]
        ridge = max([*matmul.values(), bandwidth]) / bandwidth
        left, right = min([*xs, 0.5]) / 2, max([*xs, ridge]) * 4
        slope_end = max(left, max(matmul.values()) / bandwidth) if matmul else right
        axes.plot(
            [left, slope_end],
            [factor * bandwidth * left, factor * bandwidth * slope_end],
            color="#222222",
            lw=1.4,
        )
        roofs = {f"copy, {ceilings['copy_gb_per_s']:,.0f} GB/s": Line2D([], [], color="#222222")}
        for number, (dtype, ceiling) in enumerate(matmul.items()):
            line = _ROOFS[number % len(_ROOFS)]
            axes.plot(
                [ceiling / bandwidth, right], [factor * ceiling] * 2, line, color="#777777", lw=1.4
            )
            roofs[f"matrix multiplication, {dtype}, {factor * ceiling:,.1f} {unit}"] = Line2D(
                [], [], color="#777777", linestyle=line
            )
        for row, x in zip(points, xs, strict=True):
            axes.plot(
                [x],
                [factor * row["flops"] / row["times"]["median_us"] / 1e6],
                linestyle="",
                marker=marker(backends.index(row["backend"])),
                color=_TINTS[operators.index(row["operator"]) % len(_TINTS)],
                markersize=6,
                alpha=0.85,
                markeredgecolor="#ffffff",
                markeredgewidth=0.5,
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(left, right)
        axes.set_xlabel("operations per byte that must move (FLOP/B)", fontsize=9)
        axes.set_ylabel(unit, fontsize=9)
        axes.grid(which="major", alpha=0.3)
        _legend(axes, roofs, operators, backends)
    return figure


def _legend(axes, roofs: dict, operators: list[str], backends: list[str]) -> None:
    entries: dict[str, object] = dict(roofs)
    for number, name in enumerate(operators):
        tint = _TINTS[number % len(_TINTS)]
        entries[name] = Line2D([], [], linestyle="", marker="s", color=tint)
    for number, name in enumerate(backends):
        shape = marker(number)
        entries[f"backend {name}"] = Line2D([], [], linestyle="", marker=shape, color="#444444")
    axes.legend(entries.values(), [style.plain(name) for name in entries], fontsize=7.5, loc="best")
