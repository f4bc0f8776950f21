"""Convergence for the eye: one line a contestant, with the spread over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from rich.table import Table


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and its standard error (None for a single value)."""
    if len(values) < 2:
        return values[0], None
    return statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))


def table(rows: Sequence[dict]) -> Table:
    """Seconds to the target and accuracy at the end, over the seeds of each contestant."""
    view = Table(title=f"{rows[0]['arch']} {rows[0]['defects']} on {rows[0]['dataset']}")
    view.add_column("contestant")
    for name in ("seeds", "reached", "s to target", "epochs", "s of training", "accuracy %"):
        view.add_column(name, justify="right")
    for name in dict.fromkeys(row["contestant"] for row in rows):
        own = [row for row in rows if row["contestant"] == name]
        hits = [row for row in own if row["seconds_to_target"] is not None]
        cells = [str(len(own)), f"{len(hits)} of {len(own)} at {own[0]['target']:.2%}"]
        cells.append(_text([row["seconds_to_target"] for row in hits], ".2f"))
        cells.append(_text([row["epochs_to_target"] for row in hits], ".1f"))
        cells.append(_text([row["train_s"] for row in own], ".2f"))
        cells.append(_text([100 * row["accuracy"] for row in own], ".2f"))
        view.add_row(name, *cells)
    return view


def _text(values: Sequence[float], form: str) -> str:
    if not values:
        return "-"
    mean, error = mean_and_error(values)
    return format(mean, form) + ("" if error is None else f" ± {format(error, form)}")
