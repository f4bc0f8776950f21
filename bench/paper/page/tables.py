"""The tables of a page: ours with the difference, the paper's below; N and intervals."""

from __future__ import annotations

from collections.abc import Sequence

from ...report.document import (
    Block,
    Break,
    Bullets,
    Details,
    Inline,
    Paragraph,
    Soft,
    Span,
    Strong,
    Table,
)
from ..experiment import Place
from ..graph.plan import Failure
from . import wording
from .grid import Cell, Grid, State

FEW = 4
"""Columns up to which everything stands in one table."""


def table_blocks(grid: Grid, seeds: int, failures: Sequence[Failure]) -> list[Block]:
    """The table, what is missing in it, what is quoted, and the intervals if they are apart.

    Args:
        seeds: how many. failures: those that concern this table.
    """
    blocks: list[Block] = []
    if grid.rows and grid.columns:
        whole = len(grid.columns) <= FEW
        blocks += [Paragraph(caption(grid, seeds, whole)), main_table(grid, whole)]
        blocks += [Paragraph(grid.apart)] if grid.apart and grid.has_paper else []
        if not whole and grid.of(State.MEASURED):
            blocks.append(Details("95 % intervals and N of each cell", [interval_table(grid)]))
    if grid.asides:
        blocks += [Paragraph("Beside the table, ours only:"), aside_table(grid)]
    return blocks + missing_blocks(grid, failures) + quoted_blocks(grid)


def caption(grid: Grid, seeds: int, whole: bool) -> str:
    score = any(cell.score for cell in grid.cells.values())
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
    how = (
        "for the seeds (Student's) and the choice of images together"
        if seeds > 1
        else "for the choice of images, Wilson's for shares; networks trained anew vary more"
    )
    if score and seeds == 1:
        how = "for the choice of images; networks trained anew vary more"
    return f"{'; '.join(parts)}. Intervals are {how}."


def main_table(grid: Grid, whole: bool) -> Table:
    """Rows and columns of the paper, with everything in a cell if ``whole``."""
    fill = _whole_cell if whole else _short_cell
    rows = [
        [
            _row_name(grid, row),
            *(fill(grid.cells[row, column], row in grid.quoted) for column in grid.columns),
        ]
        for row in grid.rows
    ]
    return Table(_names(grid), rows, pinned=True)


def interval_table(grid: Grid) -> Table:
    """The interval and N of each number of ours, and each seed's number."""
    rows = []
    for row in grid.rows:
        cells = [grid.cells[row, column] for column in grid.columns]
        if any(cell.ours is not None for cell in cells):
            rows.append([row, *map(_interval_cell, cells)])
    return Table(_names(grid), rows, pinned=True)


def aside_table(grid: Grid) -> Table:
    """What the paper's table has not, in the table's own columns: values with intervals and N."""
    rows = list(dict.fromkeys(row for row, _ in grid.asides))
    columns = [c for c in grid.columns if any(place[1] == c for place in grid.asides)]
    blank = Cell()
    cells = [
        [row, *(_aside_cell(grid.asides.get((row, column), blank)) for column in columns)]
        for row in rows
    ]
    return Table([f"quantity / {grid.axes[1]}", *columns], cells, pinned=True)


def missing_blocks(grid: Grid, failures: Sequence[Failure]) -> list[Block]:
    """Numbers that are not there, and why."""
    blocks: list[Block] = []
    failed = grid.of(State.FAILED)
    if failures:
        what = wording.count(len(failed), "number") if failed else "a part of this page"
        blocks.append(Paragraph(f"Failed, so that {what} could not be had:"))
        blocks.append(Bullets([(Strong(f.artefact.label), f": {f.message}") for f in failures]))
    for state, reason in (
        (State.NO_IMAGE, "no image is left that the network has right and the attack fools with"),
        (State.NOT_MADE, "not made yet: the same command makes them"),
    ):
        places = grid.of(state)
        if places:
            blocks.append(Paragraph(f"{_listed(places)}: {reason}."))
    return blocks


