"""Clean accuracy against the defence rate, by keep probability: Figure 5."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....train import plots
from ...report.document import Picture
from ..published import figure5

if TYPE_CHECKING:
    from ..experiment import Made
    from ..judge import Estimate

DEFENCE, ACCURACY = "Defence Rate", "Test Accuracy"
"""The columns."""
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
    figure = plots.new((6.4, 4.6), "Success defence rate and clean accuracy by keep probability")
    axes = figure.subplots()
    places = {row: tuple(map(_range, pair)) for row, pair in points.items()}
    for defence, accuracy in places.values():
        plots.interval_point(axes, defence, accuracy, colour=_OURS)
    paper = figure5()
    x = [100 * point.defence_rate for point in paper]
    y = [100 * point.accuracy for point in paper]
    look = {"color": _PAPER, "markersize": 8, "linestyle": "none", "clip_on": False}
    axes.plot(x, y, "*", label="the paper", **look)
    axes.plot([], [], "o", color=_OURS, label="ours, with 95 % intervals")
    axes.set_xlabel("success defence rate (P1, %)")
    axes.set_ylabel("clean accuracy (%)")
    labels = {plots.plain(row.removesuffix("-Bottom")): pair for row, pair in places.items()}
    labels |= {
        f"{point.keep_probability:g} (paper)": ((None, a, None), (None, b, None))
        for point, a, b in zip(paper, x, y, strict=True)
    }
    ends = [[v for pair in labels.values() for v in pair[i] if v is not None] for i in range(2)]
    axes.set_xlim(plots.percent_limits(ends[0], 0.12))
    axes.set_ylim(plots.percent_limits(ends[1], 0.12))
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(loc="lower left", fontsize=8)
    figure.draw_without_rendering()  # labels are placed where the layout has put the axes
    plots.place_labels(axes, labels)
    alt = (
        f"clean accuracy against the success defence rate of {', '.join(points)}, each beside the "
        "paper's"
    )
    return [Picture(f"{made.definition.name}.png", alt, figure)]


def _range(estimate: Estimate) -> plots.Range:
    """In percent."""
    low, high = (None if end is None else 100 * end for end in (estimate.low, estimate.high))
    return low, 100 * estimate.value, high
