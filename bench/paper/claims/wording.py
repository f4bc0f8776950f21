"""The line of evidence under a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .claim import Claim, Compared, Side

LISTED = 3
"""Missing numbers that are named; the others are counted."""


def evidence(
    claim: Claim, compared: Sequence[Compared], missing: Sequence[str], decides: bool
) -> str:
    """Counts, the comparison that stands worst, and what is missing.

    As in "18 of 20 comparisons hold, 2 open, 0 reversed; smallest difference: +1.20 points
    [-0.80, 3.10] (0.2-Bottom over 0.25-Bottom, PGD16)".
    """
    count = {kind: 0 for kind in ("holds", "open", "reversed")}
    for each in compared:
        count[each.outcome.value] += 1
    total = len(claim.comparisons)
    noun = "comparison holds" if total == 1 else "comparisons hold"
    parts = [
        f"{count['holds']} of {total} {noun}, {count['open']} open, {count['reversed']} reversed"
    ]
    if compared:
        worst = min(compared, key=lambda each: each.slack)
        parts.append(f"{_which(worst)}: {_difference(worst, claim.score)} ({_names(worst)})")
    quoted = sum(each.quoted for each in compared)
    if quoted:
        parts.append(f"{quoted} with numbers that the paper quotes")
    if missing:
        more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        parts.append(f"missing: {' | '.join(missing[:LISTED])}{more}")
    if not decides:
        parts.append("these numbers decide nothing about the paper")
    return "; ".join(parts)


def place(side: Side) -> str:
    """ "0.5-Bottom, PGD16", with the table's name before it if it is another."""
    if isinstance(side, tuple):
        return ", ".join(side)
    return f"{side.name}: {side.row}, {side.column}"


def _which(worst: Compared) -> str:
    """What the comparison with the least slack is among all."""
    low, high = worst.comparison.wanted
    if math.isinf(high):
        return "smallest difference"
    return "greatest difference" if math.isinf(low) else "farthest from equal"


def _difference(found: Compared, score: bool) -> str:
    """ "+1.20 points [-0.80, 3.10]", or of scores "4.79 times [3.10, 7.42]"."""
    numbers = (found.value, found.low, found.high)
    if score:
        value, low, high = (math.exp(number) for number in numbers)
        text, ends = f"{value:.2f} times", f"[{low:.2f}, {high:.2f}]"
    else:
        value, low, high = (100 * number for number in numbers)
        text, ends = f"{value:+.2f} points", f"[{low:.2f}, {high:.2f}]"
    return text + (f" {ends}" if math.isfinite(found.high - found.low) else ", without an interval")


def _names(found: Compared) -> str:
    """ "0.2-Bottom over 0.25-Bottom, PGD16": what the two places share stands once."""
    a, b = found.comparison.a, found.comparison.b
    mark = " as quoted" if found.quoted else ""
    if isinstance(a, tuple) and isinstance(b, tuple):
        if a[1] == b[1]:
            return f"{a[0]} over {b[0]}{mark}, {a[1]}"
        if a[0] == b[0]:
            return f"{a[0]}, {a[1]} over {b[1]}{mark}"
    return f"{place(a)} over {place(b)}{mark}"
