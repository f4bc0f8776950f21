"""``scotoma bench aot``: compile all kernels ahead of time, report, compare with the budget."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track
from rich.table import Table

from ...defective.errors import UserError, counted, nearest
from ...defective.serialization import atomic_path
from ...train.screen import make_console, show
from ..harness import compiling_process
from ..options import make_parser
from . import budget as budgets

if TYPE_CHECKING:  # these import Triton, whose absence or interpreter is dealt with first
    from .code import Measurement
    from .record import Launch

ARCHS = (80, 90, 100)


def main(argv: list[str]) -> int:
    """Exit status: 1 if ``--check`` found anything, else 0.

    Raises:
        UserError: bad options, no Triton, no budget.
    """
    arguments = parse(argv)
    status = compiling_process("aot", argv)
    return run(arguments) if status is None else status


def parse(argv: list[str]) -> argparse.Namespace:
    parser = make_parser(
        "bench aot",
        "Compile every kernel configuration that we ship for several GPU architectures, with no "
        "GPU, and report registers, spills, shared memory, blocks and bytes under way on a "
        "multiprocessor, the widths of memory accesses, and the launches of a call.",
    )
    add = parser.add_argument
    names = ", ".join(f"sm_{a}" for a in ARCHS)
    add("--arch", action="append", metavar="ARCH", help=f"one of {names}; all if not given")
    add("--kernel", action="append", metavar="NAME", help="only this kernel; may be repeated")
    add(
        "--case",
        action="append",
        metavar="WORDS",
        help="only configurations whose name contains all these words; may be repeated",
    )
    add(
        "--cover",
        action="store_true",
        help="only as many configurations as it takes for every value of every argument to occur: "
        "each dtype, constant and divisibility, and its absence",
    )
    add("--all", action="store_true", help="list every configuration, as a filter does by itself")
    add("--json", metavar="FILE", help="write all measurements to this file")
    add("--budget", metavar="FILE", help="a budget other than the one that ships")
    add("--check", action="store_true", help="exit with status 1 if anything exceeds the budget")
    add("--update-budget", action="store_true", help="write what was measured into the budget")
    arguments = parser.parse_args(argv)
    if arguments.check and arguments.update_budget:
        raise UserError("--check and --update-budget: a budget just written holds; give only one")
    arguments.archs = [_arch(name) for name in arguments.arch or map(str, ARCHS)]
    if arguments.json and not Path(arguments.json).absolute().parent.is_dir():
        raise UserError(
            f"--json {arguments.json}: the folder {Path(arguments.json).parent} does not exist"
        )
    return arguments


def _arch(name: str) -> int:
    digits = name.lower().removeprefix("sm").lstrip("_").rstrip("a")
    if digits not in map(str, ARCHS):
        names = [f"sm_{a}" for a in ARCHS]
        raise UserError(
            f"--arch {name!r}; expected one of {', '.join(names)}.{nearest(name, names)}"
        )
    return int(digits)


def run(arguments: argparse.Namespace) -> int:
    import triton

    version = triton.__version__
    path = Path(arguments.budget) if arguments.budget else budgets.FILE
    named = bool(arguments.kernel or arguments.case)
    filtered = named or arguments.cover or len(set(arguments.archs)) < len(ARCHS)
    if arguments.update_budget and (not filtered or not path.exists()):
        budget = budgets.Budget(version)
    else:
        budget = budgets.load(path)
    own = budget.triton == version
    if arguments.update_budget and not own:
        raise UserError(
            f"{path} belongs to Triton {budget.triton} and this is {version}: --update-budget has "
            "to measure everything; leave out --arch, --kernel, --case and --cover"
        )
    launches, counts = surveyed()
    chosen = select(launches, arguments.kernel, arguments.case, arguments.cover)
    console = make_console()
    start = time.perf_counter()
    archs = dict.fromkeys(arguments.archs)
    measurements = measure_all([(launch, arch, case) for arch in archs for launch, case in chosen])
    elapsed = time.perf_counter() - start

    show(console, table(measurements, budget, each=arguments.all or named))
    console.print(f"{counted(len(measurements), 'kernel')} compiled and read in {elapsed:.0f} s")
    words = [f"{form} {' + '.join(map(str, n))}" for form, n in counts.items()]
    show(console, f"launches of a call, forward + backward: {', '.join(words)}")
    if arguments.json:
        derived = ("narrow", "blocks", "occupancy", "in_flight")
        rows = [asdict(m) | {name: getattr(m, name) for name in derived} for m in measurements]
        content = {"triton": version, "launches": counts, "kernels": rows}
        with atomic_path(Path(arguments.json)) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
    if arguments.update_budget:
        budget.launches = counts
        for m in measurements:
            budget.set(m)
        budgets.save(budget, path)
        console.print(f"wrote {path}")
    findings = budgets.check(measurements, counts, budget, not filtered)
    for finding in findings:
        console.print(finding, soft_wrap=True)
    if not findings:
        console.print("no spills, no narrow accesses, within the budget")
        return 0
    console.print(counted(len(findings), "finding"))
    if not own:
        console.print(
            f"the budget belongs to Triton {budget.triton} and this is {version}, so that they "
            "fail nothing"
        )
    return int(own and arguments.check)


def surveyed() -> tuple[list[tuple[Launch, str]], dict[str, list[int]]]:
    """All cases, recorded: their distinct launches, each with the name of the first case that makes
    it; and of each form of a call, most launches forward and backward."""
    from .cases import all_cases
    from .record import record

    found: dict[str, tuple[Launch, str]] = {}
    counts: dict[str, list[int]] = {}
    for case in all_cases():
        parts = record(case.run)
        names = Counter()  # a case may launch a kernel in two forms
        for launch in chain.from_iterable(parts):
            if launch.identity not in found:
                names[launch.kernel] += 1
                nth = names[launch.kernel]
                name = case.name if nth == 1 else f"{case.name} #{nth}"
                found[launch.identity] = launch, name
        counts[case.form] = list(map(max, map(len, parts), counts.get(case.form, map(len, parts))))
    return list(found.values()), counts


def select(
    launches: list[tuple[Launch, str]],
    kernels: list[str] | None = None,
    cases: list[str] | None = None,
    cover: bool = False,
) -> list[tuple[Launch, str]]:
    """Some of the launches.

    Args:
        kernels: names, or None for all. cases: words that a case's name has to contain, any of
            these; None for all. cover: of these, as many as it takes for all their features.

    Raises:
        UserError: no launch has these kernels and words.
    """
    known = sorted({launch.kernel for launch, _ in launches})
    for name in kernels or ():
        if name not in known:
            raise UserError(
                f"--kernel {name!r}; expected one of {', '.join(known)}.{nearest(name, known)}"
            )
    chosen = [
        (launch, case)
        for launch, case in launches
        if (not kernels or launch.kernel in kernels)
        and (not cases or any(set(c.split()) <= set(case.split()) for c in cases))
    ]
    if not chosen:
        raise UserError(
            f"--case {cases} and --kernel {kernels} match no configuration; one case is called "
            f"{launches[0][1]!r}"
        )
    return covering(chosen) if cover else chosen


def covering(launches: list[tuple[Launch, str]]) -> list[tuple[Launch, str]]:
    """Few launches that have all the features there are: whichever adds most, again and again."""
    missing = set().union(*(launch.features for launch, _ in launches))
    chosen = []
    while missing:
        best = max(launches, key=lambda pair: len(pair[0].features & missing))
        missing -= best[0].features
        chosen.append(best)
    return chosen


def measure_all(tasks: list[tuple[Launch, int, str]]) -> list[Measurement]:
    """Compile and read launches for architectures, a few at a time, with a progress bar."""
    from .code import measure

    console = Console(stderr=True)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(measure, *task) for task in tasks]
        done = track(
            as_completed(futures),
            "compiling",
            len(futures),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        try:
            for future in done:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


COLUMNS = (
    *("registers", "spilled", "shared", "blocks", "in_flight", "instructions", "narrow"),
    *("LDS/STS", "barriers", "shuffles", "conversions"),
)
EXPLANATION = (
    "blocks: that a multiprocessor holds at once; in_flight: bytes of loads that these can have "
    "issued before they wait for one, an estimate; narrow: activations that are accessed in "
    "smaller pieces than their channels allow; conversions: changes of layout in Triton's code; "
    "loads and stores: bytes of one thread's access to global memory x instructions; in brackets: "
    "change against the budget"
)


def table(measurements: list[Measurement], budget: budgets.Budget, each: bool) -> Table:
    """A line for each configuration, or the span over those of each kernel and architecture."""
    view = Table(title="kernels", title_justify="left", caption=EXPLANATION)
    view.add_column("kernel", overflow="fold")
    for name in (*COLUMNS, "loads", "stores", "matrix"):
        view.add_column(name.replace("_", " "), justify="right", overflow="fold")

    def place(m: Measurement) -> tuple:
        return (m.kernel, m.arch, m.case) if each else (m.kernel, m.arch)

    for (kernel, arch, *case), group in groupby(sorted(measurements, key=place), key=place):
        ms = list(group)
        allowed = (budget.entry(ms[0]) if each else None) or {}
        figures = [m.figures for m in ms]
        cells = []
        for name in COLUMNS:
            values = [found[name] for found in figures]
            low, high = min(values), max(values)
            change = low - allowed.get(name, low)
            span = f"{low:,}" if low == high else f"{low:,}-{high:,}"
            cells.append(f"{span} ({change:+,})" if change else span)
        for kind in ("loads", "stores", "matrix"):
            counts = [m.code[kind] for m in ms]
            keys = sorted(set().union(*counts), reverse=True)
            cells.append(" ".join(f"{k}x{counts[0][k]}" if each else str(k) for k in keys))
        view.add_row(f"{kernel} sm_{arch} {''.join(case) or f'({len(ms)})'}", *cells)
    return view
