"""Products of settings, of which a fast test takes a part and the slow ones the rest."""

from itertools import combinations, product

import pytest


def pairwise(names, *axes, ids=None):
    """``parametrize`` over a whole product: what is not needed for all pairs of values is slow.

    Args:
        names: of the arguments, separated by commas. axes: for each argument its values.
        ids: for each argument a function from a value to its name in the test's id, or None.
    """
    values = [list(axis) for axis in axes]
    ids = ids or [None] * len(values)
    points = list(product(*(range(len(axis)) for axis in values)))
    fast = set(_cover(points))

    def name(axis, index):
        value = values[axis][index]
        if ids[axis]:
            return ids[axis](value)
        return value if isinstance(value, str) else str(value).rpartition(".")[2]

    return pytest.mark.parametrize(
        names,
        [
            pytest.param(
                *(values[axis][index] for axis, index in enumerate(point)),
                marks=[] if point in fast else [pytest.mark.slow],
                id="-".join(name(axis, index) for axis, index in enumerate(point)),
            )
            for point in points
        ],
    )


def slow(*values):
    """A point of ``parametrize`` that only the slow tests visit."""
    return pytest.param(*values, marks=pytest.mark.slow)


def _cover(points):
    """Points, greedily, until every two values of two axes have met."""
    axes = list(combinations(range(len(points[0])), min(2, len(points[0]))))

    def pairs(point):
        return {(which, tuple(point[axis] for axis in which)) for which in axes}

    waiting = set().union(*map(pairs, points))
    while waiting:
        best = max(points, key=lambda point: len(pairs(point) & waiting))
        waiting -= pairs(best)
        yield best
