"""The parts of a device's page, each a function ``part(page, rows)`` of its benchmark's rows.

A table is its columns: a heading, and what stands below it for a row or another thing.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, get_args

from ...train.config import PictureFormat
from ...train.pages import Inline, Page, code, strong
from ..profiling import families
from . import plots
from .rows import (
    CASE,
    OURS,
    PASSES,
    beside,
    best,
    by_contestant,
    by_site,
    convergence_cases,
    flop_unit,
    grouped,
    layer_clock,
    layer_groups,
    layer_time,
    ordered,
    rate,
    seconds,
    speedup,
    step_cases,
    step_groups,
)

# How figures are written: a dash where there is none, always the same number of digits.
NONE = "-"


def fixed(value: float | None, digits: int = 1, factor: float = 1.0) -> str:
    return NONE if value is None else f"{factor * value:,.{digits}f}"


def ratio(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}x"


def signed(value: float | None) -> str:
    # Adding zero turns a rounded -0.0 into 0.0.
    return NONE if value is None else f"{round(value, 1) + 0:+.1f}"


def share(part: float | None, of: float | None) -> float | None:
    """``part / of`` where both are known."""
    return part / of if part is not None and of else None


def listed(values: Iterable) -> str:
    """Distinct words in the order of the alphabet."""
    return ", ".join(sorted({str(value) for value in values})) or NONE


Columns = dict[str, Callable[[Any], Inline]]


def table(page: Page, things: Iterable, columns: Columns, words: int = 1) -> None:
    """A line for each thing. words: how many columns, on the left, hold words."""
    lines = [[show(thing) for show in columns.values()] for thing in things]
    page.table((list(columns), lines), words)


def picture(page: Page, draw: Callable, rows: Sequence[dict], alt: str, *words: str) -> None:
    """What ``draw(rows)`` makes, its file named after device and words."""
    words = rows[0]["machine"]["device"], *words
    slugs = (re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-") for word in words)
    stem = name = "-".join(filter(None, slugs))[:90] or "picture"
    number = 1
    while f"{page.images}/{name}" in page.pictures:
        number += 1
        name = f"{stem}-{number}"
    page.picture(name, partial(draw, rows), alt)


def _ends(times: dict, digits: int = 1, factor: float = 1.0) -> str:
    ends = [fixed(times[name], digits, factor) for name in ("p10_us", "p90_us") if times]
    return " to ".join(ends) or NONE


def _marked(words: Inline, *rows: dict) -> Inline:
    """With a mark where a row has problems."""
    return (words, " (!)") if any(row["problems"] for row in rows) else words


# Whole steps: things are (case, contestant -> row, a row or {}).

_WORK = {"train": "Training steps", "evaluate": "Evaluation", "pgd": "PGD steps"}
_RIVALS = ("eager", "compile", "max-autotune")
_CASE: Columns = {
    "network": lambda line: code(line[0][0]),
    "defects": lambda line: line[0][1],
    "batch": lambda line: f"{line[0][2]}",
}
_FASTER: Columns = {
    f"times faster than {rival}": lambda line, rival=rival: ratio(
        speedup(line[2], line[1].get(rival))
    )
    for rival in _RIVALS
}
_COSTS: Columns = {
    "cost of masks (%)": lambda line: signed(line[2].get("mask_overhead_percent")),
    "peak (GiB)": lambda line: fixed(line[2].get("peak_bytes"), 2, 2**-30),
}
_FASTEST: Columns = {
    **_CASE,
    "ours": lambda line: code(line[2]["contestant"]) if line[2] else "none measured",
    "images/s": lambda line: fixed(rate(line[2]), 0),
    **_FASTER,
    **_COSTS,
    "peak of eager (GiB)": lambda line: fixed(
        line[1].get("eager", {}).get("peak_bytes"), 2, 2**-30
    ),
}
_EVERY_STEP: Columns = {
    **_CASE,
    "contestant": lambda line: code(line[2]["contestant"]),
    "dtype": lambda line: line[2]["dtype"],
    "step (ms)": lambda line: fixed(line[2]["median"], 3, 1e-3),
    "10 % (ms)": lambda line: fixed(line[2]["times"].get("p10_us"), 3, 1e-3),
    "90 % (ms)": lambda line: fixed(line[2]["times"].get("p90_us"), 3, 1e-3),
    **_FASTER,
    **_COSTS,
    "preparation (s)": lambda line: fixed(line[2]["prepare_s"]),
    "in turns": lambda line: {True: "yes", False: "no"}.get(line[2]["in_turns"], NONE),
    "problems": lambda line: f"{len(line[2]['problems'])}",
}


def steps(page: Page, rows: Sequence[dict]) -> None:
    """Images per second, speed-ups, cost of masks, memory."""
    for (dtype, work, width, size), group in step_groups(rows).items():
        words = f"{_WORK.get(work, work)}, {dtype}, {size} x {size} pixels"
        words += "" if width is None else f", width {width}"
        page.heading(words, 3)
        notes = []
        if any(row["in_turns"] is False for row in group):
            notes.append("Some contestants were not measured in turns; the folded table tells.")
        if any(row["problems"] for row in group):
            notes.append("(!) marks rows with problems, which are listed under Losses.")
        if notes:
            page.paragraph(" ".join(notes))
        alt = f"Images per second of {words}, contestants side by side"
        sizes = f"{size}px", "" if width is None else f"width-{width}"
        picture(page, plots.draw_steps, group, alt, "step", work, dtype, *sizes)
        cases = step_cases(group)
        page.paragraph("Our fastest contestant in each case:")
        fastest = [(case, found, best(found.values())) for case, found in cases.items()]
        table(page, fastest, _FASTEST, words=4)
        page.paragraph("Images per second of all contestants, the fastest in bold:")
        names = ordered(row["contestant"] for row in group)
        columns = _CASE | {f"{name} (images/s)": partial(_speed, name=name) for name in names}
        table(page, cases.items(), columns, words=2)
        with page.folded("Every contestant: times, memory, preparation"):
            lines = [
                (case, found, found[n]) for case, found in cases.items() for n in ordered(found)
            ]
            table(page, lines, _EVERY_STEP, words=5)


def _speed(line: tuple, name: str) -> Inline:
    row, fastest = line[1].get(name, {}), max(rate(row) or 0 for row in line[1].values())
    words = _marked(fixed(rate(row), 0), row) if row else NONE
    return strong(words) if rate(row) and rate(row) == fastest else words


# Attacks beside other libraries'.


def attacks(page: Page, rows: Sequence[dict]) -> None:
    """Seconds, and the proof that both found the same."""
    # Whatever their number formats.
    names = *CASE["attacks"][:-1], "run"
    alike = {id(row): by_contestant(g) for g in grouped(rows, *names).values() for row in g}

    def faster(row: dict) -> str:
        peer = alike[id(row)].get(row["peer"])
        times = None if row is peer else speedup(row, peer)
        return NONE if times is None else f"{ratio(times)} {row['peer']}"

    def found(name: str, digits: int, factor: float = 1.0) -> Callable[[dict], str]:
        return lambda row: fixed(row["results"].get(name), digits, factor)

    def passes(row: dict) -> str:
        counts = [row["results"].get(name) for name in ("forwards", "backwards")]
        return NONE if None in counts else " + ".join(map(fixed, counts))

    page.heading("Attacks", 3)
    page.paragraph(
        "Whole attacks at equal settings, on images that a trained network has right. A time "
        "stands only where the results agree with the library's: by pixels and predictions for "
        "attacks in a ball, by success rate and median L2 for those that look for the nearest "
        "image. Passes are those of one image, forward and backward; libraries do not count "
        "theirs."
    )
    columns: Columns = {
        "attack": lambda row: f"{row['case']}, {row['dataset']}",
        "contestant": lambda row: code(row["contestant"]),
        "median (s)": lambda row: fixed(row["median"], 3, 1e-6),
        "10 to 90 % (s)": lambda row: _ends(row["times"], 3, 1e-6),
        "images/s": lambda row: fixed(row["images_per_s"]),
        "times faster than": faster,
        "fooled (%)": found("success", 2, 100),
        "median L2": found("median_l2", 4),
        "equal pixels (%)": found("equal_pixels", 2, 100),
        "equal predictions (%)": found("equal_predictions", 2, 100),
        "passes": passes,
    }
    table(page, rows, columns, words=2)


# Where a step's time goes.

TIMELINES = tuple(f"timeline.{format}" for format in get_args(PictureFormat))
"""The picture that 'scotoma profile' leaves beside its traces, in any format."""


def profile(page: Page, rows: Sequence[dict]) -> None:
    """Milliseconds by families of kernels, and links to traces."""
    page.heading("Profile", 3)
    page.paragraph(
        "Milliseconds of each family's own operators in one step, under the profiler, which "
        "slows a CPU down: families and the time outside operators add up to a profiled step, not "
        "to one without it."
        if not rows[0]["gpu"]
        else "Milliseconds in which kernels of each family run in one step, under the "
        "profiler. Gaps are the rest of a step's time as measured without it; busy is the "
        "share of the time in which the device ran something."
    )
    drawn = [row for row in rows if row["families"]]
    if drawn:
        alt = "Stacked bars: milliseconds of each family of kernels in a step, by contestant"
        picture(page, plots.draw_families, drawn, alt, "profile")
    for (case,), group in sorted(grouped(rows, "case").items(), key=lambda item: item[0]):
        page.heading(case, 4)
        found = by_contestant(group)
        found = [found[name] for name in ordered(found)]
        headings, lines, totals = families.side_by_side(found)
        lines += [[strong(name), *cells] for name, *cells in totals]
        traces = [beside(row, row["trace"] or "") for row in found]
        if any(traces):
            links = (page.link("file", path) if path else NONE for path in traces)
            lines.append(["trace", *(cell for link in links for cell in (link, "", ""))])
        page.table((headings, lines))
        timelines = (beside(row, name) for row in found for name in TIMELINES)
        for path in dict.fromkeys(filter(None, timelines)):
            page.paragraph(page.link("Timeline of a step", path))


# Seconds until a network reaches an accuracy.


def convergence(page: Page, rows: Sequence[dict]) -> None:
    """Every seed named."""

    def reached(row: dict) -> str:
        found = row["seconds_to_target"]
        return f"{row['seed']}: {'missed' if found is None else fixed(found)}"

    def standard_error(line: tuple) -> float | None:
        if len(line[1]) < 2 or seconds(line[1]) is None:
            return None
        return statistics.stdev(row["seconds_to_target"] for row in line[1]) / len(line[1]) ** 0.5

    page.heading("Convergence", 3)
    page.paragraph(
        "Seconds of training until the test accuracy first reaches the target, evaluation and "
        "preparation (compilation, capture, warm-up) left out. A mean stands only where every "
        "seed got there."
    )
    alt = "Test accuracy against seconds of training, one curve for each seed and contestant"
    picture(page, plots.draw_convergence, rows, alt, "convergence")
    columns: Columns = {
        "network": lambda line: f"{line[0][1]} {line[0][2]}",
        "data, target": lambda line: f"{line[0][0]}, {100 * line[0][3]:g} %",
        "settings": lambda line: line[0][4] or NONE,
        "contestant": lambda line: code(line[1][0]["contestant"]),
        "seed: seconds to target": lambda line: ", ".join(map(reached, line[1])),
        "mean (s)": lambda line: fixed(seconds(line[1])),
        "standard error (s)": lambda line: fixed(standard_error(line), 2),
        "times faster than eager": lambda line: ratio(share(seconds(line[2]), seconds(line[1]))),
        "preparation (s)": lambda line: fixed(seconds(line[1], "prepare_s")),
    }
    cases = sorted(convergence_cases(rows).items())
    lines = [(case, by[name], by.get("eager", [])) for case, by in cases for name in ordered(by)]
    table(page, lines, columns, words=5)
    columns = {
        "network": lambda row: f"{row['arch']} {row['defects']}",
        "contestant": lambda row: code(row["contestant"]),
        "seed": lambda row: f"{row['seed']:g}",
        "epochs to target": lambda row: fixed(row["epochs_to_target"], 0),
        "epochs": lambda row: fixed(row["epochs"], 0),
        "training (s)": lambda row: fixed(row["train_s"]),
        "accuracy at the end (%)": lambda row: fixed(row["accuracy"], 2, 100),
    }
    with page.folded("Every run"):
        table(page, rows, columns, words=2)


# The operator at every site of the networks.


def layers(page: Page, rows: Sequence[dict]) -> None:
    """Ours beside the others: times, memory."""
    for dtype, group in layer_groups(rows).items():
        clock, sites = layer_clock(group), by_site(group)
        names = ordered(row["contestant"] for row in group)
        leader = OURS if OURS in names else names[0]
        copies = listed(f"{row['copy_gb_per_s']:,.0f}" for row in group)
        words = (
            f"One call of the operator, cold caches, {clock} times; the others in multiples of "
            f"{leader}. Percentages: bytes that must move, over the time, of the bandwidth of a "
            f"large copy ({copies} GB/s)."
        )
        if any(row["problems"] for row in group):
            words += " (!) marks rows with problems, which are listed under Losses."
        page.heading(f"Layers, {dtype}", 3)
        page.paragraph(words)
        alt = f"Percent of the copy bandwidth at every site, forward and backward, {dtype}"
        picture(page, plots.draw_layers, group, alt, "layers", dtype)
        table(page, sites.items(), _site_times(names, leader, clock), words=2)
        page.paragraph("Memory: what a forward keeps for its backward, and the peak of both.")
        columns: Columns = {"site": lambda line: line[0]}
        for what in ("saved", "peak"):
            for name in names:
                columns[f"{name} {what} (MiB)"] = lambda line, name=name, what=what: fixed(
                    line[1].get(name, {}).get(f"{what}_bytes"), 1, 2**-20
                )
        table(page, sites.items(), columns)
        columns = {"site": lambda line: line[0], "contestant": lambda line: code(line[1])}
        for way in [(cache, kind) for cache in ("cold", "hot") for kind in ("graph", "wall")]:
            columns[f"{', '.join(way)} (µs)"] = lambda line, way=way: _three(
                [layer_time(line[2], *way, step).get("median_us") for step in PASSES], fixed
            )
        lines = [(site, n, found[n]) for site, found in sites.items() for n in names if n in found]
        ways = "hot and cold, graph and wall: forward / backward / both"
        with page.folded(f"Every contestant, {ways}"):
            table(page, lines, columns, words=2)


def _site_times(names: Sequence[str], leader: str, clock: str) -> Columns:
    """Of (site, contestant -> row): the leader's times, and how many times longer others take."""

    def time(line: tuple, step: str, name: str = leader) -> dict:
        return layer_time(line[1].get(name), "cold", clock, step)

    def times(line: tuple, name: str) -> str:
        both = [(time(line, step, name), time(line, step)) for step in PASSES]
        return _three([share(a.get("median_us"), b.get("median_us")) for a, b in both], ratio)

    columns: Columns = {
        "site (N x C x H x W)": lambda line: _marked(line[0], *line[1].values()),
        "used by": lambda line: next(iter(line[1].values()))["site"]["users"],
    }
    for step in PASSES[:2]:
        columns |= {
            f"{leader} {step} (µs)": lambda line, step=step: fixed(
                time(line, step).get("median_us")
            ),
            f"{step}, % of copy": lambda line, step=step: fixed(
                time(line, step).get("copy_percent"), 0
            ),
        }
    for name in names:
        if name != leader:
            columns[f"{name}: forward / backward / both"] = partial(times, name=name)
    return columns


