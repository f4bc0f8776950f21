"""Whole steps: images per second, speed-ups, cost of masks, memory."""

from __future__ import annotations

from collections.abc import Sequence

from .. import compare
from ..document import Block, Code, Details, Heading, Inline, Paragraph, Strong, Table
from ..figures import NONE, fixed, gib, ratio, signed, whole
from ..plots import draw_steps
from .album import Album

_WORK = {"train": "Training steps", "evaluate": "Evaluation", "pgd": "PGD steps"}
_RIVALS = ("eager", "compile", "max-autotune")


def blocks(rows: Sequence[dict], album: Album) -> list[Block]:
    """Args: rows: all rows of a device."""
    rows = [row for row in rows if row["benchmark"] == "step"]
    found: list[Block] = []
    for (work, dtype, width, size), group in compare.step_groups(rows).items():
        words = f"{_WORK.get(work, work)}, {dtype}, {size} x {size} pixels"
        words += "" if width is None else f", width {width}"
        found += [Heading(3, words), *_notes(group)]
        alt = f"Images per second of {words}, contestants side by side"
        sizes = f"{size}px", "" if width is None else f"width-{width}"
        found.append(album.draw(draw_steps, group, alt, "step", work, dtype, *sizes))
        cases = compare.step_cases(group)
        found += [
            Paragraph("Our fastest contestant in each case:"),
            _summary(cases),
            Paragraph("Images per second of all contestants, the fastest in bold:"),
            _side_by_side(cases),
            _details(cases),
        ]
    return found


def _notes(group: Sequence[dict]) -> list[Block]:
    notes = []
    if any(row["in_turns"] is False for row in group):
        notes.append("Some contestants were not measured in turns; the folded table names them.")
    if any(row["problems"] for row in group):
        notes.append("(!) marks rows with problems, which are listed under Losses.")
    return [Paragraph(" ".join(notes))] if notes else []


def _case(case: tuple) -> list[Inline]:
    arch, defects, batch = case
    return [Code(arch), defects, f"{batch}"]


def _summary(cases: dict[tuple, dict[str, dict]]) -> Table:
    lines = []
    for case, found in cases.items():
        ours = compare.best(found)
        if ours is None:
            lines.append([*_case(case), "none measured", *[NONE] * (4 + len(_RIVALS))])
            continue
        eager, cost = found.get("eager"), ours["mask_overhead_percent"]
        lines.append(
            [
                *(*_case(case), Code(ours["contestant"]), whole(compare.rate(ours))),
                *(ratio(compare.speedup(ours, found.get(name))) for name in _RIVALS),
                signed(cost),
                gib(ours["peak_bytes"]),
                gib(eager["peak_bytes"] if eager else None),
            ]
        )
    names = ["network", "defects", "batch", "ours", "images/s"]
    names += [f"times faster than {name}" for name in _RIVALS]
    names += ["cost of masks (%)", "peak (GiB)", "peak of eager (GiB)"]
    return Table(names, lines, left=4)


def _side_by_side(cases: dict[tuple, dict[str, dict]]) -> Table:
    contestants = compare.ordered(name for found in cases.values() for name in found)
    lines = []
    for case, found in cases.items():
        fastest = max((compare.rate(row) or 0 for row in found.values()), default=0)
        cells = []
        for name in contestants:
            row = found.get(name)
            speed = compare.rate(row) if row else None
            text = whole(speed) + (" (!)" if row and row["problems"] else "")
            cells.append(Strong(text) if speed and speed == fastest else text)
        lines.append([*_case(case), *cells])
    units = [f"{name} (images/s)" for name in contestants]
    return Table(["network", "defects", "batch", *units], lines, left=2)


def _details(cases: dict[tuple, dict[str, dict]]) -> Details:
    lines = []
    for case, found in cases.items():
        for name in compare.ordered(found):
            row, times = found[name], found[name]["times"]
            cost = row["mask_overhead_percent"]
            lines.append(
                [
                    *(*_case(case), Code(name), row["dtype"]),
                    *(
                        fixed(times[q] / 1e3 if times else None, 3)
                        for q in ("median_us", "p10_us", "p90_us")
                    ),
                    *(ratio(compare.speedup(row, found.get(rival))) for rival in _RIVALS),
                    signed(cost),
                    gib(row["peak_bytes"]),
                    fixed(row["prepare_s"]),
                    {True: "yes", False: "no"}.get(row["in_turns"], NONE),
                    f"{len(row['problems'])}",
                ]
            )
    names = ["network", "defects", "batch", "contestant", "dtype", "step (ms)", "10 % (ms)"]
    names += ["90 % (ms)", *(f"times faster than {name}" for name in _RIVALS)]
    names += ["cost of masks (%)", "peak (GiB)", "preparation (s)", "in turns", "problems"]
    return Details("Every contestant: times, memory, preparation", [Table(names, lines, left=5)])
