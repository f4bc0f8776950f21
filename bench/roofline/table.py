"""The roofline for the eye: rows by their distance from the roof, and what failed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table


def by_distance(rows: Iterable[dict]) -> list[dict]:
    """Rows that were timed, those farthest below their roof first."""
    timed = [row for row in rows if row["attained_percent"] is not None]
    return sorted(timed, key=lambda row: row["attained_percent"])


def flop_unit(row: dict) -> tuple[str, float]:
    """The unit in which rates of a row's machine read well, and how many there are in a TFLOP/s."""
    return ("GFLOP/s", 1e3) if row["machine"]["kind"] == "cpu" else ("TFLOP/s", 1.0)


def roof_of(row: dict) -> str:
    """Which of the two roofs is the lower one at a row's intensity."""
    ceilings = row["ceilings"]
    memory = row["bytes"] / (ceilings["copy_gb_per_s"] * 1e9)
    arithmetic = row["flops"] / (ceilings["matmul_tflop_per_s"][row["arithmetic"]] * 1e12)
    return "memory" if memory >= arithmetic else row["arithmetic"]


def table(rows: Sequence[dict]) -> Table:
    """One line a row: its time, its rates, and what percentage of its roof that is.

    The last column is the time above that of the roof: what a perfect kernel would save.
    """
    unit, factor = flop_unit(rows[0])
    view = Table(title="farthest below the roof first; cold caches")
    for heading in ("operator", "pass", "backend", "shape"):
        view.add_column(heading)
    for heading in ("us", "GB/s", unit, "roof", "% of roof", "us above it"):
        view.add_column(heading, justify="right")
    for row in by_distance(rows):
        median, percent = row["times"]["median_us"], row["attained_percent"]
        view.add_row(
            " ".join(text for text in (row["operator"], row["kind"]) if text),
            row["pass"],
            row["backend"],
            "x".join(map(str, row["shape"])) + (f" {row['detail']}" if row["detail"] else ""),
            f"{median:.1f}",
            f"{row['gb_per_s']:.0f}",
            f"{factor * row['tflop_per_s']:,.2f}",
            roof_of(row),
            f"{percent:.0f}",
            f"{median * (1 - percent / 100):.1f}",
        )
    return view


def failures(rows: Iterable[dict]) -> list[str]:
    """What could not be measured, or computed something else."""
    return [f"{label(row)}: {problem}" for row in rows for problem in row["problems"]]


def label(row: dict) -> str:
    """A row's case in words."""
    shape = "x".join(map(str, row["shape"]))
    words = row["operator"], row["kind"], shape, row["detail"], row["pass"], row["backend"]
    return " ".join(word for word in words if word)
