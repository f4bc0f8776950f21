"""A table or a figure: which numbers stand where, what they need, and those that are there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from ...defective.errors import UserError
from .artefacts import Context, Result
from .judge import Estimate, combined, share
from .setup import Setup
from .work import Artefact, Store

if TYPE_CHECKING:
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


def estimate(measures: Sequence[Measure], store: Store) -> Estimate | None:
    """The number of a cell; None where a result is not there, or counts no image.

    Raises:
        UserError: a damaged result.
    """
    found = []
    for measure in measures:
        if not measure.result.is_done(store):
            return None
        one = _read(measure, store)
        if one is None:
            return None
        found.append(one)
    return combined(found)


def read_values(experiment: Experiment, store: Store) -> dict[Place, Estimate]:
    """The table's numbers that are there. Raises UserError as :func:`estimate`."""
    return read_places(experiment.cells, store)


def read_places(places: Mapping[Place, Sequence[Measure]], store: Store) -> dict[Place, Estimate]:
    """The numbers that are there. Raises UserError as :func:`estimate`."""
    found = {place: estimate(several, store) for place, several in places.items()}
    return {place: value for place, value in found.items() if value is not None}


def _read(measure: Measure, store: Store) -> Estimate | None:
    cells = measure.result.read(store)
    try:
        results: Mapping[str, Any] = cells[measure.index]
        value = results[measure.quantity]
        if isinstance(value, Mapping):
            return _rate(value, results.get("per_draw"))
        if value is None:
            return None
        return _score(float(value), results, measure.quantity)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        path = measure.result.path(store)
        raise UserError(f"{path}: no result of a reproduction ({error!r}); remove it") from None


def _rate(rate: Mapping[str, Any], draws: Sequence[Mapping[str, Any]] | None) -> Estimate | None:
    if rate["rate"] is None:
        return None
    # Version 0.1.0 counted every draw of an image as an image at first; see mean_over_draws.
    n = int(draws[0]["n"]) if draws else int(rate["n"])
    return share(float(rate["rate"]), n)


def _score(value: float, results: Mapping[str, Any], quantity: str) -> Estimate:
    interval = results.get(f"{quantity}_interval")
    low, high = (None, None) if interval is None else map(float, interval)
    if not math.isfinite(value) or (interval is not None and not low <= value <= high):
        raise ValueError(f"{quantity} is {value!r} with the interval {interval!r}")
    return Estimate(value, low, high, int(results.get("n", 0)), (value,))
