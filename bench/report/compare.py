"""Rows side by side: who competes with whom, who is ours, which row is fit for a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..layers import table

REFERENCE = "reference"
FLOAT16_RIVAL = "eager-fp16"
"""Contestants with a number format of their own, which stand beside those of every other."""
STEP_ORDER = (
    "reference",
    "eager",
    "compile",
    "max-autotune",
    "eager-graph",
    "compile-graph",
    "max-autotune-graph",
    "fused",
    "fused-compile",
    "fused-graph",
    "fused-compile-graph",
)


def is_ours(contestant: str) -> bool:
    """Whether a contestant uses the fused kernels."""
    return contestant in (table.OURS, "triton") or contestant.startswith("fused")


def ordered(names: Iterable[str], order: Sequence[str] = STEP_ORDER) -> list[str]:
    """Distinct names: known ones in their order, then the others by the alphabet."""
    return sorted(set(names), key=lambda n: (order.index(n) if n in order else len(order), n))


def sound(row: dict) -> bool:
    """Measured, and without problems."""
    return bool(row["times"]) and not row["problems"]


def median(row: dict | None) -> float | None:
    """Microseconds, of a row with one time; None where it was not measured."""
    return row["times"].get("median_us") if row else None


def rate(row: dict, quantile: str = "median_us") -> float | None:
    """Images per second of a step row, at a quantile of its times."""
    if not row["times"]:
        return None
    if row["images_per_s"] is None:
        return row["batch_size"] * 1e6 / row["times"][quantile]
    return row["images_per_s"] * row["times"]["median_us"] / row["times"][quantile]


def same_run(row: dict, rival: dict) -> bool:
    """Whether one command measured both, side by side: clocks and temperatures drift between two.

    All rows of a run begin with the same head, its time included.
    """
    return all(row[key] == rival[key] for key in ("time", "machine"))


def speedup(row: dict | None, rival: dict | None) -> float | None:
    """How many times faster ``row`` is than ``rival``; None unless one run measured both."""
    own, other = median(row), median(rival)
    return other / own if own and other and same_run(row, rival) else None


def best(found: dict[str, dict], ours: bool = True, fit=sound) -> dict | None:
    """The fastest of our contestants' rows (or of the others') that are fit for it."""
    rows = [row for name, row in found.items() if is_ours(name) == ours and fit(row)]
    return min(rows, key=median, default=None)


def step_groups(rows: Iterable[dict]) -> dict[tuple, list[dict]]:
    """Step rows by (work, dtype, width, image size), the reference in every group of its sizes."""

    def sizes(row: dict) -> tuple:
        return row["width"], row["image_size"]

    rows = list(rows)
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        if row["contestant"] != REFERENCE:
            groups.setdefault((row["work"], row["dtype"], *sizes(row)), []).append(row)
    for row in rows:
        if row["contestant"] == REFERENCE:
            joined = [k for k in groups if k[0] == row["work"] and k[2:] == sizes(row)]
            for key in joined or [(row["work"], row["dtype"], *sizes(row))]:
                groups.setdefault(key, []).append(row)
    return dict(sorted(groups.items(), key=lambda item: _sortable(item[0])))


def _sortable(key: tuple) -> tuple:
    work = ("train", "evaluate", "pgd")
    return work.index(key[0]) if key[0] in work else len(work), *map(str, key)


def step_cases(rows: Iterable[dict]) -> dict[tuple, dict[str, dict]]:
    """(architecture, defects, batch) -> contestant -> row, of one group; smaller batches first."""
    found: dict[tuple, dict[str, dict]] = {}
    for row in rows:
        case = row["arch"], row["defects"], row["batch_size"]
        found.setdefault(case, {})[row["contestant"]] = row
    return dict(sorted(found.items(), key=lambda item: (item[0][0], _plain_first(item[0]))))


def _plain_first(case: tuple) -> tuple:
    return case[1] != "standard", case[1], case[2]


def layer_groups(rows: Iterable[dict]) -> dict[str, list[dict]]:
    """Layer rows by the number format of the run; eager float16 stands in every group.

    Of each site only the contestants that were measured in the same run as ours (or, without ours,
    as the site's last row).
    """
    rows = list(rows)
    own = [row for row in rows if row["contestant"] != FLOAT16_RIVAL]
    groups: dict[str, list[dict]] = {}
    for row in own:
        groups.setdefault(row["dtype"], []).append(row)
    for row in rows:
        if row["contestant"] == FLOAT16_RIVAL:
            name = row["site"]["name"]
            joined = [k for k, g in groups.items() if any(r["site"]["name"] == name for r in g)]
            for key in joined or [row["dtype"]]:
                groups.setdefault(key, []).append(row)
    return {key: _one_run_each(group) for key, group in sorted(groups.items())}


def _one_run_each(rows: list[dict]) -> list[dict]:
    anchors: dict[str, tuple] = {}
    for row in rows:
        site = row["site"]["name"]
        # Eager float16 may be there without a run of this group's format.
        rank = row["contestant"] == table.OURS, row["contestant"] != FLOAT16_RIVAL, row["time"]
        if site not in anchors or rank >= anchors[site][0]:
            anchors[site] = rank, row
    return [row for row in rows if same_run(row, anchors[row["site"]["name"]][1])]


def layer_clock(rows: Iterable[dict]) -> str:
    """Graph replay, where any row has it."""
    return "graph" if any("graph" in r["times"].get("cold", {}) for r in rows) else "wall"


def roofline_cases(rows: Iterable[dict]) -> dict[tuple, dict[str, dict]]:
    """(operator, kind, pass, shape, dtype, detail) -> backend -> row."""
    found: dict[tuple, dict[str, dict]] = {}
    for row in rows:
        case = row["operator"], row["kind"], row["pass"], tuple(row["shape"]), row["dtype"]
        found.setdefault((*case, row["detail"]), {})[row["backend"]] = row
    return found
