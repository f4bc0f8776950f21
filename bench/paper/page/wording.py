"""How a page's numbers read: percent with two decimals, points, scores, ratios."""

from __future__ import annotations

from ..judge import Estimate
from .grid import Cell


def percent(share: float) -> str:
    """A fraction as "78.20 %"."""
    return f"{bare(share)} %"


def bare(share: float) -> str:
    """The same without its sign: "78.20"."""
    return f"{100 * share:.2f}"


def points(difference: float) -> str:
    """A difference of fractions, in points: "-0.03", "+1.20"."""
    # Adding zero turns a rounded -0.0 into 0.0.
    return f"{round(100 * difference, 2) + 0:+.2f}"


def ours(cell: Cell) -> str:
    """Our number of a measured cell."""
    assert cell.ours is not None
    return score(cell.ours.value) if cell.score else percent(cell.ours.value)


def score(value: float) -> str:
    """ "7.12e-06"."""
    return f"{value:.2e}"


def paper(cell: Cell) -> str:
    """The paper's number, with as many digits as it prints; "" where it prints none."""
    if cell.paper is None:
        return ""
    return f"{cell.paper:.1e}" if cell.score else percent(cell.paper)


def against_paper(cell: Cell, unit: bool = False) -> str:
    """The difference ("-0.03"), of scores the ratio ("0.98x"); "" where there is none.

    Args:
        unit: write out "points" and "the paper's".
    """
    if cell.ratio is not None:
        return f"{cell.ratio:.2f}x" + " the paper's" * unit
    if cell.difference is not None:
        return points(cell.difference) + " points" * unit
    return ""


def interval(estimate: Estimate, as_score: bool) -> str:
    """ "[75.51, 80.73]", in percent unless it is a score's; "" where there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    if as_score:
        return f"[{score(estimate.low)}, {score(estimate.high)}]"
    return f"[{bare(estimate.low)}, {bare(estimate.high)}]"


def count(number: int, noun: str) -> str:
    """ "1 image", "2 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """ "47 s", "12.3 min", "5.4 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
