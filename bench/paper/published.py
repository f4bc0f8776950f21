"""What the paper prints in its tables, to lay a measurement beside.

The numbers are the CSV files of ``printed/``. Rows and columns keep the paper's order and names,
with three exceptions: citations are left out; where rows repeat under each architecture, its name
goes before theirs ("VGG-19 0.3-Bottom"); and notation and signs are those of scotoma's command line
("0.7-Bottom,0.3-Top", "0.5-Bottomx2EN", "2x2", "IN->SIN").
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ...defective.errors import UserError, nearest

_FOLDER = Path(__file__).parent
TABLES = range(1, 19)
DEFENCE_RATE, TEST_ACCURACY = "Defence Rate", "Test Accuracy"
"""Columns of Figure 5."""


@dataclass(frozen=True)
class Published:
    """One table of the paper.

    Attributes:
        table: its number, 1 to 18. section: the paper's that has it, such as "4.1.2" or "A.10".
        unit: "rate", fractions of 1, or "score", the boundary attack's S(M) of Table 6, which is
            a median squared distance per value of the image.
        rows, columns: names, each once, in the paper's order.
        cells: one tuple for each row; None where the paper reports nothing.
    """

    table: int
    section: str
    unit: Literal["rate", "score"]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[float | None, ...], ...]

    @property
    def quoted(self) -> dict[str, str]:
        """Row: authors, year and title, for rows that the paper's authors did not measure."""
        return dict(quoted().get(self.table, {}))

    def value(self, row: str, column: str) -> float | None:
        """A cell: a rate as a fraction, a score as it is; None where the paper reports nothing.

        Raises:
            UserError: for a row or column that the table lacks; the message names the nearest.
        """
        for what, name, names in (("row", row, self.rows), ("column", column, self.columns)):
            if name not in names:
                hint = nearest(str(name), names) or f" It has: {'; '.join(names)}."
                raise UserError(
                    f"{what} {name!r}: Table {self.table} of the paper has none such.{hint}"
                )
        return self.cells[self.rows.index(row)][self.columns.index(column)]


@cache
def facts() -> dict[str, dict[str, Any]]:
    """{name of a table or figure: what ``tables.yaml`` tells of it}"""
    import yaml

    found = yaml.safe_load((_FOLDER / "tables.yaml").read_text(encoding="utf-8"))
    return {name: told for name, told in found.items() if name != "words"}


@cache
def quoted() -> dict[int, dict[str, str]]:
    """{table: {row of other people's defence: the work cited}}."""
    import yaml

    return yaml.safe_load((_FOLDER / "printed" / "quoted.yaml").read_text(encoding="utf-8"))


def published(table: int) -> Published:
    """A table of the paper, 1 to 18; read once.

    Raises:
        UserError: for a number that no table has.
    """
    if isinstance(table, bool) or not isinstance(table, int) or table not in TABLES:
        raise UserError(f"table {table!r}: expected a number from 1 to {max(TABLES)}, such as 4")
    return _read(table)


@cache
def _read(table: int) -> Published:
    file = _FOLDER / "printed" / f"table{table:02}.csv"
    header, *lines = csv.reader(file.read_text(encoding="utf-8").splitlines(), strict=True)
    unit, divisor = ("score", 1) if table == 6 else ("rate", 100)
    return Published(
        table=table,
        section=facts()[f"table{table}"]["section"],
        unit=unit,
        rows=tuple(row for row, *_ in lines),
        columns=tuple(header[1:]),
        # By Decimal, 14.14 percent are exactly the float 0.1414.
        cells=tuple(
            tuple(float(Decimal(cell) / divisor) if cell else None for cell in cells)
            for _, *cells in lines
        ),
    )


def printed(name: str) -> dict[tuple[str, str], float | None]:
    """{(row, column): value} of "table1" to "table18" and "figure5"; of other figures nothing.

    Figure 5 (section A.9), of ResNet-18 with defective bottom layers, prints no numbers; Table 14
    has them. It has more of them, too: the figure's scales begin at a defence rate of 90 %, which
    keep probabilities of 0.3 and more do not reach.
    """
    if name == "figure5":
        table, columns = published(14), {DEFENCE_RATE: "PGD16", TEST_ACCURACY: "Acc"}
        rows = [row for row in table.rows if re.fullmatch(r"0\.\d+-Bottom", row)]
        return {(row, c): table.value(row, of) for row in rows for c, of in columns.items()}
    if not name.startswith("table"):
        return {}
    table = published(int(name.removeprefix("table")))
    return {(row, c): table.value(row, c) for row in table.rows for c in table.columns}
