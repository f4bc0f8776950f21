"""Where a step's time goes, by families of kernels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from ....train.config import PictureFormat
from .. import compare
from ..document import Block, Heading, Inline, Link, Paragraph, Strong, Table
from ..figures import NONE, fixed
from ..plots import draw_families
from .album import Album

TIMELINES = tuple(f"timeline.{format}" for format in get_args(PictureFormat))
"""The picture that 'scotoma profile' leaves beside its traces, in any format."""


def blocks(rows: Sequence[dict], album: Album) -> list[Block]:
    """Args: rows: all rows of a device."""
    rows = [row for row in rows if row["benchmark"] == "profile"]
    if not rows:
        return []
    found: list[Block] = [
        Heading(3, "Profile"),
        Paragraph(
            "Milliseconds of each family's own operators in one step, under the profiler, which "
            "slows a CPU down: families and gaps add up to a profiled step, not to one without it."
            if rows[0]["machine"]["kind"] == "cpu"
            else "Milliseconds in which kernels of each family run in one step, under the "
            "profiler. Gaps are the rest of a step's time as measured without it; busy is the "
            "share of the time in which the device ran something."
        ),
    ]
    drawn = [row for row in rows if row["families"]]
    if drawn:
        alt = "Stacked bars: milliseconds of each family of kernels in a step, by contestant"
        found.append(album.draw(draw_families, drawn, alt, "profile"))
    cases: dict[tuple, dict[str, dict]] = {}
    for row in rows:
        sizes = row["width"], row["image_size"], row["dtype"], row["work"] or "train"
        case = row["arch"], row["defects"], *sizes, row["batch_size"]
        cases.setdefault(case, {})[row["contestant"]] = row
    for case, contestants in sorted(cases.items(), key=lambda item: tuple(map(str, item[0]))):
        arch, defects, width, size, dtype, work, batch = case
        words = f"{arch} {defects}, {work}, {dtype}, {size} x {size} pixels"
        words += ("" if width is None else f", width {width}") + f", batch {batch}"
        found += [Heading(4, words), _table(contestants), *_timelines(contestants)]
    return found


def _table(found: dict[str, dict]) -> Table:
    """A line for each family: milliseconds, percent and launches of each contestant."""
    names = compare.ordered(found)
    on_cpu = found[names[0]]["machine"]["kind"] == "cpu"
    families = list(dict.fromkeys(f for name in names for f in found[name]["families"]))
    lines: list[list[Inline]] = []
    for family in families:
        cells: list[Inline] = [family]
        for name in names:
            part = found[name]["families"].get(family)
            cells += [
                fixed(part["ms"] if part else None, 3),
                fixed(part["percent"] if part else None),
                f"{part['launches']:g}" if part else NONE,
            ]
        lines.append(cells)
    if on_cpu:
        cells = [Strong("profiled step (ms)")]
        for name in names:
            parts = found[name]["families"].values()
            cells += [fixed(sum(part["ms"] for part in parts) if parts else None, 3), "", ""]
        lines.append(cells)
    step = ("step without the profiler (ms)" if on_cpu else "whole step (ms)"), "step_ms", 3
    for title, key, digits in (step, *([] if on_cpu else [("busy (%)", "busy_percent", 1)])):
        cells = [Strong(title)]
        for name in names:
            cells += [fixed(found[name][key], digits), "", ""]
        lines.append(cells)
    cells = ["trace"]
    for name in names:
        cells += [_trace(found[name]), "", ""]
    if any(cell != NONE for cell in cells[1::3]):
        lines.append(cells)
    calls = "calls" if on_cpu else "launches"
    heads = [f"{name} {unit}" for name in names for unit in ("(ms)", "(%)", calls)]
    return Table(["family", *heads], lines)


def _trace(row: dict) -> Inline:
    path = _beside(row, row["trace"] or "")
    return Link("file", path) if path else NONE


def _timelines(found: dict[str, dict]) -> list[Block]:
    """Links to the picture of a step that lies beside the traces."""
    places = (_beside(row, name) for row in found.values() for name in TIMELINES)
    paths = dict.fromkeys(filter(None, places))
    links = [Link("Timeline of a step", path) for path in paths]
    return [Paragraph(link) for link in links]


def _beside(row: dict, name: str) -> Path | None:
    """A file of a profile: beside the results, or in the folder of its case."""
    case = f"{row['arch']}-{row['defects']}-b{row['batch_size']}-{row['work'] or 'train'}"
    for parts in ((name,), ("profile", case, name)):
        # Only plain names: a row must not point anywhere else on this machine.
        if all(part and Path(part).name == part and not set(part) & set("\\\0") for part in parts):
            path = Path(row["folder"], *parts)
            try:
                if path.is_file():
                    return path
            except (OSError, ValueError):  # such as a name that is too long
                continue
    return None
