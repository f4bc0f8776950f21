"""The step benchmark for the eye."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table

BASE = "eager"


def by_case(rows: Iterable[dict]) -> dict[str, list[dict]]:
    """Rows of one network, batch and work together, in their order."""
    found: dict[str, list[dict]] = {}
    for row in rows:
        found.setdefault(row["case"], []).append(row)
    return found


def tables(rows: Sequence[dict]) -> list[Table]:
    """One table a case: every contestant and variant, with its speed relative to one of them."""
    return [_table(case, found) for case, found in by_case(rows).items()]


def _table(case: str, rows: list[dict]) -> Table:
    # On a CPU contestants are compared with torch's defaults.
    first = rows[0]["contestant"]
    against = first if first == "contiguous" else BASE
    base = {r["defects"]: r["times"].get("median_us") for r in rows if r["contestant"] == against}
    view = Table(title=f"{case}, {rows[0]['machine']['device']}")
    for name in ("contestant", "defects"):
        view.add_column(name)
    for name in ("step ms", "p10-p90", "images/s", f"x {against}", "masks cost", "peak GiB"):
        view.add_column(name, justify="right")
    for row in rows:
        times, peak, mask = row["times"], row["peak_bytes"], row["mask_overhead_percent"]
        cells = ["failed", "", "", ""]
        if times:
            own, first = times["median_us"], base.get(row["defects"])
            cells = [
                f"{own / 1e3:.3f}",
                f"{times['p10_us'] / 1e3:.3f}-{times['p90_us'] / 1e3:.3f}",
                f"{row['images_per_s']:,.0f}",
                f"{first / own:.2f}" if first else "-",
            ]
        cells.append("-" if mask is None else f"{mask:+.1f} %")
        cells.append("-" if peak is None else f"{peak / 2**30:.2f}")
        view.add_row(row["contestant"], row["defects"], *cells)
    return view


def failures(rows: Iterable[dict]) -> list[str]:
    """What could not be measured, or computed something else."""
    return [
        f"{row['case']} {row['defects']}: {row['contestant']}: {problem}"
        for row in rows
        for problem in row["problems"]
    ]


def losses(rows: Iterable[dict]) -> list[str]:
    """A line for each case in which the best rival is faster than the best of ours."""
    lines = []
    for case, found in by_case(rows).items():
        for defects in dict.fromkeys(row["defects"] for row in found):
            timed = [r for r in found if r["defects"] == defects and r["times"]]
            ours = [r for r in timed if r["contestant"].startswith("fused")]
            rivals = [r for r in timed if not r["contestant"].startswith("fused")]
            if not ours or not rivals:
                continue
            best, rival = (min(g, key=lambda r: r["times"]["median_us"]) for g in (ours, rivals))
            ratio = best["times"]["median_us"] / rival["times"]["median_us"]
            if ratio > 1:
                lines.append(
                    f"{case} {defects}: {rival['contestant']} is {ratio:.2f}x as fast as "
                    f"{best['contestant']}"
                )
    return lines
