"""Where a step's time goes, by families of kernels."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from ...profiling.families import COLOURS, GAPS
from ..compare import STEP_ORDER
from . import style

_UNKNOWN = "#bbbbbb"
"""Families that another version may have had."""


def draw_families(rows: Sequence[dict]) -> Figure:
    """A stacked bar for each network and contestant, in milliseconds of a step.

    Args:
        rows: of the profile benchmark, of one device.

    Raises:
        ValueError: no rows, or rows of several devices.
    """
    style.one_device(rows)
    rows = sorted(rows, key=_order)
    families = list(dict.fromkeys(name for row in rows for name in row["families"]))
    families = [f for f in families if f != GAPS] + [f for f in families if f == GAPS]
    size = 9.5, 0.36 * len(rows) + 1.9 + 0.2 * (len(families) // 5)
    with style.canvas(rows, size, "time of a step by family of kernels") as figure:
        axes = figure.subplots()
        bottoms, handles = [0.0] * len(rows), {}
        for family in families:
            lengths = [row["families"].get(family, {"ms": 0.0})["ms"] for row in rows]
            gaps = family == GAPS
            handles[family] = axes.barh(
                range(len(rows)),
                lengths,
                0.72,
                left=bottoms,
                color="#ffffff" if gaps else COLOURS.get(family, _UNKNOWN),
                hatch="xxxx" if gaps else "" if family in COLOURS else "////",
                edgecolor="#999999" if gaps else "#ffffff",
                linewidth=0.6,
            )
            bottoms = [a + b for a, b in zip(bottoms, lengths, strict=True)]
        for place, (row, end) in enumerate(zip(rows, bottoms, strict=True)):
            busy = row["busy_percent"]
            words = f" {end:.2f} ms" + ("" if busy is None else f", busy {busy:.0f} %")
            axes.text(end, place, words, va="center", fontsize=7.5)
        axes.set_yticks(range(len(rows)), [style.plain(_label(row)) for row in rows], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.28 * max([*bottoms, 1e-9]))
        # On a CPU, which the profiler slows down, families add up to a profiled step.
        step = "profiled step" if rows[0]["machine"]["kind"] == "cpu" else "step"
        axes.set_xlabel(f"ms per {step}", fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        style.legend_above(figure, handles, 5)
    return figure


def _order(row: dict) -> tuple:
    name = row["contestant"]
    place = STEP_ORDER.index(name) if name in STEP_ORDER else len(STEP_ORDER)
    sizes = row["image_size"], row["batch_size"], str(row["width"]), row["dtype"]
    sizes = row.get("work") or "train", *sizes
    return row["arch"], row["defects"] != "standard", row["defects"], *sizes, place, name


def _label(row: dict) -> str:
    work = row.get("work") or "train"
    name = f"{row['arch']} {row['defects']}, {work}, batch {row['batch_size']}, {row['dtype']}"
    return f"{name}: {row['contestant']}"
