"""The speeds aimed at, held against the rows: met, missed, or not measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ....defective.models import ARCHITECTURES
from .. import compare
from ..document import Block, Code, Heading, Paragraph, Strong, Table
from ..figures import NONE, fixed, ratio

HEADLINE = "resnet18"
DEFECTS = ("standard", "0.3-Bottom")
BATCH, DTYPE, IMAGE_SIZE = 512, "bfloat16", 32
MASK_PERCENT = 2.0
MET, MISSED, OPEN = "met", "missed", "not measured"


@dataclass(frozen=True)
class Target:
    """Attributes: least: times faster than the rival; None for the limit on masks."""

    arch: str
    defects: str
    rival: str
    least: float | None


def targets() -> Iterator[Target]:
    for defects in DEFECTS:
        yield Target(HEADLINE, defects, "eager", 1.6)
        yield Target(HEADLINE, defects, "max-autotune", 1.1)
    yield Target(HEADLINE, DEFECTS[1], "", None)
    for arch in sorted(ARCHITECTURES):
        if arch != HEADLINE:
            for defects in DEFECTS:
                yield Target(arch, defects, "eager", 1.3)
                yield Target(arch, defects, "compile", 1.0)


def blocks(rows: Sequence[dict]) -> list[Block]:
    """Args: rows: all rows of a GPU; without step rows every target is open."""
    lines, verdicts = [], Counter()
    for target in targets():
        asked, *cells, verdict = judge(target, rows)
        verdicts[verdict] += 1
        words = Strong(verdict) if verdict == MISSED else verdict
        lines.append([Code(target.arch), target.defects, asked, words, *cells])
    counts = ", ".join(f"{verdicts[v]} {v}" for v in (MET, MISSED, OPEN))
    words = (
        f"Training steps in {DTYPE} on {IMAGE_SIZE} x {IMAGE_SIZE} images at the width of the "
        f"paper. Batch {BATCH} counts; for the networks other than {HEADLINE}, the largest batch "
        f"where {BATCH} was not measured. The fastest of our contestants stands for us; rows "
        f"with problems prove nothing. {counts}."
    )
    names = ["network", "defects", "target", "verdict", "ours", "batch", "measured"]
    return [Heading(3, "Targets"), Paragraph(words), Table(names, lines, left=5)]


def judge(target: Target, rows: Sequence[dict]) -> tuple:
    """Cells: what is asked, our best contestant, batch, what was measured, and the verdict."""
    asked = f"masks cost at most {MASK_PERCENT:.0f} %"
    if target.least is not None:
        asked = f"at least {target.least:.1f}x {target.rival}"
    if target.least == 1.0:
        asked = f"not slower than {target.rival}"
    found = _contestants(target, rows)
    rival = found.get(target.rival)
    ours = compare.best(
        {n: r for n, r in found.items() if rival is None or compare.same_run(r, rival)}
    )
    if ours is None:
        return asked, NONE, NONE, NONE, OPEN
    named = Code(ours["contestant"]), f"{ours['batch_size']}"
    if target.least is None:
        cost = ours["mask_overhead_percent"]
        if cost is None:
            return asked, *named, NONE, OPEN
        return asked, *named, f"{fixed(cost)} %", MET if cost <= MASK_PERCENT else MISSED
    times = compare.speedup(ours, rival) if rival and compare.sound(rival) else None
    if times is None:
        return asked, *named, NONE, OPEN
    return asked, *named, ratio(times), MET if times >= target.least else MISSED


def _contestants(target: Target, rows: Sequence[dict]) -> dict[str, dict]:
    """Contestant -> row, of the batch that counts."""
    width = ARCHITECTURES[target.arch].default_width
    fit = [
        row
        for row in rows
        if row["benchmark"] == "step"
        and (row["arch"], row["defects"]) == (target.arch, target.defects)
        and (row["work"], row["dtype"], row["image_size"]) == ("train", DTYPE, IMAGE_SIZE)
        and row["width"] in (None, width)
    ]
    batches = {row["batch_size"] for row in fit}
    must_be = target.arch == HEADLINE or BATCH in batches or not batches
    batch = BATCH if must_be else max(batches)
    return {row["contestant"]: row for row in fit if row["batch_size"] == batch}
