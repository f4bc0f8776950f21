"""The layer benchmark for the eye: a table, and every case in which ours is the slower one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table

from .traffic import PASSES

OURS = "ours"


def by_site(rows: Iterable[dict]) -> dict[str, dict[str, dict]]:
    """Site -> contestant -> row, in the order of the rows."""
    found: dict[str, dict[str, dict]] = {}
    for row in rows:
        found.setdefault(row["site"]["name"], {})[row["contestant"]] = row
    return found


def median(row: dict | None, cache: str, clock: str, step: str) -> float | None:
    """Microseconds of a call; None where it was not measured."""
    try:
        return row["times"][cache][clock][step]["median_us"]
    except (KeyError, TypeError):
        return None


def table(rows: Sequence[dict]) -> Table:
    """One line a site: the leader's times and how many times longer the others take.

    Ours leads; where it was not measured (on a CPU), the first contestant does. Times are those of
    cold caches, under graph replay where there is one.
    """
    sites = by_site(rows)
    names = list(dict.fromkeys(row["contestant"] for row in rows))
    leader = OURS if OURS in names else names[0]
    clock = "graph" if any("graph" in r.get("times", {}).get("cold", {}) for r in rows) else "wall"
    view = Table(title=f"cold caches, {clock} times of {leader}; others in multiples of it")
    view.add_column("site")
    for step in PASSES[:2]:
        view.add_column(f"{step}\nus", justify="right")
        view.add_column(f"{step}\n% of copy", justify="right")
    others = [name for name in names if name != leader]
    for name in others:
        view.add_column(f"{name}\nfwd, bwd, both", justify="right")
    for site, found in sites.items():
        cells = []
        for step in PASSES[:2]:
            own = median(found.get(leader), "cold", clock, step)
            cells.append("-" if own is None else f"{own:.1f}")
            share = None if own is None else found[leader]["times"]["cold"][clock][step]
            cells.append("-" if share is None else f"{share['copy_percent']:.0f}")
        for name in others:
            ratios = [_ratio(found, name, leader, "cold", clock, step) for step in PASSES]
            cells.append(" ".join("-" if r is None else f"{r:.2f}" for r in ratios))
        view.add_row(site, *cells)
    return view


def _ratio(found, name: str, base: str, cache: str, clock: str, step: str) -> float | None:
    other = median(found.get(name), cache, clock, step)
    own = median(found.get(base), cache, clock, step)
    return None if other is None or own is None else other / own


def losses(rows: Iterable[dict]) -> list[str]:
    """A line for each site and rival that is faster than ours in some way of measuring."""
    lines = []
    for site, found in by_site(rows).items():
        for name in found:
            cases = []
            for cache in ("cold", "hot"):
                for clock in ("graph", "wall"):
                    for step in PASSES:
                        ratio = _ratio(found, name, OURS, cache, clock, step)
                        if name != OURS and ratio is not None and ratio < 1:
                            cases.append(f"{cache} {clock} {step} {1 / ratio:.2f}x")
            if cases:
                lines.append(f"{site}: slower than {name}: {', '.join(cases)}")
    return lines


def failures(rows: Iterable[dict]) -> list[str]:
    """What could not be measured, or computed something else."""
    return [
        f"{row['site']['name']}: {row['contestant']}: {problem}"
        for row in rows
        for problem in row["problems"]
    ]