def quoted_blocks(grid: Grid) -> list[Block]:
    """Whose numbers the paper quotes, and which rows are ours alone."""
    blocks: list[Block] = []
    if grid.quoted:
        blocks.append(
            Paragraph(
                "Quoted: numbers of other people's defences. The paper describes no training of "
                "them, so they count as taken from the work that it cites, or a later comparison:"
            )
        )
        blocks.append(Bullets([(Strong(row), f": {cited}") for row, cited in grid.quoted.items()]))
    own = [*grid.own_rows, *grid.own_columns]
    if own:
        blocks.append(Paragraph(f"Ours only, not in the paper: {'; '.join(own)}."))
    return blocks


def _names(grid: Grid) -> list[str]:
    return [
        " / ".join(grid.axes),
        *(f"{name} (ours only)" if name in grid.own_columns else name for name in grid.columns),
    ]


def _row_name(grid: Grid, row: str) -> Inline:
    ours = any(grid.cells[row, column].state is not State.ABSENT for column in grid.columns)
    mark = "ours only" if row in grid.own_rows else ""
    if row in grid.quoted:
        mark = "the paper's quoted" if ours else "quoted"
    return (row, Break(), Soft(mark)) if mark else row


def _short_cell(cell: Cell, quoted: bool) -> Inline:
    """Ours and the difference; below, the paper's."""
    lines: list[list[Span]] = []
    if cell.ours is not None:
        against = wording.against_paper(cell)
        lines.append([Strong(wording.ours(cell)), *([f" {against}"] if against else [])])
    elif cell.state is not State.ABSENT:
        lines.append([cell.state.value])
    if cell.paper is not None:
        lines.append([Soft(_paper(cell, quoted))])
    return _joined(lines)


def _whole_cell(cell: Cell, quoted: bool) -> Inline:
    """Ours with its interval; the paper's and the difference; N."""
    lines: list[list[Span]] = []
    if cell.ours is not None:
        between = wording.interval(cell.ours, cell.score)
        lines.append([Strong(wording.ours(cell)), *([f" {between}"] if between else [])])
    elif cell.state is not State.ABSENT:
        lines.append([cell.state.value])
    if cell.paper is not None:
        against = wording.against_paper(cell, unit=True)
        lines.append([Soft(_paper(cell, quoted) + (f", {against}" if against else ""))])
    return _joined(lines + _counted(cell))


def _aside_cell(cell: Cell) -> Inline:
    """Ours, its interval and N below each other, for as many columns as the widest table has."""
    if cell.ours is None:
        return ""
    between = wording.interval(cell.ours, cell.score)
    lines: list[list[Span]] = [[Strong(wording.ours(cell))]]
    return _joined(lines + ([[Soft(between)]] if between else []) + _counted(cell))


def _interval_cell(cell: Cell) -> Inline:
    if cell.ours is None:
        return ""
    between = wording.interval(cell.ours, cell.score) or "no interval"
    return _joined([[between], *_counted(cell)])


def _counted(cell: Cell) -> list[list[Span]]:
    """N, and each seed's number where there are several."""
    if cell.ours is None:
        return []
    lines: list[list[Span]] = [[Soft(f"N {cell.ours.n:,}")]] if cell.ours.n else []
    if len(cell.ours.per_seed) > 1:
        write = wording.score if cell.score else wording.bare
        lines.append([Soft(f"per seed {', '.join(map(write, cell.ours.per_seed))}")])
    return lines


def _paper(cell: Cell, quoted: bool) -> str:
    return f"paper {wording.paper(cell)}" + (" (quoted)" if quoted else "")


def _joined(lines: Sequence[Sequence[Span]]) -> Inline:
    found: list[Span] = []
    for line in lines:
        found += [*([Break()] if found else []), *line]
    return tuple(found) if found else ""


def _listed(places: Sequence[Place], most: int = 6) -> str:
    told = ", ".join(f"{row} ({column})" for row, column in places[:most])
    return told + (f" and {len(places) - most} more" if len(places) > most else "")
