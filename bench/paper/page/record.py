"""A page for programs: every number in cells.json, and in cells.csv a line for each place."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from ...report.document import clean
from ..experiment import Made
from ..graph.plan import Failure
from ..judge import LEVEL, Estimate, Verdict
from .grid import Cell, Grid

FORMAT = 1

COLUMNS = (
    *("row", "column", "state", "value", "low", "high", "n", "per_seed"),
    *("paper", "difference", "ratio", "quoted", "ours_only", "unit"),
)
"""Of cells.csv, and the keys of a cell in cells.json."""


def record(
    made: Made,
    grid: Grid,
    verdicts: Sequence[Verdict],
    failures: Sequence[Failure],
    commit: str | None,
    when: str,
) -> dict[str, Any]:
    """Plain values. Rates and differences are fractions; what is not there is None."""
    definition, setup = made.definition, made.setup
    return {
        "format": FORMAT,
        "name": definition.name,
        "title": definition.title,
        "section": definition.section,
        "budget": setup.budget.name,
        "decides": not grid.apart,
        "differences": not grid.apart,
        "seeds": list(setup.seeds),
        "images": setup.images,
        "data": {r: data.label for r, data in setup.data.items() if r in definition.roles},
        "commit": commit,
        "when": when,
        "interval": LEVEL,
        "rows": list(grid.rows),
        "columns": list(grid.columns),
        "cells": [
            cell_record(grid, row, column, cell) for (row, column), cell in grid.cells.items()
        ],
        "asides": [
            {"row": row, "column": column} | _numbers(cell.ours)
            for (row, column), cell in grid.asides.items()
        ],
        "verdicts": [
            {
                "claim": each.claim,
                "section": each.section,
                "stated": each.stated,
                "ours": each.ours,
                "verdict": each.verdict,
                "evidence": each.evidence,
                "holds": each.holds,
                "open": each.open,
                "reversed": each.reversed,
                "missing": list(each.missing),
            }
            for each in verdicts
        ],
        "failures": [
            {"artefact": each.artefact.label, "key": each.artefact.key, "message": each.message}
            for each in failures
        ],
    }


def cell_record(grid: Grid, row: str, column: str, cell: Cell) -> dict[str, Any]:
    """One place: keys of :data:`COLUMNS`; ``quoted`` is whose work the paper quotes."""
    ours = cell.ours
    return {
        "row": row,
        "column": column,
        "state": cell.state.value or None,
        **_numbers(ours),
        "paper": cell.paper,
        "difference": cell.difference,
        "ratio": cell.ratio,
        "quoted": grid.quoted.get(row) if cell.paper is not None else None,
        "ours_only": row in grid.own_rows or column in grid.own_columns,
        "unit": "score" if cell.score else "rate",
    }


def _numbers(ours: Estimate | None) -> dict[str, Any]:
    return {
        "value": ours and ours.value,
        "low": ours and ours.low,
        "high": ours and ours.high,
        "n": ours and ours.n,
        "per_seed": ours and list(ours.per_seed),
    }


def as_csv(found: dict[str, Any]) -> str:
    """The cells of a record, with a line of names; seeds are parted by spaces."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for cell in found["cells"]:
        writer.writerow({name: _plain(cell[name]) for name in COLUMNS})
    return buffer.getvalue()


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(map(repr, value))
    return repr(value) if isinstance(value, float) else clean(str(value))
