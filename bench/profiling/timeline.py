"""A picture of one step of each contestant on one axis of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ...train import plots
from . import families
from .busy import Interval, clipped
from .families import COLOURS
from .trace import Span, Trace

WIDTH = 15.0
NARROW = 0.035
"""Of the axis: a bar below this width has no room for its figure."""


@dataclass(frozen=True)
class Strip:
    """A contestant's part of the picture.

    Attributes:
        row: its row of results. trace: its steady runs. units: steps of a run.
    """

    row: dict
    trace: Trace
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


def draw(strips: Sequence[Strip], title: str) -> Figure:
    """The picture.

    Every contestant has what the host launched (on a GPU), what ran, a row for each stream, and
    the mean time of a step by family, end to end, with its gaps left out.

    Args:
        strips: at least one. title: what all of them have in common.
    """
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


def _length(strip: Strip) -> float:
    """Milliseconds that a strip needs."""
    begin, end = strip.window
    return max((end - begin) / 1e3, sum(_means(strip).values()))


def _means(strip: Strip) -> dict[str, float]:
    return {name: strip.row["families"].get(name, {}).get("ms", 0.0) for name in COLOURS}


def _lanes(strip: Strip) -> list[tuple[str, list[Span] | None]]:
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


def _strip(axes, strip: Strip, lanes, longest: float) -> None:
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


def _ticks(axes, strip: Strip, at: float) -> None:
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
            dark = family in (families.MATMUL, families.LOSS, families.DATA, families.MEMSET)
            colour = "black" if dark else "white"
            axes.text(
                left + ms / 2, at, f"{ms:.2f}", ha="center", va="center", color=colour, fontsize=8
            )
        left += ms
