"""The pictures of a page: those that follow from its numbers, and the definition's own."""

from __future__ import annotations

from dataclasses import replace

from ...report.document import Picture
from ..experiment import Made
from ..pictures import heatmap, noise_curve
from .grid import Grid, State
from .head import numbered, title

SOURCE = "scotoma paper"
"""What pictures of pages say of their origin, so that old ones can be told from a user's."""


def pictures(made: Made, grid: Grid) -> list[Picture]:
    """A heat map, or Figure 4's curves, and what the definition draws; each names its origin.

    Raises:
        UserError: a damaged file that a picture is made of.
    """
    name = made.definition.name
    found: list[Picture] = []
    if name == "figure4":
        found += _curves(made)
    elif name.startswith("table"):
        found += _heatmap(grid, name, title(made.definition))
    if made.definition.draw is not None:
        found += made.definition.draw(made)
    return [replace(each, source=f"{SOURCE} {name}") for each in found]


def _heatmap(grid: Grid, name: str, heading: str) -> list[Picture]:
    """Of rates in at least two columns and rows."""
    measured = grid.of(State.MEASURED)
    if not measured or any(cell.score for cell in grid.cells.values()):
        return []
    if min(len(grid.rows), len(grid.columns)) < 2:
        return []
    panels = [
        heatmap.Panel(
            "ours, in percent", {place: grid.cells[place].ours.value for place in measured}
        )
    ]
    missing = grid.of(State.FAILED, State.NO_IMAGE, State.NOT_MADE)
    panels[0].words.update({place: grid.cells[place].state.value for place in missing})
    if grid.has_paper:
        printed = {p: cell.paper for p, cell in grid.cells.items() if cell.paper is not None}
        panels.append(heatmap.Panel("the paper's, in percent", printed))
    differences = {
        place: cell.difference for place, cell in grid.cells.items() if cell.difference is not None
    }
    if differences:
        panels.append(heatmap.Panel("difference, in points", differences, signed=True))
    told = ", ".join(panel.title for panel in panels)
    alt = f"{numbered(name)} as heat maps: {told}; the numbers are those of the table above"
    figure = heatmap.draw(heading, grid.rows, grid.columns, panels, grid.axes)
    return [Picture(f"{name}-heatmap.png", alt, figure, wide=True)]


def _curves(made: Made) -> list[Picture]:
    figure = noise_curve.draw(made.experiment.rows, made.experiment.columns, made.values)
    if figure is None:
        return []
    alt = (
        f"accuracy under Gaussian noise of {', '.join(made.experiment.rows)} against twice the "
        "standard deviation; the numbers are those of the table above"
    )
    return [Picture(f"{made.definition.name}.png", alt, figure)]
