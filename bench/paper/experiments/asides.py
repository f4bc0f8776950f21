"""Numbers of ours beside a table: how often a source is fooled, and how accurate it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from ..artefacts import AdversarialImages, Model, Result
from ..experiment import Measure, Place

FOOLED, OF_SOURCE = "fooled: the source itself", "accuracy of the source"

Value = TypeVar("Value")


@dataclass(frozen=True)
class Beside:
    """A place that is not the table's own, as a key beside places."""

    row: str
    column: str


def fooled(column: str, target: Model, images: AdversarialImages) -> dict[Beside, Measure]:
    """The share that fool their source, of a set's images that it had right: all that P1 looks at.

    Args:
        target: any network that is evaluated on the set.
    """
    return {Beside(FOOLED, column): Measure(Result.transfer(target, images), "fooled_source")}


def of_source(column: str, source: Model) -> dict[Beside, Measure]:
    return {Beside(OF_SOURCE, column): Measure(Result.clean(source), "accuracy")}


def apart(found: Mapping[Place | Beside, Value]) -> tuple[dict[Place, Value], dict[Place, Value]]:
    """(what belongs to the table, what stands beside it)."""
    cells = {key: value for key, value in found.items() if not isinstance(key, Beside)}
    asides = {
        (key.row, key.column): value for key, value in found.items() if isinstance(key, Beside)
    }
    return cells, asides
