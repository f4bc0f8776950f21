"""Seconds until a network reaches an accuracy, every seed named."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from .. import compare
from ..document import Block, Code, Details, Heading, Paragraph, Table
from ..figures import NONE, fixed, ratio, share
from ..plots import draw_convergence
from ..schema import recipe
from .album import Album


def blocks(rows: Sequence[dict], album: Album) -> list[Block]:
    """Args: rows: all rows of a device."""
    rows = [row for row in rows if row["benchmark"] == "convergence"]
    if not rows:
        return []
    cases: dict[tuple, dict[str, list[dict]]] = {}
    for row in rows:
        case = row["dataset"], row["arch"], row["defects"], row["target"], recipe(row)
        cases.setdefault(case, {}).setdefault(row["contestant"], []).append(row)
    lines = []
    for (dataset, arch, defects, target, how), found in sorted(cases.items()):
        base = mean_seconds(found.get("eager", []))
        for name in compare.ordered(found):
            runs = sorted(found[name], key=lambda row: row["seed"])
            mean = mean_seconds(runs)
            each = ", ".join(f"{r['seed']}: {_reached(r)}" for r in runs)
            lines.append(
                [
                    *(f"{arch} {defects}", f"{dataset}, {100 * target:g} %", how or NONE),
                    *(Code(name), each),
                    fixed(mean),
                    fixed(standard_error(runs), 2),
                    ratio(share(base, mean)),
                    fixed(_mean(runs, "prepare_s")),
                ]
            )
    names = [
        "network",
        "data, target",
        "settings",
        "contestant",
        "seed: seconds to target",
        "mean (s)",
    ]
    names += ["standard error (s)", "times faster than eager", "preparation (s)"]
    words = (
        "Seconds of training until the test accuracy first reaches the target, evaluation and "
        "preparation (compilation, capture, warm-up) left out. A mean stands only where every "
        "seed got there."
    )
    alt = "Test accuracy against seconds of training, one curve for each seed and contestant"
    return [
        Heading(3, "Convergence"),
        Paragraph(words),
        album.draw(draw_convergence, rows, alt, "convergence"),
        Table(names, lines, left=5),
        _details(rows),
    ]


def mean_seconds(rows: Sequence[dict]) -> float | None:
    """To the target; None if a seed missed it, or there are none."""
    return _mean(rows, "seconds_to_target")


def standard_error(rows: Sequence[dict]) -> float | None:
    """Of the mean over seeds; None for fewer than two, or if one missed the target."""
    if len(rows) < 2 or mean_seconds(rows) is None:
        return None
    values = [row["seconds_to_target"] for row in rows]
    return statistics.stdev(values) / math.sqrt(len(values))


def _mean(rows: Sequence[dict], name: str) -> float | None:
    values = [row[name] for row in rows]
    return None if not values or None in values else statistics.fmean(values)


def _reached(row: dict) -> str:
    found = row["seconds_to_target"]
    return f"{fixed(found)}" if found is not None else "missed"


def _details(rows: Sequence[dict]) -> Details:
    names = ["network", "contestant", "seed", "epochs to target", "epochs", "training (s)"]
    names += ["accuracy at the end (%)"]

    def whole(value) -> str:
        return NONE if value is None else f"{value:g}"

    lines = [
        [
            *(f"{row['arch']} {row['defects']}", Code(row["contestant"]), whole(row["seed"])),
            *(whole(row["epochs_to_target"]), whole(row["epochs"]), fixed(row["train_s"])),
            NONE if row["accuracy"] is None else fixed(100 * row["accuracy"], 2),
        ]
        for row in rows
    ]
    return Details("Every run", [Table(names, lines, left=2)])
