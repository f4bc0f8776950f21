"""The profile for the eye: families side by side, what they are made of, what follows, and a
picture of one step of each variant on one axis of time."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from rich.table import Table

from ...train import plots
from ..harness import console_table
from ..variants import VARIANTS
from .families import COLOURS, DATA, FAMILIES, GAPS, LOSS, MATMUL, MEMSET, side_by_side
from .trace import Interval, Trace, clipped

if TYPE_CHECKING:  # half a second, which only who draws is to wait for
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BASE = "eager"
BUSY_ENOUGH = 95.0
SLOWED = 1.1
"""The profiler's effect on a step is worth a sentence from this factor on."""
WIDTH = 15.0
NARROW = 0.035
"""Of the axis: a bar below this width has no room for its figure."""


def on_device(row: dict) -> bool:
    return row["machine"]["kind"] == "cuda"


def has_graphs(name: str) -> bool:
    """Whether a variant runs CUDA graphs."""
    return VARIANTS[name].graph or VARIANTS[name].compile == "max-autotune"


def families(rows: Sequence[dict]) -> Table:
    """One line a family, milliseconds, share and launches of each variant side by side."""
    what = "device time per step" if on_device(rows[0]) else "operators' own time per profiled step"
    headings, lines, totals = side_by_side(rows)
    view = Table(headings[0], title=what)
    for heading in headings[1:]:
        view.add_column(heading, justify="right")
    for line in lines + totals:
        view.add_row(*line, end_section=line is lines[-1])
    return view


def largest(row: dict, count: int = 8) -> Table:
    """The kernels, or operators, of a variant that take most of the time."""
    columns = {
        "name": lambda entry: shortened(entry["name"]),
        "family": lambda entry: entry["family"],
        "ms": lambda entry: f"{entry['ms']:.3f}",
        "launches" if on_device(row) else "calls": lambda entry: f"{entry['launches']:.0f}",
    }
    title = f"{row['contestant']}: where most of the time goes"
    return console_table(title, row["top"][:count], columns, words=2)


def shortened(name: str, width: int = 70) -> str:
    """A kernel's name without namespaces and parameters that say nothing, cut to ``width``."""
    # Of an elementwise kernel the functor tells what it does; sizes and the rest do not.
    name = re.sub(r"\(anonymous namespace\)::|at::native::|^void |std::array<.*$", "", name)
    return name if len(name) <= width else name[: width - 3] + "..."


def others(rows: Iterable[dict]) -> list[str]:
    """What no rule knows, so that a wrong or missing rule is seen."""
    return [
        f"{row['contestant']}: {entry['ms']:.3f} ms in {entry['launches']:.0f}: "
        f"{shortened(entry['name'], 100)}"
        for row in rows
        for entry in row["top_other"]
    ]


def sentences(rows: Sequence[dict]) -> list[str]:
    """What the figures say: the largest difference between two variants, and who waits."""
    lines = [_difference(rows)] if len(rows) > 1 else []
    lines += [_idle(row) for row in rows if on_device(row) and row["busy_percent"] < BUSY_ENOUGH]
    for row in rows:
        factor = row["profiled_step_ms"] / row["step_ms"]
        if factor > SLOWED:
            lines.append(
                f"{row['contestant']}: the profiler made a step {factor:.2f} times as long; gaps "
                "in the timeline are longer than they are without it."
            )
    return lines


def _idle(row: dict) -> str:
    name = row["contestant"]
    waits = row["host_wait_ms"] > 0.5 * (row["profiled_step_ms"] - row["busy_ms"])
    rest = "mostly waits for the host" if waits else "mostly pauses between launched kernels"
    advice = "; a CUDA graph (scotoma train --cuda-graph, the default) launches a step at once"
    advised = row["work"] == "train" and not has_graphs(name)
    return (
        f"{name}: the device runs something {row['busy_percent']:.0f} % of a step and for the rest "
        f"{rest}{advice * advised}."
    )


def _difference(rows: Sequence[dict]) -> str:
    """Between the base (eager, if it is there) and the fastest other one."""
    base = next((row for row in rows if row["contestant"] == BASE), rows[0])
    other = min((row for row in rows if row is not base), key=lambda row: row["step_ms"])
    both = [name for name in FAMILIES if name in base["families"] | other["families"]]
    family = max(both, key=lambda name: abs(_ms(other, name) - _ms(base, name)))
    old, new = _ms(base, family), _ms(other, family)
    whole = other["step_ms"] - base["step_ms"]
    name = family if on_device(base) or family != GAPS else "time outside operators"
    return (
        f"{other['contestant']} against {base['contestant']}: the largest difference is in "
        f"{name}, {abs(new - old):.3f} ms {'less' if new < old else 'more'} ({old:.3f} to "
        f"{new:.3f} ms); the whole step is {abs(whole):.3f} ms "
        f"{'shorter' if whole < 0 else 'longer'} "
        f"({base['step_ms']:.3f} to {other['step_ms']:.3f} ms)."
    )


