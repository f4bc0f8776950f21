"""Gray-box attacks between defective networks: Table 10, and beside it Table 11."""

from __future__ import annotations

from .building import ALIKE, POINTS
from .claim import Claim, Comparison, Elsewhere, Side

KEPT = ("0.5-Bottom", "0.3-Bottom")


def stronger(table: str) -> Claim:
    """A claim of Tables 10 and 11, as one of ``table``: it needs the other one's values too."""

    def side(name: str, row: str, column: str) -> Side:
        return (row, column) if name == table else Elsewhere(name, row, column)

    standard = side("table11", "ResNet-18", "ResNet-18")
    return Claim(
        "Against a source of its own kind, a defective network (Table 10) defends better than a "
        "standard one (Table 11).",
        "A.6",
        tuple(
            Comparison(side("table10", f"{name}{other}", name), standard)
            for name in KEPT
            for other in ("", "DIF")
        ),
    )


TABLE10 = (
    Claim(
        "Against a defective source of the same keep probability it makes little difference "
        f"whether the target has the source's masks or others (less than {100 * POINTS:g} points).",
        "A.6",
        tuple(Comparison((f"{name}DIF", name), (name, name), ALIKE) for name in KEPT),
    ),
    stronger("table10"),
)

CLAIMS = {"table10": TABLE10}
