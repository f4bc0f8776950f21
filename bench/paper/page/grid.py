"""What stands in each place of a page's table: ours, the paper's, and how the two compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from ....train.datasets import DATASETS
from ..experiment import Definition, Made, Measure, Place
from ..graph.artefact import closure
from ..graph.plan import Failure
from ..judge import Estimate
from ..pictures.tradeoff import ACCURACY, DEFENCE
from ..published import Published, figure5
from ..setup import Setup


class State(Enum):
    """Of our number in a place."""

    MEASURED = "measured"
    FAILED = "failed"
    NO_IMAGE = "no image left"
    NOT_MADE = "not made"
    ABSENT = ""


@dataclass(frozen=True)
class Cell:
    """One place.

    Attributes:
        state, ours: our number, which is there if the state says so. paper: the paper's, or None.
        score: whether numbers are scores, which compare by ratio, and no fractions.
        comparable: whether the difference means anything.
    """

    state: State = State.ABSENT
    ours: Estimate | None = None
    paper: float | None = None
    score: bool = False
    comparable: bool = True

    @property
    def difference(self) -> float | None:
        """Ours less the paper's, as a fraction; None where there is none to speak of."""
        if not self._both or self.score:
            return None
        return self.ours.value - self.paper

    @property
    def ratio(self) -> float | None:
        """Ours over the paper's, of scores; None where there is none to speak of."""
        if not self._both or not self.score or not self.paper:
            return None
        return self.ours.value / self.paper

    @property
    def _both(self) -> bool:
        return self.comparable and self.ours is not None and self.paper is not None


@dataclass(frozen=True)
class Grid:
    """All places of a table or figure.

    Attributes:
        rows, columns: the paper's in its order, ours alone after those that they follow.
        cells: every place. quoted: citations, by rows whose paper's numbers are others' work.
        own_rows, own_columns: those that the paper has not.
        apart: why there are no differences; "" where there are.
        asides: measured places of ours beside the table, with rows of their own.
        axes: what rows and columns are, in a word each.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[Place, Cell]
    quoted: Mapping[str, str]
    own_rows: tuple[str, ...] = ()
    own_columns: tuple[str, ...] = ()
    apart: str = ""
    asides: Mapping[Place, Cell] = field(default_factory=dict)
    axes: tuple[str, str] = ("network", "attack")

    def of(self, *states: State) -> list[Place]:
        """Places of these states, in reading order."""
        return [place for place, cell in self.cells.items() if cell.state in states]

    @property
    def has_paper(self) -> bool:
        return any(cell.paper is not None for cell in self.cells.values())


def read_grid(made: Made, printed: Published | None, failures: Sequence[Failure]) -> Grid:
    """Every place of the paper's table and of ours."""
    paper, rows, columns, quoted = _paper(made, printed)
    experiment = made.experiment
    apart = why_apart(made.definition, made.setup)
    failed = {failure.artefact.key for failure in failures}
    all_rows, all_columns = merged(rows, experiment.rows), merged(columns, experiment.columns)
    scores = printed is not None and printed.unit == "score"
    cells = {}
    for row in all_rows:
        for column in all_columns:
            place = row, column
            ours = made.values.get(place)
            state = State.MEASURED
            if ours is None:
                state = _missing(made, experiment.cells.get(place, ()), failed)
            score = scores if ours is None else not ours.rate
            cells[place] = Cell(state, ours, paper.get(place), score, not apart)
    own_rows = own_columns = ()
    if paper:
        own_rows = tuple(row for row in all_rows if row not in rows)
        own_columns = tuple(column for column in all_columns if column not in columns)
    asides = {
        place: Cell(State.MEASURED, ours, score=not ours.rate)
        for place, ours in made.asides.items()
    }
    return Grid(
        all_rows,
        all_columns,
        cells,
        quoted,
        own_rows,
        own_columns,
        apart,
        asides,
        experiment.axes,
    )


def why_apart(definition: Definition, setup: Setup) -> str:
    """Why differences to the paper would mean nothing; "" where they mean something."""
    if not setup.budget.decides:
        return (
            f"No differences: the budget {setup.budget.name} trains small networks on other "
            "images, so that its numbers and the paper's are about different things."
        )
    # A folder may hold the paper's images; another named data set does not.
    others = [
        f"{data.dataset} in place of {role}"
        for role, data in setup.data.items()
        if role in definition.roles
        and (data.made_by is not None or (data.dataset in DATASETS and data.dataset != role))
    ]
    if not others:
        return ""
    return f"No differences: the images are other ones than the paper's ({', '.join(others)})."


def merged(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    """Both, each name once: ``first`` in its order, the others behind their predecessors."""
    found = list(dict.fromkeys(first))
    place = 0
    for name in second:
        if name in found:
            place = found.index(name) + 1
        else:
            found.insert(place, name)
            place += 1
    return tuple(found)


def _paper(
    made: Made, printed: Published | None
) -> tuple[dict[Place, float | None], tuple[str, ...], tuple[str, ...], dict[str, str]]:
    """({place: number}, rows, columns, quoted rows)."""
    if printed is not None:
        cells = {
            (row, column): value
            for row, values in zip(printed.rows, printed.cells, strict=True)
            for column, value in zip(printed.columns, values, strict=True)
        }
        return cells, printed.rows, printed.columns, printed.quoted
    if made.definition.name != "figure5":
        return {}, (), (), {}
    found = {}
    for point in figure5():
        row = f"{point.keep_probability}-Bottom"
        found[row, DEFENCE], found[row, ACCURACY] = point.defence_rate, point.accuracy
    return found, tuple(dict.fromkeys(row for row, _ in found)), (DEFENCE, ACCURACY), {}


def _missing(made: Made, measures: Sequence[Measure], failed: set[str]) -> State:
    """Why a number is not there."""
    if not measures:
        return State.ABSENT
    store = made.context.store
    left = [measure.result for measure in measures if not measure.result.is_done(store)]
    if not left:
        return State.NO_IMAGE
    if any(each.key in failed for each in closure(left)):
        return State.FAILED
    return State.NOT_MADE
