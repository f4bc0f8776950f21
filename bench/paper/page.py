"""The page of a table or figure: verdicts, our numbers beside the paper's, and how ours came about.

``index.html`` and ``index.md`` are for people, ``cells.json`` and ``cells.csv`` for programs.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...defective.errors import counted
from ...train.config import PictureFormat
from ...train.datasets import DATASETS
from ...train.pages import (
    Inline,
    Lines,
    Page,
    badge,
    clean,
    code,
    joined,
    soft,
    strong,
    write_files,
)
from . import pictures
from .claims import claims_of
from .estimates import LEVEL, Estimate
from .experiment import Definition, Made, Measure
from .judge import NOT_DECIDABLE, NOT_SUPPORTED, SUPPORTED, Place, Verdict
from .provenance import command, read_origin, tell_settings
from .published import printed, published
from .setup import Setup
from .work import closure

if TYPE_CHECKING:
    from .work import Failure, Store

FORMAT = 1
"""Of cells.json."""
COLUMNS = (
    *("row", "column", "state", "value", "low", "high", "n", "per_seed"),
    *("paper", "difference", "ratio", "quoted", "ours_only", "unit"),
)
"""Of cells.csv, and the keys of a cell in cells.json."""
MEASURED, FAILED, NO_IMAGE, NOT_MADE = "measured", "failed", "no image left", "not made"
"""States of our number in a place; None where there is none to be."""
BANNERS = {
    "smoke": "shows that the machinery works, on other data: decides nothing about the paper.",
    "small": "not the paper's scale: decides nothing about its numbers.",
    "quick": "not the paper's recipe.",
}
TONES = {SUPPORTED: "good", NOT_SUPPORTED: "bad", NOT_DECIDABLE: "open"}
FEW = 4
"""Columns up to which everything stands in one table."""
_LISTED = 6
"""Places that are named; more are counted."""

Cell = Mapping[str, Any]
"""One place: :data:`COLUMNS`. Rates and differences are fractions; what is not there is None."""


class Built(NamedTuple):
    """A page. record: every number, plain values."""

    document: Page
    record: dict[str, Any]


def build_page(
    made: Made,
    verdicts: Sequence[Verdict],
    failures: Sequence[Failure],
    commit: str | None,
    when: str,
) -> Built:
    """The page; equal for equal arguments, files and versions of matplotlib.

    Args:
        failures: of the whole command; those that do not concern this table are left out.
        commit: of the source tree. when: the page was made, for people.

    Raises:
        UserError: a damaged file of an artefact, which it names.
    """
    needed = {artefact.key for artefact in closure(made.experiment.wanted())}
    failures = [failure for failure in failures if failure.artefact.key in needed]
    grid = read_grid(made, failures)
    origin = read_origin(made)  # before pictures, which take time
    page = Page(title(made.definition))
    _head(page, made, verdicts)
    start = len(page.blocks)
    tell_numbers(page, grid, len(made.setup.seeds), failures)
    if len(page.blocks) > start:
        page.blocks.insert(start, "## Numbers")
    if drawn := pictures.of_page(made, grid, page.title):
        page.heading("Pictures")
        for each in drawn:
            page.picture(*each)
    elif len(page.blocks) == start:
        page.paragraph("Nothing that this page could show has been made.")
    files = (code("cells.json"), " and ", code("cells.csv"), " beside this page.")
    written = (
        ("Commit ", code(commit or "unknown"), f"; this page was written on {when}."),
        ("Every number, for programs: ", *files),
    )
    has_claims = bool(claims_of(made.definition.name))
    tell_settings(page, made, origin, written, command(made), has_claims)
    return Built(page, _record(made, grid, verdicts, failures, commit, when))


def write_page(page: Built, folder: Path, picture_format: PictureFormat = "png") -> list[Path]:
    """Write ``index.html``, ``index.md``, its ``images/``, ``cells.json`` and ``cells.csv``.

    Each is whole or not there. Pictures that an earlier page showed, and this one does not, go.

    Args:
        folder: is made if it is not there. picture_format: of further files of the pictures,
            beside the PNG files that the pages show.

    Returns:
        The files written, those to look at first.

    Raises:
        UserError: a file cannot be written.
    """
    page.document.folder = folder
    numbers = {
        folder / "cells.csv": _csv(page.record).encode(),
        folder / "cells.json": (json.dumps(page.record, indent=1) + "\n").encode(),
    }
    index = folder / "index.md", folder / "index.html"
    files = {**numbers, **page.document.files(*index, picture_format)}
    write_files(files)
    return list(reversed(files))


# What stands in each place.


@dataclass(frozen=True)
class Grid:
    """All places of a table or figure.

    Attributes:
        rows, columns: the paper's in its order, ours alone after those that they follow.
        cells: every place. asides: measured places of ours beside the table.
        quoted: citations, by rows whose paper's numbers are others' work.
        own_rows, own_columns: those that the paper has not.
        apart: why there are no differences; "" where there are.
        axes: what rows and columns are, in a word each.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[Place, Cell]
    asides: Mapping[Place, Cell]
    quoted: Mapping[str, str]
    own_rows: tuple[str, ...]
    own_columns: tuple[str, ...]
    apart: str
    axes: tuple[str, str]

    def of(self, state: str) -> list[Place]:
        """Its places, in reading order."""
        return [place for place, cell in self.cells.items() if cell["state"] == state]

    @property
    def has_paper(self) -> bool:
        return any(cell["paper"] is not None for cell in self.cells.values())

    @property
    def has_scores(self) -> bool:
        return any(cell["unit"] == "score" for cell in self.cells.values())


