"""The attacks benchmark for the eye: speed and results side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table

from ..step.table import by_case
from .case import SETUPS

NONE = "-"


def tables(rows: Sequence[dict]) -> list[Table]:
    """One table a case, a line for each contestant."""
    return [_table(case, found) for case, found in by_case(rows).items()]


def _table(case: str, rows: list[dict]) -> Table:
    first = rows[0]
    minimal = SETUPS[first["attack"]].minimal
    view = Table(title=f"{case}, {first['machine']['device']}")
    view.add_column("contestant")
    names = ["median s", "p10-p90 s", "images/s", f"x {first['peer']}", "fooled %"]
    names += ["median L2"] if minimal else ["equal pixels %", "equal classes %"]
    for name in (*names, "passes an image"):
        view.add_column(name, justify="right")
    for row in rows:
        times, results = row["times"], row["results"]
        cells = ["failed", "", "", ""]
        if times:
            cells = [
                f"{times['median_us'] / 1e6:.4g}",
                f"{times['p10_us'] / 1e6:.4g}-{times['p90_us'] / 1e6:.4g}",
                f"{row['images_per_s']:,.1f}",
                NONE if row["times_faster"] is None else f"{row['times_faster']:.2f}",
            ]
        cells.append(_percent(results.get("success")))
        if minimal:
            length = results.get("median_l2")
            cells.append(NONE if length is None else f"{length:.4f}")
        else:
            cells += [_percent(results.get(f"equal_{name}")) for name in ("pixels", "predictions")]
        view.add_row(row["contestant"], *cells, passes(results))
    return view


def passes(results: dict) -> str:
    """Forward and backward passes per image."""
    forwards, backwards = results.get("forwards"), results.get("backwards")
    if forwards is None or backwards is None:
        return NONE
    return f"{forwards:.1f} + {backwards:.1f}"


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.2f}"


def failures(rows: Iterable[dict]) -> list[str]:
    """What could not be measured, or found something else than its peer."""
    return [
        f"{row['case']}: {row['contestant']}: {problem}"
        for row in rows
        for problem in row["problems"]
    ]


def losses(rows: Iterable[dict]) -> list[str]:
    """A line for each case in which the best library is faster than the best of ours."""
    lines = []
    for case, found in by_case(rows).items():
        timed = [row for row in found if row["times"]]
        ours = [row for row in timed if row["contestant"].startswith("scotoma")]
        theirs = [row for row in timed if not row["contestant"].startswith("scotoma")]
        if not ours or not theirs:
            continue
        best, rival = (min(g, key=lambda r: r["times"]["median_us"]) for g in (ours, theirs))
        ratio = best["times"]["median_us"] / rival["times"]["median_us"]
        if ratio > 1:
            lines.append(
                f"{case}: {rival['contestant']} is {ratio:.2f}x as fast as {best['contestant']}"
            )
    return lines
