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
from typing import Literal, NamedTuple

from ...defective.errors import UserError, nearest

_PRINTED = Path(__file__).parent / "printed"

# Number of a table: the section that has it, and what it shows.
TABLES: dict[int, tuple[str, str]] = {
    1: ("3.2", "ImageNet: shuffled patches and stylised images"),
    2: ("4.1.2", "CIFAR-10: transfer attacks, beside other defences"),
    3: ("4.1.2", "Tiny-ImageNet: transfer attacks, beside other defences"),
    4: ("4.1.2", "CIFAR-10: PGD between five architectures"),
    5: ("4.2", "CIFAR-10: ablations of ResNet-18, attacked from DenseNet-121"),
    6: ("A.1", "CIFAR-10: boundary attack"),
    7: ("A.3", "CIFAR-10: transfer attacks on WideResNet-32, beside other defences"),
    8: ("A.4", "CIFAR-10: PGD from ensembles of four architectures"),
    9: ("A.5", "MNIST: PGD between five architectures"),
    10: ("A.6", "CIFAR-10: gray-box PGD between defective ResNet-18"),
    11: ("A.6", "CIFAR-10: gray-box PGD between standard networks"),
    12: ("A.7", "CIFAR-10: white-box attacks on ResNet-18"),
    13: ("A.8", "ImageNet: shuffled patches and stylised images, five architectures"),
    14: ("A.10", "CIFAR-10: all variants of ResNet-18, attacked from DenseNet-121"),
    15: ("A.10", "CIFAR-10: all variants of ResNet-18, attacked from another ResNet-18"),
    16: ("A.10", "CIFAR-10: all variants of ResNet-18, attacked from ResNet-50"),
    17: ("A.10", "CIFAR-10: all variants of ResNet-18, attacked from SENet-18"),
    18: ("A.10", "CIFAR-10: all variants of ResNet-18, attacked from VGG-19"),
}


@dataclass(frozen=True)
class Published:
    """One table of the paper.

    Attributes:
        table: its number, 1 to 18.
        title: what it shows, in our words.
        section: the paper's section that has it, such as "4.1.2" or "A.10".
        unit: "rate", fractions of 1, or "score", the boundary attack's S(M) of Table 6, which is
            a median squared distance per value of the image.
        rows: names, each once, in the paper's order.
        columns: likewise.
        cells: one tuple for each row; None where the paper reports nothing.
    """

    table: int
    title: str
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
        at_row = self._index("row", row, self.rows)
        return self.cells[at_row][self._index("column", column, self.columns)]

    def _index(self, what: str, name: str, names: tuple[str, ...]) -> int:
        if name not in names:
            hint = nearest(str(name), names) or f" It has: {'; '.join(names)}."
            raise UserError(
                f"{what} {name!r}: Table {self.table} of the paper has none such.{hint}"
            )
        return names.index(name)


def published(table: int) -> Published:
    """A table of the paper, 1 to 18; read once.

    Raises:
        UserError: for a number that no table has; the message names the nearest.
    """
    if isinstance(table, bool) or not isinstance(table, int):
        raise UserError(f"table {table!r}: expected a number from 1 to {max(TABLES)}, such as 4")
    if table not in TABLES:
        closest = min(TABLES, key=lambda known: abs(known - table))
        raise UserError(
            f"table {table}: the paper has tables 1 to {max(TABLES)}; the nearest is {closest}"
        )
    return _read(table)


@cache
def quoted() -> dict[int, dict[str, str]]:
    """{table: {row of other people's defence: the work cited}}."""
    import yaml

    return yaml.safe_load((_PRINTED / "quoted.yaml").read_text(encoding="utf-8"))


@cache
def _read(table: int) -> Published:
    section, title = TABLES[table]
    file = _PRINTED / f"table{table:02}.csv"
    header, *lines = csv.reader(file.read_text(encoding="utf-8").splitlines(), strict=True)
    unit = "score" if table == 6 else "rate"
    return Published(
        table=table,
        title=title,
        section=section,
        unit=unit,
        rows=tuple(line[0] for line in lines),
        columns=tuple(header[1:]),
        cells=tuple(tuple(_number(cell, unit) for cell in line[1:]) for line in lines),
    )


def _number(cell: str, unit: str) -> float | None:
    # By Decimal, 14.14 percent are exactly the float 0.1414.
    if not cell:
        return None
    return float(Decimal(cell) / 100 if unit == "rate" else Decimal(cell))


class TradeOff(NamedTuple):
    """One point of Figure 5; all three are fractions."""

    keep_probability: float
    defence_rate: float
    accuracy: float


def figure5() -> tuple[TradeOff, ...]:
    """Figure 5 (section A.9): ResNet-18 with defective bottom layers, by falling keep probability.

    The figure prints no numbers; Table 14 has them. It has more of them, too: the figure's scales
    begin at a defence rate of 90 %, which keep probabilities of 0.3 and more do not reach.
    """
    table = published(14)
    bottom = (re.fullmatch(r"(0\.\d+)-Bottom", row) for row in table.rows)
    return tuple(
        TradeOff(float(row[1]), table.value(row[0], "PGD16"), table.value(row[0], "Acc"))
        for row in bottom
        if row
    )