def read_grid(made: Made, failures: Sequence[Failure]) -> Grid:
    """Every place of the paper's table and of ours."""
    definition, experiment, store = made.definition, made.experiment, made.context.store
    table = None if definition.of_table is None else published(definition.of_table)
    quoted, unit = ({}, "rate") if table is None else (table.quoted, table.unit)
    paper = printed(definition.name)
    apart = why_apart(definition, made.setup)
    failed = {failure.artefact.key for failure in failures}
    names = [dict.fromkeys(place[i] for place in paper) for i in (0, 1)]
    rows, columns = map(merged, names, (experiment.rows, experiment.columns))
    own_rows, own_columns = (
        tuple(name for name in found if paper and name not in theirs)
        for found, theirs in zip((rows, columns), names, strict=True)
    )
    cells = {}
    for row, column in product(rows, columns):
        place = row, column
        ours, theirs = made.values.get(place), paper.get(place)
        cells[place] = cell = _cell(place, ours, unit)
        cell["paper"] = theirs
        cell["quoted"] = quoted.get(row) if theirs is not None else None
        cell["ours_only"] = row in own_rows or column in own_columns
        if ours is None:
            cell["state"] = _missing(store, experiment.cells.get(place, ()), failed)
        elif theirs is not None and not apart:
            if ours.rate:
                cell["difference"] = ours.value - theirs
            elif theirs:
                cell["ratio"] = ours.value / theirs
    asides = {place: _cell(place, ours) for place, ours in made.asides.items()}
    return Grid(rows, columns, cells, asides, quoted, own_rows, own_columns, apart, experiment.axes)


def _cell(place: Place, ours: Estimate | None, unit: str = "rate") -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(COLUMNS)
    found["row"], found["column"] = place
    found["unit"] = unit
    if ours is not None:
        found |= {name: getattr(ours, name) for name in ("value", "low", "high", "n")}
        found["per_seed"], found["state"] = list(ours.per_seed), MEASURED
        found["unit"] = "rate" if ours.rate else "score"
    return found


def _missing(store: Store, measures: Sequence[Measure], failed: set[str]) -> str | None:
    """Why a number is not there."""
    left = [measure.result for measure in measures if not measure.result.is_done(store)]
    if not left:
        return NO_IMAGE if measures else None
    return FAILED if any(each.key in failed for each in closure(left)) else NOT_MADE


def why_apart(definition: Definition, setup: Setup) -> str:
    """Why differences to the paper would mean nothing; "" where they mean something."""
    if not setup.budget.decides:
        return (
            f"No differences: the budget {setup.budget.name} trains small networks on other or "
            "fewer images, so that its numbers and the paper's are about different things."
        )
    others = other_images(definition, setup)
    told = f"No differences: the images are other ones than the paper's ({others})."
    return told if others else ""


def other_images(definition: Definition, setup: Setup) -> str:
    """Data sets in the place of the paper's, for people; "" where there are none."""
    # A folder may hold the paper's images; another named data set does not.
    return ", ".join(
        f"{data.dataset} in place of {role}"
        for role, data in setup.data.items()
        if role in definition.roles
        and (data.made_by is not None or (data.dataset in DATASETS and data.dataset != role))
    )


def merged(first: Iterable[str], second: Iterable[str]) -> tuple[str, ...]:
    """Both, each name once: ``first`` in its order, the others behind their predecessors."""
    found = list(dict.fromkeys(first))
    place = 0
    for name in second:
        if name not in found:
            found.insert(place, name)
        place = found.index(name) + 1
    return tuple(found)


# For programs.


