"""Clean accuracy against the defence rate, by keep probability: Figure 5."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ....train import style
from ....train.robustness.plots.placing import place_labels
from ...report.document import Picture
from ..published import figure5

if TYPE_CHECKING:
    from ..experiment import Made
    from ..judge import Estimate

DEFENCE, ACCURACY = "Defence Rate", "Test Accuracy"
"""The columns."""
Box = tuple[float, float, float, float]
"""From x to x, from y to y."""
_OURS, _PAPER = "#0072b2", "#d55e00"


def draw_tradeoff(made: Made) -> list[Picture]:
    """A point for each row that has both numbers, and the paper's points; none without a row.

    The axes span both, unlike the paper's, which begin at a defence rate of 90 %.
    """
    points = {
        row: (made.values[row, DEFENCE], made.values[row, ACCURACY])
        for row in made.experiment.rows
        if (row, DEFENCE) in made.values and (row, ACCURACY) in made.values
    }
    if not points:
        return []
    figure = style.new((6.4, 4.6), "Success defence rate and clean accuracy by keep probability")
    axes = figure.subplots()
    for defence, accuracy in points.values():
        drawn = axes.errorbar(
            100 * defence.value,
            100 * accuracy.value,
            xerr=_whiskers(defence),
            yerr=_whiskers(accuracy),
            color=_OURS,
            marker="o",
            elinewidth=0.8,
            linestyle="none",
            clip_on=False,
            zorder=3,  # above the frame
        )
        for bar in drawn[2]:
            bar.set_clip_on(False)
    paper = figure5()
    x = [100 * point.defence_rate for point in paper]
    y = [100 * point.accuracy for point in paper]
    look = {"color": _PAPER, "markersize": 8, "linestyle": "none", "clip_on": False}
    axes.plot(x, y, "*", label="the paper", **look)
    axes.plot([], [], "o", color=_OURS, label="ours, with 95 % intervals")
    axes.set_xlabel("success defence rate (P1, %)")
    axes.set_ylabel("clean accuracy (%)")
    boxes = _lines(points.values())
    marks = [(a, a, b, b) for a, b in [*map(_place, points.values()), *zip(x, y, strict=True)]]
    across, up = zip(*((box[:2], box[2:]) for box in [*boxes, *marks]), strict=True)
    axes.set_xlim(style.percent_limits(sum(across, ()), 0.12))
    axes.set_ylim(style.percent_limits(sum(up, ()), 0.12))
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(loc="lower left", fontsize=8)
    figure.draw_without_rendering()  # labels are placed where the layout has put the axes
    labels = {style.plain(_short(row)): _place(pair) for row, pair in points.items()}
    labels |= {
        f"{p.keep_probability:g} (paper)": (100 * p.defence_rate, 100 * p.accuracy) for p in paper
    }
    place_labels(axes, labels, boxes)
    alt = (
        f"clean accuracy against the success defence rate of {', '.join(points)}, each beside the "
        "paper's"
    )
    return [Picture(f"{made.definition.name}.png", alt, figure)]


def _lines(points: Iterable[tuple[Estimate, Estimate]]) -> list[Box]:
    """The intervals as lines that labels keep clear of."""
    found = []
    for defence, accuracy in points:
        x, y = _place((defence, accuracy))
        if defence.low is not None and defence.high is not None:
            found.append((100 * defence.low, 100 * defence.high, y, y))
        if accuracy.low is not None and accuracy.high is not None:
            found.append((x, x, 100 * accuracy.low, 100 * accuracy.high))
    return found


def _short(row: str) -> str:
    return row.removesuffix("-Bottom")


def _place(pair: tuple[Estimate, Estimate]) -> tuple[float, float]:
    return 100 * pair[0].value, 100 * pair[1].value


def _whiskers(estimate: Estimate) -> list[list[float]] | None:
    """Lengths below and above in percent; rounding must not make an empty one negative."""
    if estimate.low is None or estimate.high is None:
        return None
    below, above = estimate.value - estimate.low, estimate.high - estimate.value
    return [[100 * max(0.0, below)], [100 * max(0.0, above)]]
