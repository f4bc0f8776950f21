"""The profile for the eye: families side by side, what they are made of, and what follows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rich.table import Table

from ..step.ways import WAYS
from .families import FAMILIES, GAPS

BASE = "eager"
BUSY_ENOUGH = 95.0
SLOWED = 1.1
"""The profiler's effect on a step is worth a sentence from this factor on."""
NAME_WIDTH = 70


def sound(rows: Iterable[dict]) -> list[dict]:
    """Rows that have figures."""
    return [row for row in rows if row["families"]]


def on_device(row: dict) -> bool:
    return row["machine"]["kind"] == "cuda"


def families(rows: Sequence[dict]) -> Table:
    """One line a family, milliseconds, share and launches of each contestant side by side."""
    rows = sound(rows)
    gpu = on_device(rows[0])
    what = "device time per step" if gpu else "operators' own time per profiled step"
    view = Table(title=what)
    view.add_column("family")
    for row in rows:
        for what in ("ms", "%", "launches" if gpu else "calls"):
            view.add_column(f"{row['contestant']}\n{what}", justify="right")
    present = {family for row in rows for family in row["families"]}
    for family in (family for family in FAMILIES if family in present):
        cells = []
        for row in rows:
            entry = row["families"].get(family, {"ms": 0.0, "percent": 0.0, "launches": 0})
            cells += [f"{entry['ms']:.3f}", f"{entry['percent']:.1f}"]
            cells.append("" if family == GAPS else f"{entry['launches']:.0f}")
        name = family if gpu or family != GAPS else "outside operators"
        view.add_row(name, *cells, end_section=family == GAPS)
    for name, show in _totals(gpu):
        view.add_row(name, *(cell for row in rows for cell in (show(row), "", "")))
    return view


def _totals(gpu: bool) -> list:
    rows = [
        ("step, ms", lambda row: f"{row['step_ms']:.3f}"),
        ("step, profiled, ms", lambda row: f"{row['profiled_step_ms']:.3f}"),
    ]
    if gpu:
        rows += [
            ("device busy, %", lambda row: f"{row['busy_percent']:.1f}"),
            ("device busy, profiled, %", lambda row: f"{row['busy_percent_profiled']:.1f}"),
            ("waits for the host, profiled, ms", lambda row: f"{row['host_wait_ms']:.3f}"),
            ("launches by the host", lambda row: f"{row['host_launches']:.0f}"),
        ]
    return rows


def largest(row: dict, count: int = 8) -> Table:
    """The kernels, or operators, of a contestant that take most of the time."""
    view = Table(title=f"{row['contestant']}: where most of the time goes")
    for name in ("name", "family"):
        view.add_column(name)
    for name in ("ms", "launches" if on_device(row) else "calls"):
        view.add_column(name, justify="right")
    for entry in row["top"][:count]:
        view.add_row(
            shortened(entry["name"]),
            entry["family"],
            f"{entry['ms']:.3f}",
            f"{entry['launches']:.0f}",
        )
    return view


def shortened(name: str, width: int = NAME_WIDTH) -> str:
    """A kernel's name without namespaces and parameters that say nothing, cut to ``width``."""
    name = re.sub(r"\(anonymous namespace\)::|at::native::|^void ", "", name)
    # Of an elementwise kernel the functor tells what it does; sizes and the rest do not.
    name = re.sub(r"std::array<.*$", "", name)
    return name if len(name) <= width else name[: width - 3] + "..."


def others(rows: Iterable[dict]) -> list[str]:
    """What no rule knows, so that a wrong or missing rule is seen."""
    return [
        f"{row['contestant']}: {entry['ms']:.3f} ms in {entry['launches']:.0f}: "
        f"{shortened(entry['name'], 100)}"
        for row in sound(rows)
        for entry in row["top_other"]
    ]


def sentences(rows: Sequence[dict]) -> list[str]:
    """What the figures say: the largest difference between two contestants, and who waits."""
    rows = sound(rows)
    lines = [_difference(rows)] if len(rows) > 1 else []
    for row in rows:
        if on_device(row) and row["busy_percent"] < BUSY_ENOUGH:
            lines.append(_idle(row))
    for row in rows:
        factor = row["profiled_step_ms"] / row["step_ms"]
        if factor > SLOWED:
            lines.append(
                f"{row['contestant']}: the profiler made a step {factor:.2f} times as long; gaps "
                "in the timeline are longer than they are without it."
            )
    return lines


def _idle(row: dict) -> str:
    name, way = row["contestant"], WAYS[row["contestant"]]
    text = f"{name}: the device runs something {row['busy_percent']:.0f} % of a step"
    waits = row["host_wait_ms"] > 0.5 * (row["profiled_step_ms"] - row["busy_ms"])
    rest = "mostly waits for the host" if waits else "mostly pauses between launched kernels"
    text += f" and for the rest {rest}"
    graphs = way.graph or way.compile == "max-autotune"
    if graphs or row["work"] != "train":
        return f"{text}."
    return (
        f"{text}; a CUDA graph (scotoma train --cuda-graph, the default) launches a step at once."
    )


def _difference(rows: list[dict]) -> str:
    """Between the base (eager, if it is there) and the fastest other one."""
    base = next((row for row in rows if row["contestant"] == BASE), rows[0])
    other = min((row for row in rows if row is not base), key=lambda row: row["step_ms"])
    apart = {
        family: _ms(other, family) - _ms(base, family)
        for family in FAMILIES
        if family in base["families"] or family in other["families"]
    }
    family = max(apart, key=lambda family: abs(apart[family]))
    word = "less" if apart[family] < 0 else "more"
    whole = other["step_ms"] - base["step_ms"]
    faster = "shorter" if whole < 0 else "longer"
    name = family if on_device(base) or family != GAPS else "time outside operators"
    return (
        f"{other['contestant']} against {base['contestant']}: the largest difference is in "
        f"{name}, {abs(apart[family]):.3f} ms {word} ({_ms(base, family):.3f} to "
        f"{_ms(other, family):.3f} ms); the whole step is {abs(whole):.3f} ms {faster} "
        f"({base['step_ms']:.3f} to {other['step_ms']:.3f} ms)."
    )


def _ms(row: dict, family: str) -> float:
    return row["families"].get(family, {}).get("ms", 0.0)