def _record(
    made: Made,
    grid: Grid,
    verdicts: Sequence[Verdict],
    failures: Sequence[Failure],
    commit: str | None,
    when: str,
) -> dict[str, Any]:
    definition, setup = made.definition, made.setup
    aside = ("row", "column", "value", "low", "high", "n", "per_seed")
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
        "cells": list(grid.cells.values()),
        "asides": [{name: cell[name] for name in aside} for cell in grid.asides.values()],
        "verdicts": [asdict(each) | {"missing": list(each.missing)} for each in verdicts],
        "failures": [
            {"artefact": each.artefact.label, "key": each.artefact.key, "message": each.message}
            for each in failures
        ],
    }


def _csv(record: Mapping[str, Any]) -> str:
    """The cells, with a line of names; seeds are parted by spaces."""

    def plain(value: Any) -> Any:
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, list):
            return " ".join(map(repr, value))
        return clean(value) if isinstance(value, str) else value

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([plain(cell[name]) for name in COLUMNS] for cell in record["cells"])
    return buffer.getvalue()


# For people: what the budget can show, and a verdict on every claim.


def title(definition: Definition) -> str:
    """ "Table 4: transfer between five architectures on CIFAR-10"."""
    word, number = re.fullmatch(r"(\D*)(\d*)", definition.name).groups()
    return f"{word.capitalize()} {number}".rstrip() + f": {definition.title}"


def tally(verdicts: Sequence[Verdict]) -> str:
    """ "3 claims: 2 supported, 1 not supported." """
    if not verdicts:
        return "No claim of the paper rests on these numbers alone."
    found = [each.verdict for each in verdicts]
    counts = [f"{found.count(w)} {w}" for w in dict.fromkeys([*TONES, *found]) if w in found]
    return f"{counted(len(verdicts), 'claim')}: {', '.join(counts)}."


def _head(page: Page, made: Made, verdicts: Sequence[Verdict]) -> None:
    budget = made.setup.budget
    told = f"{budget.description[:1].upper()}{budget.description[1:]}."
    # Of smoke no more is to be said.
    told = "" if budget.name == "smoke" else told
    told = f"{BANNERS.get(budget.name, '')} {told}".strip()
    page.paragraph(strong(f"Budget {budget.name}:"), f" {told} {made.definition.where}")
    if verdicts:
        page.heading("Claims")
    page.paragraph(tally(verdicts))
    page.bullets(map(_verdict, verdicts))


def _verdict(found: Verdict) -> Inline:
    origin = "" if found.stated else "; its tables show it, its text does not say so"
    origin = "; the paper has no such runs" if found.ours else origin
    word = badge(found.verdict, TONES.get(found.verdict.rpartition(": ")[2], "open"))
    where = soft(f"(section {found.section}{origin})")
    return joined([(word, " ", strong(found.claim), " ", where), soft(found.evidence)])


# The tables: ours with the difference, the paper's below; N and intervals.


def tell_numbers(page: Page, grid: Grid, seeds: int, failures: Sequence[Failure] = ()) -> None:
    """The table, what is missing in it, what is quoted, and the intervals if they are apart."""
    whole = len(grid.columns) <= FEW
    if grid.cells:
        page.paragraph(_caption(grid, seeds, whole))
        page.table(_main_table(grid, whole))
        if grid.apart and grid.has_paper:
            page.paragraph(grid.apart)
        if not whole and grid.of(MEASURED):
            with page.folded("95 % intervals and N of each cell"):
                page.table(_interval_table(grid))
    if grid.asides:
        page.paragraph("Beside the table, ours only:")
        rows = {row: row for row, _ in grid.asides}
        page.table(_table(grid, grid.asides, rows, partial(_shown, whole=True), "quantity"))
    if failures:
        failed = grid.of(FAILED)
        what = counted(len(failed), "number") if failed else "a part of this page"
        page.paragraph(f"Failed, so that {what} could not be had:")
        page.bullets((strong(f.artefact.label), f": {f.message}") for f in failures)
    for state, reason in (
        (NO_IMAGE, "no image is left that the network has right and the attack fools with"),
        (NOT_MADE, "not made yet: the same command makes them"),
    ):
        if places := grid.of(state):
            told = ", ".join(f"{row} ({column})" for row, column in places[:_LISTED])
            more = f" and {len(places) - _LISTED} more" if len(places) > _LISTED else ""
            page.paragraph(f"{told}{more}: {reason}.")
    if grid.quoted:
        page.paragraph(
            "Quoted: numbers of other people's defences. The paper describes no training of them, "
            "so they count as taken from the work that it cites, or a later comparison:"
        )
        page.bullets((strong(row), f": {cited}") for row, cited in grid.quoted.items())
    if own := [*grid.own_rows, *grid.own_columns]:
        page.paragraph(f"Ours only, not in the paper: {'; '.join(own)}.")


