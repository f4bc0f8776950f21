"""The paper's printed numbers as values: do they themselves support its claims?

The paper does not print how many images are behind a rate. Assumed are as many as it says were
drawn. A rate leaves some of them out (those that do not fool the source, or that the target gets
wrong anyway), so true intervals are somewhat wider than these.
"""

from __future__ import annotations

from ..estimates import Estimate, share
from ..experiment import Place
from ..published import figure5, published
from .ablations import FIGURE5

IMAGES = 5000
ALL = 10_000
_WHOLE_SET = (2, 3, 7)
"""Tables over the whole test set, which has 10,000 images."""
_SHUFFLED = (1, 13)
_SHUFFLED_IMAGES = 4000
"""As many as the release takes."""
_CW_IMAGES = 1000
_BOUNDARY_IMAGES = 500
_ACCURACIES = ("Acc", "Clean Acc", "Test Accuracy")
_TOLD = {
    12: {
        ("ResNet-18 + Adv. Training", "PGD (2,7,8)"): 0.500,
        ("0.5-Bottom + Adv. Training", "PGD (2,7,8)"): 0.516,
    }
}
"""Numbers of the text beside a table (section A.7), with the names of our rows."""
_OF_TWO = {2: ("Defective CNN", "Defective CNN {1,2}")}
"""{table: (its row, a row of ours that may be the same network)}: its numbers count for both."""


def own_values(name: str) -> dict[Place, Estimate]:
    """{place: estimate} of all numbers of "table1" to "table18" and "figure5", without quoted ones.

    Empty for other figures, which print no numbers.

    Raises:
        UserError: no such table.
    """
    if name == "figure5":
        return _figure5()
    if not name.startswith("table"):
        return {}
    table = int(name.removeprefix("table"))
    printed = published(table)
    found = {(r, c): printed.value(r, c) for r in printed.rows for c in printed.columns}
    found = {p: v for p, v in found.items() if v is not None and p[0] not in printed.quoted}
    found |= _TOLD.get(table, {})
    row, other = _OF_TWO.get(table, ("", ""))
    found |= {(other, c): value for (r, c), value in found.items() if r == row}
    if printed.unit == "score":
        return {p: Estimate(v, None, None, _BOUNDARY_IMAGES, (v,)) for p, v in found.items()}
    return {place: share(value, _images(table, place[1])) for place, value in found.items()}


def _figure5() -> dict[Place, Estimate]:
    found = {}
    for point in figure5():
        row = f"{point.keep_probability}-Bottom"
        found[row, FIGURE5[0]] = share(point.defence_rate, IMAGES)
        found[row, FIGURE5[1]] = share(point.accuracy, ALL)
    return found


def _images(table: int, column: str) -> int:
    if table in _WHOLE_SET or column in _ACCURACIES:
        return ALL
    if column.startswith("CW"):
        return _CW_IMAGES
    return _SHUFFLED_IMAGES if table in _SHUFFLED else IMAGES
