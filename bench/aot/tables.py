"""The report as tables: one line for each kernel, or for each configuration."""

from __future__ import annotations

from itertools import groupby

from rich.table import Table

from .budget import Budget
from .measure import Measurement


def summary(measurements: list[Measurement]) -> Table:
    """For each kernel and architecture, the span over all configurations."""
    table = Table(title="kernels, over all configurations", title_justify="left")
    _columns(table, "kernel", "arch", "configurations", "registers", "occupancy", "shared",
             "instructions", "spills", "narrow", "most registers in", left=(0, 1, 9))  # fmt: skip
    ordered = sorted(measurements, key=lambda m: (m.kernel, m.arch))
    for (kernel, arch), group in groupby(ordered, key=lambda m: (m.kernel, m.arch)):
        ms = list(group)
        table.add_row(
            kernel,
            f"sm_{arch}",
            str(len(ms)),
            _span([m.code.registers for m in ms]),
            _span([round(100 * m.occupancy) for m in ms]) + "%",
            _span([m.shared for m in ms]),
            _span([m.code.instructions for m in ms]),
            str(sum(m.code.spilled > 0 for m in ms)),
            str(sum(bool(m.narrow) for m in ms)),
            max(ms, key=lambda m: m.code.registers).case,
        )
    return table


def details(measurements: list[Measurement], budget: Budget | None) -> list[Table]:
    """One table for each kernel and architecture, one line for each configuration.

    Changes against the budget stand in brackets.
    """
    tables = []
    ordered = sorted(measurements, key=lambda m: (m.kernel, m.arch))  # stable: cases keep order
    for (kernel, arch), group in groupby(ordered, key=lambda m: (m.kernel, m.arch)):
        table = Table(title=f"{kernel}, sm_{arch}", title_justify="left")
        _columns(table, "configuration", "registers", "occupancy", "shared", "instructions",
                 "loads", "stores", "activations", "LDS/STS", "barriers", "shuffles",
                 "conversions", "matrix", "spilled", left=(0, 5, 6, 7, 12))  # fmt: skip
        for m in group:
            allowed = (budget.entry(m) if budget else None) or {}
            table.add_row(
                m.case,
                _changed(m.code.registers, allowed.get("registers")),
                f"{m.occupancy:.0%}",
                _changed(m.shared, allowed.get("shared")),
                _changed(m.code.instructions, allowed.get("instructions")),
                _widths(m.code.loads),
                _widths(m.code.stores) + (f" bulk x{m.code.bulk}" if m.code.bulk else ""),
                "-" if m.narrowest is None else f"{m.narrowest} B" + "!" * bool(m.narrow),
                str(m.code.shared_accesses),
                str(m.code.barriers),
                str(m.code.shuffles),
                str(m.conversions),
                " ".join(f"{name} x{n}" for name, n in m.code.matrix.items()) or "-",
                str(m.code.spilled),
            )
        tables.append(table)
    return tables


EXPLANATION = (
    "loads and stores: bytes of one thread's access to global memory x instructions; activations: "
    "the narrowest access to one, '!' where its channels allow more; conversions: changes of "
    "layout in Triton's code; occupancy: resident threads of the most that fit; in brackets: "
    "change against the budget"
)


def _columns(table: Table, *names: str, left: tuple[int, ...]) -> None:
    for i, name in enumerate(names):
        table.add_column(name, justify="left" if i in left else "right", overflow="fold")


def _span(values: list[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def _changed(value: int, allowed: int | None) -> str:
    difference = 0 if allowed is None else value - allowed
    return f"{value:,}" + (f" ({difference:+,})" if difference else "")


def _widths(counts: dict[int, int]) -> str:
    return " ".join(f"{width}x{n}" for width, n in sorted(counts.items(), reverse=True)) or "-"
