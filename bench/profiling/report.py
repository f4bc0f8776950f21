"""The profile for the eye: families side by side, what they are made of, what follows, and a
picture of one step of each variant on one axis of time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Column, Table

from ...train import plots
from ..harness import console_table
from ..variants import VARIANTS
from .families import COLOURS, DATA, FAMILIES, GAPS, LOSS, MATMUL, MEMSET
from .trace import Interval, Span, Trace, clipped

if TYPE_CHECKING:  # half a second, which only who draws is to wait for
    from matplotlib.figure import Figure

BASE = "eager"
BUSY_ENOUGH = 95.0
SLOWED = 1.1
"""The profiler's effect on a step is worth a sentence from this factor on."""
NAME_WIDTH = 70


def sound(rows: Iterable[dict]) -> list[dict]:
    """Rows that have figures."""
    return [row for row in rows if row["families"]]


def on_device(row: dict) -> bool:
    return row["machine"]["kind"] == "cuda"


def has_graphs(name: str) -> bool:
    """Whether a variant runs CUDA graphs."""
    return VARIANTS[name].graph or VARIANTS[name].compile == "max-autotune"


def families(rows: Sequence[dict]) -> Table:
    """One line a family, milliseconds, share and launches of each variant side by side."""
    rows = sound(rows)
    gpu = on_device(rows[0])
    what = "device time per step" if gpu else "operators' own time per profiled step"
    figures = ("ms", "%", "launches" if gpu else "calls")
    headings = (f"{row['contestant']}\n{figure}" for row in rows for figure in figures)
    view = Table("family", *(Column(heading, justify="right") for heading in headings), title=what)
    present = {family for row in rows for family in row["families"]}
    for family in (family for family in FAMILIES if family in present):
        cells = []
        for row in rows:
            entry = row["families"].get(family, {"ms": 0.0, "percent": 0.0, "launches": 0})
            cells += [f"{entry['ms']:.3f}", f"{entry['percent']:.1f}"]
            cells.append("" if family == GAPS else f"{entry['launches']:.0f}")
        name = family if gpu or family != GAPS else "outside operators"
        view.add_row(name, *cells, end_section=family == GAPS)
    for name, show in _totals(gpu):
        view.add_row(name, *(cell for row in rows for cell in (show(row), "", "")))
    return view


def _totals(gpu: bool) -> list:
    rows = [
        ("step, ms", lambda row: f"{row['step_ms']:.3f}"),
        ("step, profiled, ms", lambda row: f"{row['profiled_step_ms']:.3f}"),
    ]
    if gpu:
        rows += [
            ("device busy, %", lambda row: f"{row['busy_percent']:.1f}"),
            ("device busy, profiled, %", lambda row: f"{row['busy_percent_profiled']:.1f}"),
            ("waits for the host, profiled, ms", lambda row: f"{row['host_wait_ms']:.3f}"),
            ("launches by the host", lambda row: f"{row['host_launches']:.0f}"),
        ]
    return rows


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


def shortened(name: str, width: int = NAME_WIDTH) -> str:
    """A kernel's name without namespaces and parameters that say nothing, cut to ``width``."""
    name = re.sub(r"\(anonymous namespace\)::|at::native::|^void ", "", name)
    # Of an elementwise kernel the functor tells what it does; sizes and the rest do not.
    name = re.sub(r"std::array<.*$", "", name)
    return name if len(name) <= width else name[: width - 3] + "..."


def others(rows: Iterable[dict]) -> list[str]:
    """What no rule knows, so that a wrong or missing rule is seen."""
    return [
        f"{row['contestant']}: {entry['ms']:.3f} ms in {entry['launches']:.0f}: "
        f"{shortened(entry['name'], 100)}"
        for row in sound(rows)
        for entry in row["top_other"]
    ]


def sentences(rows: Sequence[dict]) -> list[str]:
    """What the figures say: the largest difference between two variants, and who waits."""
    rows = sound(rows)
    lines = [_difference(rows)] if len(rows) > 1 else []
    for row in rows:
        if on_device(row) and row["busy_percent"] < BUSY_ENOUGH:
            lines.append(_idle(row))
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
    text = f"{name}: the device runs something {row['busy_percent']:.0f} % of a step"
    waits = row["host_wait_ms"] > 0.5 * (row["profiled_step_ms"] - row["busy_ms"])
    rest = "mostly waits for the host" if waits else "mostly pauses between launched kernels"
    text += f" and for the rest {rest}"
    if has_graphs(name) or row["work"] != "train":
        return f"{text}."
    return (
        f"{text}; a CUDA graph (scotoma train --cuda-graph, the default) launches a step at once."
    )


def _difference(rows: list[dict]) -> str:
    """Between the base (eager, if it is there) and the fastest other one."""
    base = next((row for row in rows if row["contestant"] == BASE), rows[0])
    other = min((row for row in rows if row is not base), key=lambda row: row["step_ms"])
    apart = {
        family: _ms(other, family) - _ms(base, family)
        for family in FAMILIES
        if family in base["families"] or family in other["families"]
    }
    family = max(apart, key=lambda family: abs(apart[family]))
    word = "less" if apart[family] < 0 else "more"
    whole = other["step_ms"] - base["step_ms"]
    faster = "shorter" if whole < 0 else "longer"
    name = family if on_device(base) or family != GAPS else "time outside operators"
    return (
        f"{other['contestant']} against {base['contestant']}: the largest difference is in "
        f"{name}, {abs(apart[family]):.3f} ms {word} ({_ms(base, family):.3f} to "
        f"{_ms(other, family):.3f} ms); the whole step is {abs(whole):.3f} ms {faster} "
        f"({base['step_ms']:.3f} to {other['step_ms']:.3f} ms)."
    )


