"""Rows and columns of the ablation tables, by what they are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ..published import published

ACCURACIES = ("Acc", "Test Accuracy")


@dataclass(frozen=True)
class Table:
    """Rows and columns of an ablation table, as the paper names them."""

    number: int

    @property
    def section(self) -> str:
        return published(self.number).section

    @property
    def rows(self) -> tuple[str, ...]:
        return published(self.number).rows

    @property
    def standard(self) -> str:
        """The network without defects, whose row comes first."""
        return self.rows[0]

    @cached_property
    def bottom(self) -> tuple[str, ...]:
        """p-Bottom of falling p; Table 5 has them not in order."""
        found = [row for row in self.rows if row.endswith("-Bottom")]
        return tuple(sorted(found, key=keep, reverse=True))

    @property
    def accuracy(self) -> tuple[str]:
        return tuple(c for c in published(self.number).columns if c in ACCURACIES)

    def attacks(self, *kinds: str) -> tuple[str, ...]:
        """Columns of attacks, of those kinds only if there are any given."""
        names = (c for c in published(self.number).columns if c not in ACCURACIES)
        return tuple(c for c in names if c.startswith(kinds or ""))

    def with_ending(self, ending: str) -> tuple[str, ...]:
        """Variants of one network: rows like "0.5-BottomDC"."""
        return tuple(row for row in self.rows if row.endswith(ending) and "," not in row)


def keep(row: str) -> float:
    """The keep probability of a row such as "0.5-BottomDC"."""
    return float(row.partition("-")[0])
