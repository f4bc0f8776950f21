"""What follows from the rows: targets met or missed, cases that we lose, headroom, changes.

Each part is a function ``part(page, rows)``, as in :mod:`.tables`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

from ...defective.models import ARCHITECTURES
from ...train.pages import Page, code, strong
from .rows import (
    CASE,
    OURS,
    PASSES,
    VERSIONS,
    best,
    by_contestant,
    convergence_cases,
    grouped,
    layer_clock,
    layer_groups,
    layer_time,
    of,
    seconds,
    slower_sites,
    sound,
    speedup,
    step_cases,
    step_groups,
)
from .tables import NONE, Columns, fixed, ratio, signed, table

# The speeds aimed at.

HEADLINE, DEFECTS = "resnet18", ("standard", "0.3-Bottom")
BATCH, DTYPE, IMAGE_SIZE = 512, "bfloat16", 32
MASK_PERCENT = 2.0
MET, MISSED, OPEN = "met", "missed", "not measured"
Target = tuple[str, str, str, float | None]
"""(architecture, defects, rival, times faster at least); None and no rival: the limit on masks."""


def all_targets() -> Iterator[Target]:
    for defects in DEFECTS:
        yield HEADLINE, defects, "eager", 1.6
        yield HEADLINE, defects, "max-autotune", 1.1
    yield HEADLINE, DEFECTS[1], "", None
    for arch in sorted(set(ARCHITECTURES) - {HEADLINE}):
        for defects in DEFECTS:
            yield arch, defects, "eager", 1.3
            yield arch, defects, "compile", 1.0


def targets(page: Page, rows: Sequence[dict]) -> None:
    """Met, missed, or not measured; without step rows every target is open."""
    lines = [(*target, *judge(target, rows)) for target in all_targets()]
    counts = Counter(verdict for *_, verdict in lines)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in (MET, MISSED, OPEN))
    page.heading("Targets", 3)
    page.paragraph(
        f"Training steps in {DTYPE} on {IMAGE_SIZE} x {IMAGE_SIZE} images at the width of the "
        f"paper. Batch {BATCH} counts; for the networks other than {HEADLINE}, the largest batch "
        f"where {BATCH} was not measured. The fastest of our contestants stands for us; rows with "
        f"problems prove nothing. {told}."
    )

    def asked(line: tuple) -> str:
        rival, least = line[2:4]
        if least is None:
            return f"masks cost at most {MASK_PERCENT:.0f} %"
        return f"not slower than {rival}" if least == 1.0 else f"at least {least:.1f}x {rival}"

    columns: Columns = {
        "network": lambda line: code(line[0]),
        "defects": lambda line: line[1],
        "target": asked,
        "verdict": lambda line: strong(MISSED) if line[-1] == MISSED else line[-1],
        "ours": lambda line: code(line[4]) if line[4] else NONE,
        "batch": lambda line: line[5],
        "measured": lambda line: line[6],
    }
    table(page, lines, columns, words=5)


def judge(target: Target, rows: Sequence[dict]) -> tuple[str, str, str, str]:
    """Our best contestant or "", batch, what was measured, and the verdict."""
    arch, defects, rival_name, least = target
    names = "arch", "defects", "work", "dtype", "image_size"
    widths = None, ARCHITECTURES[arch].default_width
    asked = grouped((row for row in of(rows, "step") if row["width"] in widths), *names)
    fit = grouped(asked.get((arch, defects, "train", DTYPE, IMAGE_SIZE), ()), "batch_size")
    largest = max(fit, default=(BATCH,))
    batch = BATCH if arch == HEADLINE or (BATCH,) in fit else largest[0]
    found = by_contestant(fit.get((batch,), ()))
    rival = found.get(rival_name)
    ours = best(row for row in found.values() if rival is None or row["run"] == rival["run"])
    if not ours:
        return "", NONE, NONE, OPEN
    named = ours["contestant"], f"{batch}"
    if least is None:
        value = ours["mask_overhead_percent"]
        shown, met = f"{fixed(value)} %", value is not None and value <= MASK_PERCENT
    else:
        value = speedup(ours, rival) if rival and sound(rival) else None
        shown, met = ratio(value), value is not None and value >= least
    return *named, *((NONE, OPEN) if value is None else (shown, MET if met else MISSED))


# Every case in which somebody else is faster, and every row with problems; nothing is left out.

Pair = tuple[dict, str, float]
"""(a row of ours, a rival, how many times faster ours is); 0 if ours never gets there."""


def slower_cases(page: Page, rows: Sequence[dict]) -> None:
    our_best, our_others = [], []
    for group in step_groups(rows).values():
        for case in step_cases(group).values():
            fastest = best(case.values(), fit=lambda row: row["median"])
            for pair in _pairs(case.values()):
                (our_best if pair[0] is fastest else our_others).append(pair)
    operators = grouped(of(rows, "roofline"), *CASE["roofline"]).values()
    pairs = {
        "Whole steps that our fastest contestant loses": our_best,
        "Whole steps that another of our contestants loses": our_others,
        "Time to the target accuracy": list(convergence_pairs(rows)),
        "Operators": [pair for case in operators for pair in _pairs(case)],
    }
    compared, layers = slower_layers(rows)
    compared += sum(map(len, pairs.values()))
    lost = {title: [pair for pair in found if pair[2] < 1] for title, found in pairs.items()}
    words = f"No losses: ours is at least as fast in all {compared:,} comparisons."
    if not compared:
        words = "None of our contestants was measured beside another one."
    elif layers or any(lost.values()):
        words = (
            "In these cases a contestant without our kernels is faster, out of "
            f"{compared:,} comparisons. None is left out."
        )
    page.heading("Losses", 3)
    page.paragraph(strong(words))
    columns: Columns = {
        "case": lambda pair: pair[0]["case"],
        "ours": lambda pair: pair[0]["contestant"],
        "faster": lambda pair: pair[1],
        "by": lambda pair: ratio(1 / pair[2]) if pair[2] else "never reached by ours",
    }
    for title, lines in lost.items():
        if lines:
            page.heading(f"{title}: {len(lines):,}", 4)
            lines.sort(key=lambda pair: pair[2] or math.inf)
            table(page, lines, columns, words=3)
    if layers:
        page.heading(f"Layers: {len(layers)} pairs of site and rival", 4)
        page.bullets(layers)
    found = problems(rows)
    if found:
        page.heading(f"Problems: {len(found)}", 4)
        page.bullets(found)
    else:
        page.paragraph("No row has problems.")


def _pairs(case: Collection[dict]) -> Iterator[Pair]:
    for own in (row for row in case if row["ours"]):
        for rival in (row for row in case if not row["ours"]):
            if times := speedup(own, rival):
                yield own, rival["contestant"], times


def convergence_pairs(rows: Sequence[dict]) -> Iterator[Pair]:
    """By mean seconds to the target."""
    for case in convergence_cases(rows).values():
        for ours in (runs for runs in case.values() if runs[0]["ours"]):
            for rival in (runs for runs in case.values() if not runs[0]["ours"]):
                own, other = seconds(ours), seconds(rival)
                times = 1.0 if other is None else 0.0 if own is None else other / own
                yield ours[0], rival[0]["contestant"], times


def slower_layers(rows: Sequence[dict]) -> tuple[int, list[str]]:
    """:func:`.rows.slower_sites` of each number format."""
    compared, lines = 0, []
    for dtype, group in layer_groups(rows).items():
        count, found = slower_sites(group)
        compared += count
        lines += [f"{dtype}: {line}" for line in found]
    return compared, lines


def problems(rows: Iterable[dict]) -> list[str]:
    """A line for each problem of each row, and for each row without times or reasons."""
    lines = []
    for row in rows:
        untimed = "times" in row and not row["times"]
        found = row["problems"] or ["no times, and no reason given"] * untimed
        seed = f", seed {row['seed']}" if "seed" in row else ""
        name = f"{row['benchmark']}: {row['case']}{seed}: {row['contestant']}"
        lines += [f"{name}: {problem}" for problem in found]
    return lines


# Where the time goes next: the largest distances between our times and the floor.

MOST = 10


def headroom(page: Page, rows: Sequence[dict]) -> None:
    """Forward and backward of every site of ours without problems, the largest gap first."""
    found, clock = [], layer_clock(rows)
    for row in (row for row in rows if row["contestant"] == OURS and not row["problems"]):
        # Words such as "resnet18 x3, vgg19 x2": the network that has most uses.
        users = re.finditer(r"([\w.-]+) x(\d{1,6})\b", row["site"]["users"])
        counts = [(int(user[2]), user[1]) for user in users]
        uses, network = max(counts, key=lambda pair: pair[0], default=(1, None))
        for step in PASSES[:2]:
            if time := layer_time(row, "cold", clock, step).get("median_us"):
                floor = row["bytes"][step] / row["copy_gb_per_s"] / 1e3
                gap = time - floor
                found.append((row["place"], step, row["dtype"], network, uses, time, floor, gap))
    if not found:
        return
    found.sort(key=lambda line: (-line[4] * line[7], *line[:2]))
    page.heading("Where the time goes next", 3)
    page.paragraph(
        "The largest distances between a measured time of our kernels (cold caches) and its floor, "
        "the bytes that must move over the copy bandwidth, times the uses in the network that has "
        f"most of them. The {min(MOST, len(found))} largest of {len(found):,}."
    )
    columns: Columns = {
        "site": lambda line: line[0],
        "dtype": lambda line: line[2],
        "pass": lambda line: line[1],
        "network": lambda line: line[3] or "not known",
        "uses": lambda line: f"{line[4]}" if line[3] else NONE,
        "measured (µs)": lambda line: fixed(line[5]),
        "floor (µs)": lambda line: fixed(line[6]),
        "gap (µs)": lambda line: fixed(line[7]),
        "gap of all uses (µs)": lambda line: fixed(line[4] * line[7]),
    }
    table(page, found[:MOST], columns, words=4)


# What changed beyond noise between the last two commits of a case.


def changes(page: Page, rows: Sequence[dict]) -> None:
    """Of rows that were measured at a commit before, too."""
    compared, lines = 0, []
    for after in (row for row in rows if row["before"]):
        for what, old, new in _spreads(after["before"], after):
            compared += 1
            if new["p10_us"] > old["p90_us"] or new["p90_us"] < old["p10_us"]:
                change = 100 * (new["median_us"] / old["median_us"] - 1)
                lines.append((after["before"], after, what, old, new, change))
    if not compared:
        return
    page.heading("Before and after", 3)
    page.paragraph(
        f"{compared:,} times were measured at two commits or more. Of the last two of each, those "
        f"are shown whose intervals from the 10 % to the 90 % quantile do not meet: {len(lines):,}"
        ", the worst first. Where contestants without our kernels change as well, the machine "
        "differed, not the code."
    )

    def others(line: tuple) -> str:
        both = zip(VERSIONS, line[0]["versions"], line[1]["versions"], strict=True)
        return ", ".join(name for name, old, new in both if old != new) or "nothing"

    def spread(times: dict) -> str:
        ends = fixed(times["p10_us"]), fixed(times["p90_us"])
        return f"{fixed(times['median_us'])} ({' to '.join(ends)})"

    columns: Columns = {
        "case": lambda line: ", ".join(filter(None, (line[1]["case"], line[2]))),
        "contestant": lambda line: code(line[1]["contestant"]),
        "before at": lambda line: line[0]["commit"],
        "after at": lambda line: line[1]["commit"],
        "also changed": others,
        "before (µs)": lambda line: spread(line[3]),
        "after (µs)": lambda line: spread(line[4]),
        "change (%)": lambda line: signed(line[5]),
    }
    if lines:
        table(page, sorted(lines, key=lambda line: -line[5]), columns, words=5)


def _spreads(before: dict, after: dict) -> Iterator[tuple[str, dict, dict]]:
    """(what, times before, times after) of the times that both rows have."""
    if after["benchmark"] == "layers":
        clock = layer_clock([before, after])
        ways = [
            (step, *(layer_time(row, "cold", clock, step) for row in (before, after)))
            for step in PASSES
        ]
    else:
        ways = [("", before.get("times"), after.get("times"))]
    yield from (way for way in ways if way[1] and way[2])