def _three(values: Sequence[float | None], show: Callable) -> str:
    return " / ".join(map(show, values)) if any(values) else NONE


# Every operator against measured bandwidth and matrix ceilings.


def roofline(page: Page, rows: Sequence[dict]) -> None:
    ceilings = max(rows, key=lambda row: row["time"])["ceilings"]
    unit, factor = flop_unit(rows[0])
    matmul = ", ".join(
        f"{name} {fixed(value, 1, factor)} {unit}"
        for name, value in ceilings["matmul_tflop_per_s"].items()
    )
    page.heading("Roofline", 3)
    page.paragraph(
        f"Ceilings as measured: copies at {fixed(ceilings['copy_gb_per_s'], 0)} GB/s; matrix "
        f"multiplication {matmul or 'not measured'}. Bytes and operations are the fewest that the "
        "operator needs; attained is the share of the lower of the two roofs there."
    )
    alt = "Operations per second against operations per byte, with the measured ceilings"
    picture(page, plots.draw_roofline, rows, alt, "roofline")
    columns: Columns = {
        "operator": lambda row: code(row["operator"]),
        "form": lambda row: ", ".join(filter(None, (row["kind"], row["pass"], row["detail"]))),
        "shape": lambda row: row["place"],
        "dtype": lambda row: row["dtype"],
        "backend": lambda row: _marked(code(row["backend"]), row),
        "median (µs)": lambda row: fixed(row["median"]),
        "10 to 90 % (µs)": lambda row: _ends(row["times"]),
        "FLOP/B": lambda row: fixed(share(row["flops"], row["bytes"]), 2),
        "GB/s": lambda row: fixed(row["gb_per_s"], 0),
        unit: lambda row: fixed(row["tflop_per_s"], 2, factor),
        "attained (%)": lambda row: fixed(row["attained_percent"], 0),
    }
    cases = grouped(rows, *CASE["roofline"]).values()
    for case in cases:
        case.sort(key=lambda row: (not row["ours"], row["backend"]))
    table(page, [row for case in cases for row in case], columns, words=5)
