"""Every case in which somebody else is faster, and every row with problems; nothing is left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ...layers import table
from .. import compare
from ..document import Block, Bullets, Heading, Paragraph, Strong, Table
from ..figures import ratio
from ..schema import PASSES, recipe
from .convergence import mean_seconds


def blocks(rows: Sequence[dict]) -> list[Block]:
    """Args: rows: all rows of a device."""
    if not rows:
        return []
    whole, steps = step_losses(rows)
    outright, others = ([line for best, line in steps if best == b] for b in (True, False))
    ops, operators = roofline_losses(rows)
    runs, times = convergence_losses(rows)
    sites, layers = layer_losses(rows)
    troubles = problems(rows)
    lost = len(steps) + len(operators) + len(times) + len(layers)
    compared = whole + ops + runs + sites
    if not compared:
        words = "None of our contestants was measured beside another one."
    elif lost:
        words = (
            "In these cases a contestant without our kernels is faster, out of "
            f"{compared:,} comparisons. None is left out."
        )
    else:
        words = f"No losses: ours is at least as fast in all {compared:,} comparisons."
    found: list[Block] = [Heading(3, "Losses"), Paragraph(Strong(words))]
    for title, lines in (
        ("Whole steps that our fastest contestant loses", outright),
        ("Whole steps that another of our contestants loses", others),
        ("Time to the target accuracy", times),
        ("Operators", operators),
    ):
        if lines:
            names = ["case", "ours", "faster", "by"]
            found += [Heading(4, f"{title}: {len(lines):,}"), Table(names, lines, left=3)]
    if layers:
        found += [Heading(4, f"Layers: {len(layers)} pairs of site and rival"), Bullets(layers)]
    if troubles:
        found += [Heading(4, f"Problems: {len(troubles)}"), Bullets(troubles)]
    else:
        found.append(Paragraph("No row has problems."))
    return found


def step_losses(rows: Iterable[dict]) -> tuple[int, list[tuple[bool, list[str]]]]:
    """How many pairs were compared, and each that we lose, the worst first: whether ours is our
    fastest there, and a line."""
    compared, lines = 0, []
    for group in compare.step_groups(r for r in rows if r["benchmark"] == "step").values():
        for found in compare.step_cases(group).values():
            fastest = compare.best(found, fit=compare.median)
            for ours, times, line in _pairs(found):
                compared += 1
                if times < 1:
                    lines.append((times, ours is fastest, line))
    return compared, [line for _, *line in sorted(lines, key=lambda item: item[0])]


def roofline_losses(rows: Iterable[dict]) -> tuple[int, list[list[str]]]:
    """As :func:`step_losses`, lines alone, of operators."""
    compared, lines = 0, []
    cases = compare.roofline_cases(r for r in rows if r["benchmark"] == "roofline")
    for found in cases.values():
        for _, times, line in _pairs(found):
            compared += 1
            if times < 1:
                lines.append((times, line))
    return compared, [line for _, line in sorted(lines, key=lambda item: item[0])]


def _pairs(found: dict[str, dict]) -> Iterator[tuple[dict, float, list[str]]]:
    """Each row of ours beside each rival's of one case: it, how many times faster it is, and a
    line that says how much slower."""
    for own, ours in found.items():
        for name, rival in found.items():
            if not compare.is_ours(own) or compare.is_ours(name):
                continue
            times = compare.speedup(ours, rival)
            if times is not None:
                yield ours, times, [describe(ours), own, name, ratio(1 / times)]


def convergence_losses(rows: Iterable[dict]) -> tuple[int, list[list[str]]]:
    """As :func:`step_losses`, of mean seconds to the target; who never gets there comes last."""
    cases: dict[tuple, dict[str, list[dict]]] = {}
    for row in rows:
        if row["benchmark"] == "convergence":
            case = row["arch"], row["defects"], row["dataset"], row["target"], recipe(row)
            cases.setdefault(case, {}).setdefault(row["contestant"], []).append(row)
    compared, lines = 0, []
    for found in cases.values():
        for ours in filter(compare.is_ours, found):
            own = mean_seconds(found[ours])
            for name in (n for n in found if not compare.is_ours(n)):
                other = mean_seconds(found[name])
                compared += 1
                if other is not None and (own is None or other < own):
                    by = "never reached by ours" if own is None else ratio(own / other)
                    lines.append([describe(found[ours][0], seed=False), ours, name, by])
    return compared, lines


def layer_losses(rows: Iterable[dict]) -> tuple[int, list[str]]:
    """How many pairs of times were compared, and a line for each site and rival that we lose to."""
    groups = compare.layer_groups(r for r in rows if r["benchmark"] == "layers")
    compared, lines = 0, []
    for dtype, group in groups.items():
        for found in table.by_site(group).values():
            ours = found.get(table.OURS)
            for name, rival in found.items():
                for cache in ("cold", "hot"):
                    for clock in ("graph", "wall"):
                        both = [
                            None not in (table.median(ours, *how), table.median(rival, *how))
                            for how in ((cache, clock, step) for step in PASSES)
                        ]
                        compared += sum(both) * (name != table.OURS)
        lines += [f"{dtype}: {line}" for line in table.losses(group)]
    return compared, lines


def problems(rows: Iterable[dict]) -> list[str]:
    """A line for each problem of each row, and for each row without times or reasons."""
    lines = []
    for row in rows:
        found = row["problems"]
        if "times" in row and not row["times"] and not found:
            found = ["no times, and no reason given"]
        name = f"{row['benchmark']}: {describe(row)}: {contestant(row)}"
        lines += [f"{name}: {problem}" for problem in found]
    return lines


def contestant(row: dict) -> str:
    return row["backend"] if row["benchmark"] == "roofline" else row["contestant"]


def describe(row: dict, seed: bool = True) -> str:
    """What a row measures, in words, without the contestant."""
    match row["benchmark"]:
        case "layers":
            return f"{row['site']['name']}, {row['dtype']}"
        case "roofline":
            shape = "x".join(map(str, row["shape"]))
            words = row["operator"], row["kind"], row["pass"], shape, row["dtype"], row["detail"]
            return ", ".join(word for word in words if word)
        case "convergence":
            words = f"{row['arch']} {row['defects']}, {row['dataset']} to {row['target']:.1%}"
            return f"{words}, seed {row['seed']}" if seed else words
    work = row.get("work") or row.get("attack") or "train"
    words = f"{row['arch']} {row['defects']}, {work}, {row['dtype']}"
    width = "" if row["width"] is None else f"width {row['width']}, "
    return f"{words}, {width}{row['image_size']} pixels, batch {row['batch_size']}"
