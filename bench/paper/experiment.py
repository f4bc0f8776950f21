"""A table or a figure before it is made: which numbers stand where, and what they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ...defective.errors import UserError
from .graph.artefact import Artefact
from .graph.context import Context
from .graph.results import Result
from .setup import Setup

if TYPE_CHECKING:
    from .judge import Estimate
    from .pictures import Picture


@dataclass(frozen=True)
class Measure:
    """One number of a result.

    Attributes:
        result: where it is. quantity: its key there: a rate as of
            :mod:`scotoma.defective.robustness.rates`, or a plain number. index: of the cell.
    """

    result: Result
    quantity: str
    index: int = 0


Place = tuple[str, str]
"""(row, column)."""


@dataclass(frozen=True)
class Experiment:
    """What :class:`Definition.build` returns for one setup.

    Attributes:
        rows, columns: in order. cells: {(row, column): a measure for each seed}; places that are
            missing stay empty (or have the paper's quoted value).
        attached: {name: artefact} that pictures are made of, beside the cells' results.
        settings: lines for people about how the numbers came about.
        notes: where this differs from the paper, for people. only: patterns that rows were chosen
            by (:func:`only_rows`); empty for all.
        asides: as ``cells``, of numbers that the paper's table has not, with rows of their own.
        axes: what rows and columns are, in a word each; accuracies beside attacks need none.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[Place, tuple[Measure, ...]]
    attached: Mapping[str, Artefact] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    asides: Mapping[Place, tuple[Measure, ...]] = field(default_factory=dict)
    axes: tuple[str, str] = ("network", "attack")

    def wanted(self) -> list[Artefact]:
        """The artefacts that have to be there in the end."""
        measures = [*self.cells.values(), *self.asides.values()]
        measured = [measure.result for several in measures for measure in several]
        return list({a.key: a for a in [*measured, *self.attached.values()]}.values())


@dataclass(frozen=True)
class Definition:
    """A table or a figure of the paper.

    Attributes:
        name: "table4", "figure5". title: for people. section: of the paper.
        roles: the paper's data sets that it needs. needs: in words: networks, attacks.
        build: from a setup to the experiment. draw: its pictures beside those that every page has,
            or None. of_table: the number whose printed values belong to it, or None.
        stylized: whether it needs stylised images.
    """

    name: str
    title: str
    section: str
    roles: tuple[str, ...]
    needs: str
    build: Callable[[Setup], Experiment]
    of_table: int | None = None
    stylized: bool = False
    draw: Callable[[Made], list[Picture]] | None = None


@dataclass(frozen=True)
class Made:
    """A table or figure whose artefacts are there, or as many of them as could be made.

    Attributes:
        values: the numbers that are there. context: for its store, data and networks.
        asides: those of the experiment's asides that are there.
    """

    definition: Definition
    setup: Setup
    experiment: Experiment
    values: Mapping[Place, Estimate]
    context: Context
    asides: Mapping[Place, Estimate] = field(default_factory=dict)


def only_rows(experiment: Experiment, patterns: Sequence[str], name: str) -> Experiment:
    """The experiment with the rows that match one of ``patterns``, as file names do.

    Raises:
        UserError: none matches.
    """
    rows = tuple(r for r in experiment.rows if any(fnmatchcase(r, p) for p in patterns))
    if not rows:
        there = ", ".join(experiment.rows) or "none, for it is a picture"
        raise UserError(f"--rows {' '.join(patterns)}: no row of {name} matches; it has {there}")
    cells = {place: several for place, several in experiment.cells.items() if place[0] in rows}
    # Of what stands beside the table, all that the chosen rows' results tell anyway.
    there = {m.result.key for several in cells.values() for m in several}
    asides = {
        place: several
        for place, several in experiment.asides.items()
        if all(m.result.key in there for m in several)
    }
    line = f"Made were only the rows that match {' or '.join(patterns)}."
    settings = (*experiment.settings, line)
    return replace(
        experiment,
        rows=rows,
        cells=cells,
        settings=settings,
        only=tuple(patterns),
        asides=asides,
    )
