"""A table or a figure: which numbers stand where, what they need, and those that are there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np

from ...defective.errors import UserError
from ...defective.robustness.rates import read_outcomes
from .artefacts import Context, Result
from .estimates import Estimate, Outcomes, combined, share
from .published import published
from .setup import Setup
from .work import Artefact, Store

TOLD = {("clean", "accuracy"), ("transfer", "defence"), ("white-box", "defence")}
"""(protocol, quantity): the rates whose outcomes results tell image by image."""


class Measure(NamedTuple):
    """One number of a result.

    ``quantity`` is its key in the cell ``index``: a rate as of
    :mod:`scotoma.defective.robustness.rates`, or a plain number.
    """

    result: Result
    quantity: str
    index: int = 0


Place = tuple[str, str]
"""(row, column)."""
Places = dict[Place, Measure]


class Content(NamedTuple):
    """What a table has for one seed, or a figure is drawn of; names as of :class:`Experiment`."""

    rows: Iterable[str] = ()
    columns: Iterable[str] = ()
    cells: Mapping[Place, Measure] = {}
    asides: Mapping[Place, Measure] = {}
    attached: Mapping[str, Artefact] = {}
    attacks: Mapping[str, str] = {}
    notes: Iterable[str] = ()


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
        axes: what rows and columns are, in a word each. attacks: {name for people: text}.
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
    attacks: Mapping[str, str] = field(default_factory=dict)

    def wanted(self) -> list[Artefact]:
        """The artefacts that have to be there in the end."""
        measures = [m for places in (self.cells, self.asides) for ms in places.values() for m in ms]
        wanted = [*(measure.result for measure in measures), *self.attached.values()]
        return list({artefact.key: artefact for artefact in wanted}.values())


@dataclass(frozen=True)
class Definition:
    """A table or a figure of the paper, or one of ours, as ``tables.yaml`` tells of it.

    Attributes:
        name: "table4", "figure5". title: for people. section: of the paper.
        roles: the paper's data sets that it needs. needs: in words: networks, attacks.
        fill: what it has for one seed of a setup. stylized: whether it needs stylised images.
        ours: whether the paper has no such thing; ``section`` is then the one that it extends.
        settings, notes, axes: as of :class:`Experiment`, lists of lists of lines.
    """

    name: str
    title: str
    section: str
    roles: Sequence[str]
    needs: str
    fill: Callable[[Setup, int], Content]
    stylized: bool = False
    ours: bool = False
    settings: Sequence[Any] = ()
    notes: Sequence[Any] = ()
    axes: Sequence[str] = ("network", "attack")

    @property
    def where(self) -> str:
        """ "Section 4.2 of the paper." """
        if self.ours:
            return f"Not in the paper: it extends section {self.section}."
        return f"Section {self.section} of the paper."

    @property
    def of_table(self) -> int | None:
        """The number whose printed values belong to it."""
        return int(self.name.removeprefix("table")) if self.name.startswith("table") else None

    def build(self, setup: Setup) -> Experiment:
        """The experiment, with a measure of each seed in each place."""
        seeds = [self.fill(setup, seed) for seed in setup.seeds]
        first = seeds[0]
        rows = first.rows if self.of_table is None else published(self.of_table).rows
        common, budget = setup.images == "common", setup.budget
        words = vars(budget) | {
            "boundary": budget.attack("boundary"),
            "carlini": min(budget.cw_samples, budget.samples),
            "judges": "all five sources classify" if common else "their source classifies",
            "sources": "both sources classify" if common else "its source classifies",
        }
        return Experiment(
            rows=tuple(dict.fromkeys([*rows, *first.rows])),  # the paper's may be of others
            columns=tuple(first.columns),
            cells={p: tuple(one.cells[p] for one in seeds) for p in first.cells},
            asides={p: tuple(one.asides[p] for one in seeds) for p in first.asides},
            attached=first.attached,
            settings=tuple(line.format(**words) for line in _flat(self.settings, common)),
            notes=(*_flat(self.notes, common), *first.notes),
            axes=tuple(self.axes),
            attacks=first.attacks,
        )


def _flat(lines: Sequence[Any], common: bool) -> Iterator[str]:
    for line in lines:
        if isinstance(line, list):
            yield from _flat(line, common)
        elif isinstance(line, str):
            yield line
        elif common:
            yield line["images common"]


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

    Args:
        patterns: those like "table4:ResNet-18*" are for that table only; one that no pattern is for
            keeps its rows.

    Raises:
        UserError: none matches.
    """
    own = f"{name}:"
    patterns = [p.removeprefix(own) for p in patterns if ":" not in p or p.startswith(own)]
    if not patterns:
        return experiment
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
    only = tuple(patterns)
    return replace(experiment, rows=rows, cells=cells, settings=settings, only=only, asides=asides)


def read_values(places: Mapping[Place, Sequence[Measure]], store: Store) -> dict[Place, Estimate]:
    """The numbers that are there. Raises UserError as :func:`estimate`."""
    found = {place: estimate(several, store) for place, several in places.items()}
    return {place: value for place, value in found.items() if value is not None}


def estimate(measures: Sequence[Measure], store: Store) -> Estimate | None:
    """The number of a cell; None where a result is not there, or counts no image.

    Raises:
        UserError: a damaged result.
    """
    found = []
    for measure in measures:
        one = _read(measure, store) if measure.result.is_done(store) else None
        if one is None:
            return None
        found.append(one)
    return combined(found)


def _outcomes(
    measure: Measure, results: Mapping[str, Any], found: Estimate, store: Store
) -> tuple[Outcomes, ...]:
    """Which images a rate counts, if the result and its choice of images tell.

    Raises:
        UserError, ValueError: a damaged file.
    """
    result, kept = measure.result, results.get("outcomes")
    if kept is None or (result.protocol, measure.quantity) not in TOLD:
        return ()
    if result.protocol == "clean":
        images = None
    elif result.sample.is_done(store):
        most = getattr(result.on, "most", None)
        images = result.sample.read(store)[0][:most].numpy()
    else:
        return ()
    count = found.n if images is None else len(images)
    right, among = (each.numpy() for each in read_outcomes(kept, count))
    if among.sum() != found.n or right.sum() != round(found.value * found.n):
        raise ValueError("outcomes are not those of the rate")
    # Of all images only now, when their number is known to be that of the outcomes.
    images = np.arange(count) if images is None else images
    return (Outcomes(images, right, among),)


def _read(measure: Measure, store: Store) -> Estimate | None:
    cells, quantity = measure.result.read(store), measure.quantity
    try:
        results: Mapping[str, Any] = cells[measure.index]
        value = results[quantity]
        if isinstance(value, Mapping):
            if value["rate"] is None:
                return None
            # Version 0.1.0 counted every draw of an image as an image at first.
            counted = results["per_draw"][0] if results.get("per_draw") else value
            found = share(float(value["rate"]), int(counted["n"]))
            return replace(found, outcomes=_outcomes(measure, results, found, store))
        if value is None:
            return None
        value, interval = float(value), results.get(f"{quantity}_interval")
        low, high = (None, None) if interval is None else map(float, interval)
        if not math.isfinite(value) or (interval is not None and not low <= value <= high):
            raise ValueError(f"{quantity} is {value!r} with the interval {interval!r}")
        return Estimate(value, low, high, int(results.get("n", 0)), (value,))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        path = measure.result.path(store)
        raise UserError(f"{path}: no result of a reproduction ({error!r}); remove it") from None
