"""Every operator against measured bandwidth and matrix ceilings."""

from __future__ import annotations

from collections.abc import Sequence

from ...roofline.table import flop_unit
from .. import compare
from ..document import Block, Code, Heading, Paragraph, Table
from ..figures import NONE, fixed
from ..plots import draw_roofline
from .album import Album


def blocks(rows: Sequence[dict], album: Album) -> list[Block]:
    """Args: rows: all rows of a device."""
    rows = [row for row in rows if row["benchmark"] == "roofline"]
    if not rows:
        return []
    ceilings = max(rows, key=lambda row: row["time"])["ceilings"]
    unit, factor = flop_unit(rows[0])
    matmul = ", ".join(
        f"{name} {factor * value:,.1f} {unit}"
        for name, value in ceilings["matmul_tflop_per_s"].items()
    )
    words = (
        f"Ceilings as measured: copies at {ceilings['copy_gb_per_s']:,.0f} GB/s; matrix "
        f"multiplication {matmul or 'not measured'}. Bytes and operations are the fewest that the "
        "operator needs; attained is the share of the lower of the two roofs there."
    )
    alt = "Operations per second against operations per byte, with the measured ceilings"
    found: list[Block] = [Heading(3, "Roofline"), Paragraph(words)]
    found.append(album.draw(draw_roofline, rows, alt, "roofline"))
    lines = []
    for case in compare.roofline_cases(rows).values():
        for name in sorted(case, key=lambda n: (not compare.is_ours(n), n)):
            row, times = case[name], case[name]["times"]
            rate = row["tflop_per_s"]
            intensity = row["flops"] / row["bytes"] if row["bytes"] else None
            lines.append(
                [
                    Code(row["operator"]),
                    ", ".join(word for word in (row["kind"], row["pass"], row["detail"]) if word),
                    "x".join(map(str, row["shape"])),
                    row["dtype"],
                    (Code(name), " (!)") if row["problems"] else Code(name),
                    fixed(times.get("median_us")),
                    f"{fixed(times['p10_us'])} to {fixed(times['p90_us'])}" if times else NONE,
                    fixed(intensity, 2),
                    fixed(row["gb_per_s"], 0),
                    fixed(None if rate is None else factor * rate, 2),
                    fixed(row["attained_percent"], 0),
                ]
            )
    names = ["operator", "form", "shape", "dtype", "backend", "median (µs)", "10 to 90 % (µs)"]
    names += ["FLOP/B", "GB/s", unit, "attained (%)"]
    return [*found, Table(names, lines, left=5)]
