"""How figures are written: a dash where there is none, always the same number of digits."""

from __future__ import annotations

from .document import Code, Inline

NONE = "-"


def whole(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"


def fixed(value: float | None, digits: int = 1) -> str:
    return NONE if value is None else f"{value:,.{digits}f}"


def ratio(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}x"


def signed(value: float | None) -> str:
    # Adding zero turns a rounded -0.0 into 0.0.
    return NONE if value is None else f"{round(value, 1) + 0:+.1f}"


def gib(count: float | None) -> str:
    return NONE if count is None else f"{count / 2**30:.2f}"


def mib(count: float | None) -> str:
    return NONE if count is None else f"{count / 2**20:.1f}"


def share(part: float | None, of: float | None) -> float | None:
    """``part / of`` where both are known."""
    return part / of if part is not None and of else None


def span(values: list[float], digits: int = 0) -> str:
    """The least and the greatest, once if they look the same."""
    if not values:
        return NONE
    low, high = fixed(min(values), digits), fixed(max(values), digits)
    return low if low == high else f"{low} to {high}"


def listed(values) -> str:
    """Distinct words in the order of the alphabet, nothing left out but the missing ones."""
    found = sorted({str(v) for v in values if v is not None})
    return ", ".join(found) or NONE


def codes(values) -> Inline:
    """Distinct names, each as code."""
    found: list = []
    for value in sorted(set(values)):
        found += [", ", Code(value)] if found else [Code(value)]
    return tuple(found) or NONE