def _ms(row: dict, family: str) -> float:
    return row["families"].get(family, {}).get("ms", 0.0)


@dataclass
class Profiled:
    """What a variant did.

    Attributes:
        row: its row of results. trace: its steady runs, None if it failed. units: steps of a run.
    """

    row: dict
    trace: Trace | None = None
    units: int = 1

    @property
    def window(self) -> Interval:
        """The step that is shown: of the run of median length, one from its middle."""
        runs = list(pairwise(self.trace.starts))
        median = statistics.median_low(map(_length, runs))
        begin, end = next(run for run in runs if _length(run) == median)
        length = (end - begin) / self.units
        begin += length * (self.units // 2)
        return begin, begin + length

    def streams(self) -> list[int]:
        """Those on which something runs in that step, the last one first; one on a CPU."""
        begin, end = self.window
        found = {one.stream for one in self.trace.spans if one.start < end and one.end > begin}
        return sorted(found, reverse=True)


def _length(interval: Interval) -> float:
    return interval[1] - interval[0]


def draw(strips: Sequence[Profiled], title: str) -> Figure:
    """The picture. Of each variant what the host launched (on a GPU), what ran, a row for each
    stream, and the mean time of a step by family, end to end, with its gaps left out.

    Args:
        strips: at least one. title: what all of them have in common.
    """
    from matplotlib.patches import Patch

    heights = [1.04 + 0.42 * (len(one.streams()) + one.trace.on_device) for one in strips]
    figure = plots.new((WIDTH, 1.5 + sum(heights)), title)
    grid = figure.subplots(
        len(strips), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    sums = (sum(_ms(one.row, family) for family in COLOURS) for one in strips)
    longest = max(*(_length(one.window) / 1e3 for one in strips), *sums)
    for strip, axes in zip(strips, grid[:, 0], strict=True):
        _strip(axes, strip, longest)
    grid[-1, 0].set_xlabel("time in ms from the beginning of the step (dotted: its end)")
    grid[-1, 0].set_xlim(0, 1.005 * longest)
    shown = {family for strip in strips for family in strip.row["families"]}
    figure.legend(
        handles=[Patch(color=c, label=name) for name, c in COLOURS.items() if name in shown],
        loc="outside lower center",
        ncols=6,
        frameon=False,
    )
    return figure


def _strip(axes: Axes, strip: Profiled, longest: float) -> None:
    row, trace, streams, window = strip.row, strip.trace, strip.streams(), strip.window
    labels = ["sum, mean step", *(f"stream {stream}" for stream in streams)]
    if len(streams) == 1:
        labels[1] = "device" if trace.on_device else "host operators"
    labels += ["host launches"] * trace.on_device
    left, shown = 0.0, _length(window) / 1e3
    for family, colour in COLOURS.items():
        ms = _ms(row, family)
        axes.barh(0, ms, left=left, height=0.72, color=colour, linewidth=0)
        if ms > NARROW * longest:
            ink = "black" if family in (MATMUL, LOSS, DATA, MEMSET) else "white"
            look = {"ha": "center", "va": "center", "color": ink, "fontsize": 8}
            axes.text(left + ms / 2, 0, f"{ms:.2f}", **look)
        left += ms
        for at, stream in enumerate(streams, 1):
            own = (one for one in trace.spans if (one.family, one.stream) == (family, stream))
            ends = (clipped(span.start, span.end, window) for span in own)
            bars = [((a - window[0]) / 1e3, (b - a) / 1e3) for a, b in ends if b > a]
            axes.broken_barh(bars, (at - 0.36, 0.72), facecolors=colour, linewidth=0)
        # A tick for every launch in this time, of whatever step it is.
        ticks = [(time - window[0]) / 1e3 for time, name in trace.calls if name == family]
        ticks, top = [tick for tick in ticks if 0 <= tick < shown], len(labels) - 1
        axes.vlines(ticks, top - 0.3, top + 0.3, colors=colour, linewidth=0.7)
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.5, len(labels) - 0.45)
    busy = "" if row["busy_percent"] is None else f", device busy {row['busy_percent']:.0f} %"
    words = f"{row['contestant']}: step {row['step_ms']:.3f} ms{busy}. Shown: a profiled step of "
    axes.set_title(f"{words}{shown:.3f} ms", loc="left", fontsize=10)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.axvline(shown, color="#444444", linewidth=0.8, linestyle=":")
