"""Attacks beside other libraries': seconds, and the proof that both found the same."""

from __future__ import annotations

from collections.abc import Sequence

from .. import compare
from ..document import Block, Code, Details, Heading, Paragraph, Table
from ..figures import NONE, fixed, ratio, share

WORDS = (
    "Whole attacks at equal settings, on images that a trained network has right. A time stands "
    "only where the results agree with the library's: by pixels and predictions for attacks in a "
    "ball, by success rate and median L2 for those that look for the nearest image. Passes are "
    "those of one image, forward and backward; libraries do not count theirs."
)


def blocks(rows: Sequence[dict]) -> list[Block]:
    """Args: rows: all rows of a device."""
    rows = [row for row in rows if row["benchmark"] == "attacks"]
    if not rows:
        return []
    names = ["attack", "network", "contestant", "batch", "median (s)", "times faster than"]
    names += ["fooled (%)", "median L2", "equal pixels (%)", "equal predictions (%)", "passes"]
    return [
        Heading(3, "Attacks"),
        Paragraph(WORDS),
        Table(names, [_line(row, rows) for row in rows], left=3),
        _details(rows),
    ]


def speed(row: dict, rows: Sequence[dict]) -> float | None:
    """How many times faster than its peer in the same run; None where either has no time."""
    peers = [
        other
        for other in rows
        if other["contestant"] == row["peer"]
        and _case(other) == _case(row)
        and compare.same_run(row, other)
    ]
    return share(compare.median(peers[0]), compare.median(row)) if peers else None


def _case(row: dict) -> tuple:
    names = ("attack", "arch", "defects", "width", "image_size", "batch_size", "dataset")
    return tuple(row[name] for name in names)


def _line(row: dict, rows: Sequence[dict]) -> list:
    results, median = row["results"], compare.median(row)
    faster = speed(row, rows) if row["contestant"] != row["peer"] else None
    length = results.get("median_l2")
    passes = [results.get(name) for name in ("forwards", "backwards")]
    return [
        *(row["attack"], _network(row), Code(row["contestant"]), f"{row['batch_size']:g}"),
        fixed(None if median is None else median / 1e6, 3),
        NONE if faster is None else f"{ratio(faster)} {row['peer']}",
        _percent(results.get("success")),
        fixed(length, 4),
        *(_percent(results.get(f"equal_{name}")) for name in ("pixels", "predictions")),
        NONE if None in passes else " + ".join(fixed(value) for value in passes),
    ]


def _network(row: dict) -> str:
    width = "" if row["width"] is None else f", width {row['width']:g}"
    return f"{row['arch']} {row['defects']}{width}, {row['image_size']:g} px"


def _percent(value: float | None) -> str:
    return fixed(None if value is None else 100 * value, 2)


def _details(rows: Sequence[dict]) -> Details:
    names = ["attack", "network", "contestant", "batch", "p10 (s)", "p90 (s)", "images/s"]
    lines = [
        [
            *(row["attack"], _network(row), Code(row["contestant"]), f"{row['batch_size']:g}"),
            *(fixed(row["times"][name] / 1e6, 3) for name in ("p10_us", "p90_us")),
            fixed(row["images_per_s"]),
        ]
        for row in rows
        if row["times"]
    ]
    return Details("Quantiles and images per second", [Table(names, lines, left=3)])
