"""From results of several seeds to one number with an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...defective.errors import UserError
from .experiment import Experiment, Measure, Place
from .graph.store import Store
from .judge import Estimate, combined, share


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