def _ms(row: dict, family: str) -> float:
    return row["families"].get(family, {}).get("ms", 0.0)


WIDTH = 15.0
NARROW = 0.035
"""Of the axis: a bar below this width has no room for its figure."""


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
        """The step that is shown; of a run of several steps, one from its middle."""
        begin, end = self.trace.typical()
        length = (end - begin) / self.units
        begin += length * (self.units // 2)
        return begin, begin + length

    def title(self) -> str:
        row = self.row
        text = f"{row['contestant']}: step {row['step_ms']:.3f} ms"
        if row["busy_percent"] is not None:
            text += f", device busy {row['busy_percent']:.0f} %"
        begin, end = self.window
        return f"{text}. Shown: a profiled step of {(end - begin) / 1e3:.3f} ms"


def draw(strips: Sequence[Profiled], title: str) -> Figure:
    """The picture.

    Every variant has what the host launched (on a GPU), what ran, a row for each stream, and
    the mean time of a step by family, end to end, with its gaps left out.

    Args:
        strips: at least one. title: what all of them have in common.
    """
    from matplotlib.patches import Patch

    lanes = [_lanes(strip) for strip in strips]
    heights = [0.62 + 0.42 * len(found) for found in lanes]
    figure = plots.new((WIDTH, 1.5 + sum(heights)), title)
    grid = figure.subplots(
        len(strips), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    longest = max(_length(strip) for strip in strips)
    for strip, found, axes in zip(strips, lanes, grid[:, 0], strict=True):
        _strip(axes, strip, found, longest)
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


def _length(strip: Profiled) -> float:
    """Milliseconds that a strip needs."""
    begin, end = strip.window
    return max((end - begin) / 1e3, sum(_means(strip).values()))


def _means(strip: Profiled) -> dict[str, float]:
    return {name: _ms(strip.row, name) for name in COLOURS}


def _lanes(strip: Profiled) -> list[tuple[str, list[Span] | None]]:
    """Labels and spans from the top; None for what is not made of spans."""
    if not strip.trace.on_device:
        return [("host operators", strip.trace.spans), ("sum, mean step", None)]
    begin, end = strip.window
    spans = [span for span in strip.trace.spans if span.start < end and span.end > begin]
    streams = sorted({span.stream for span in spans})
    lanes: list[tuple[str, list[Span] | None]] = [("host launches", None)]
    for stream in streams:
        label = "device" if len(streams) == 1 else f"stream {stream}"
        lanes.append((label, [span for span in spans if span.stream == stream]))
    return [*lanes, ("sum, mean step", None)]


def _strip(axes, strip: Profiled, lanes, longest: float) -> None:
    for number, (label, spans) in enumerate(lanes):
        at = len(lanes) - 1 - number
        if spans is not None:
            _bars(axes, spans, strip.window, at)
        elif label == "host launches":
            _ticks(axes, strip, at)
        else:
            _sums(axes, _means(strip), at, longest)
    axes.set_yticks(range(len(lanes)), [label for label, _ in reversed(lanes)], fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.5, len(lanes) - 0.45)
    axes.set_title(strip.title(), loc="left", fontsize=10)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    begin, end = strip.window
    axes.axvline((end - begin) / 1e3, color="#444444", linewidth=0.8, linestyle=":")


def _bars(axes, spans: list[Span], window: Interval, at: float) -> None:
    for family, colour in COLOURS.items():
        bars = []
        for span in spans:
            start, end = clipped(span.start, span.end, window)
            if span.family == family and end > start:
                bars.append(((start - window[0]) / 1e3, (end - start) / 1e3))
        axes.broken_barh(bars, (at - 0.36, 0.72), facecolors=colour, linewidth=0)


def _ticks(axes, strip: Profiled, at: float) -> None:
    """A tick for every launch in this time, of whatever step it is."""
    begin, end = strip.window
    for family, colour in COLOURS.items():
        times = [(t - begin) / 1e3 for t, name in strip.trace.calls if name == family]
        inside = [t for t in times if 0 <= t < (end - begin) / 1e3]
        axes.vlines(inside, at - 0.3, at + 0.3, colors=colour, linewidth=0.7)


def _sums(axes, means: dict[str, float], at: float, longest: float) -> None:
    left = 0.0
    for family, ms in means.items():
        axes.barh(at, ms, left=left, height=0.72, color=COLOURS[family], linewidth=0)
        if ms > NARROW * longest:
            dark = family in (MATMUL, LOSS, DATA, MEMSET)
            colour = "black" if dark else "white"
            axes.text(
                left + ms / 2, at, f"{ms:.2f}", ha="center", va="center", color=colour, fontsize=8
            )
        left += ms