def _caption(grid: Grid, seeds: int, whole: bool) -> str:
    score = grid.has_scores
    parts = ["Bold: ours" + (f", the mean over {seeds} seeds" if seeds > 1 else "")]
    if whole:
        parts.append("in brackets its 95 % interval" + ("" if score else ", in percent"))
    if grid.has_paper and not grid.apart:
        kind = "the ratio to the paper's" if score else "the difference to the paper's, in points"
        parts.append(f"beside the paper's, {kind}" if whole else f"beside it {kind}")
    if grid.has_paper and not whole:
        parts.append("below it the paper's")
    if whole:
        parts.append("N: images behind it")
    how = "for the choice of images, Wilson's for shares; networks trained anew vary more"
    if seeds > 1:
        how = "for the seeds (Student's) and the choice of images together"
    elif score:
        how = "for the choice of images; networks trained anew vary more"
    return f"{'; '.join(parts)}. Intervals are {how}."


def _main_table(grid: Grid, whole: bool) -> Lines:
    """Rows and columns of the paper. whole: everything stands in its cell."""

    def name(row: str) -> Inline:
        ours = any(grid.cells[row, column]["state"] for column in grid.columns)
        mark = "ours only" if row in grid.own_rows else ""
        if row in grid.quoted:
            mark = "the paper's quoted" if ours else "quoted"
        return joined([row, soft(mark)]) if mark else row

    rows = {row: name(row) for row in grid.rows}
    return _table(grid, grid.cells, rows, partial(_shown, whole=whole))


def _interval_table(grid: Grid) -> Lines:
    """The interval and N of each number of ours, and each seed's number."""

    def show(cell: Cell) -> Inline:
        there = cell["value"] is not None
        return joined([_interval(cell) or "no interval", *_counted(cell)]) if there else ""

    return _table(grid, grid.cells, {row: row for row, _ in grid.of(MEASURED)}, show)


def _table(
    grid: Grid,
    cells: Mapping[Place, Cell],
    rows: Mapping[str, Inline],
    show: Callable[[Cell], Inline],
    what: str = "",
) -> Lines:
    """Args: rows: {row: its name on the page}. what: rows are, if not what the grid's are."""
    there = [column for column in grid.columns if any(place[1] == column for place in cells)]
    marks = [column + " (ours only)" * (column in grid.own_columns) for column in there]
    lines = (
        [name, *(show(cells[row, c]) if (row, c) in cells else "" for c in there)]
        for row, name in rows.items()
    )
    return [f"{what or grid.axes[0]} / {grid.axes[1]}", *marks], lines


def _shown(cell: Cell, whole: bool) -> Inline:
    """Our number and the paper's. whole: with the interval, N, and each seed's number."""
    against = _against_paper(cell, unit=whole)
    lines: list[Inline] = []
    if cell["value"] is not None:
        beside = _interval(cell) if whole else against
        lines.append((strong(_written(cell, cell["value"])), f" {beside}" if beside else ""))
    elif cell["state"]:
        lines.append(cell["state"])
    if (paper := cell["paper"]) is not None:
        # Of scores as many digits as it prints.
        told = f"{paper:.1e}" if cell["unit"] == "score" else _written(cell, paper)
        theirs = f"paper {told}" + " (quoted)" * bool(cell["quoted"])
        lines.append(soft(theirs + (f", {against}" if whole and against else "")))
    return joined(lines + (_counted(cell) if whole else []))


def _counted(cell: Cell) -> list[Inline]:
    """N, and each seed's number where there are several."""
    lines: list[Inline] = [soft(f"N {cell['n']:,}")] if cell["n"] else []
    if len(cell["per_seed"] or ()) > 1:
        each = (_written(cell, value, sign="") for value in cell["per_seed"])
        lines.append(soft(f"per seed {', '.join(each)}"))
    return lines


def _interval(cell: Cell) -> str:
    """ "[75.51, 80.73]", in percent unless it is a score's; "" where there is none."""
    if cell["low"] is None or cell["high"] is None:
        return ""
    return f"[{', '.join(_written(cell, cell[end], sign='') for end in ('low', 'high'))}]"


def _against_paper(cell: Cell, unit: bool) -> str:
    """The difference ("-0.03"), of scores the ratio ("0.98x"); "" where there is none.

    Args:
        unit: write out "points" and "the paper's".
    """
    if cell["ratio"] is not None:
        return f"{cell['ratio']:.2f}x" + " the paper's" * unit
    if cell["difference"] is not None:
        # Adding zero turns a rounded -0.0 into 0.0.
        return f"{round(100 * cell['difference'], 2) + 0:+.2f}" + " points" * unit
    return ""


def _written(cell: Cell, value: float, sign: str = " %") -> str:
    """ "78.20 %", or of scores "7.12e-06"."""
    return f"{value:.2e}" if cell["unit"] == "score" else f"{100 * value:.2f}{sign}"
