"""``scotoma bench aot``: compile all kernels ahead of time, report, compare with the budget."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ...defective.errors import UserError, counted, nearest
from ...defective.serialization import atomic_path
from ...train.screen import make_console, show
from ..harness import compiling_process
from ..options import make_parser

if TYPE_CHECKING:  # these import Triton, whose absence or interpreter is dealt with first
    from .budget import Budget
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

    from . import budget as budgets

    path = Path(arguments.budget) if arguments.budget else budgets.FILE
    named = bool(arguments.kernel or arguments.case)
    filtered = named or arguments.cover or len(set(arguments.archs)) < len(ARCHS)
    budget = _budget_to_compare(path, triton.__version__, arguments.update_budget, filtered)
    survey = surveyed()
    chosen = select(survey.launches, arguments.kernel, arguments.case, arguments.cover)
    console = make_console()
    start = time.perf_counter()
    measurements = measure_all(
        [(launch, arch, case) for arch in dict.fromkeys(arguments.archs) for launch, case in chosen]
    )
    elapsed = time.perf_counter() - start

    show(console, table(measurements, budget, each=arguments.all or named))
    console.print(f"{counted(len(measurements), 'kernel')} compiled and read in {elapsed:.0f} s")
    counts = [f"{form} {' + '.join(map(str, n))}" for form, n in survey.counts.items()]
    show(console, f"launches of a call, forward + backward: {', '.join(counts)}")
    if arguments.json:
        write_json(Path(arguments.json), triton.__version__, measurements, survey.counts)

    if arguments.update_budget:
        budget = budgets.Budget(
            triton.__version__, budget.kernels if filtered else {}, survey.counts
        )
        for m in measurements:
            budget.set(m)
        budgets.save(budget, path)
        console.print(f"wrote {path}")
    findings = budgets.check(measurements, survey.counts, budget, not filtered)
    for finding in findings:
        console.print(str(finding), soft_wrap=True)
    if not findings:
        console.print("no spills, no narrow accesses, within the budget")
        return 0
    console.print(counted(len(findings), "finding"))
    if budget.triton != triton.__version__:
        console.print(
            f"the budget belongs to Triton {budget.triton} and this is {triton.__version__}, so "
            "that they fail nothing"
        )
        return 0
    return 1 if arguments.check else 0


def _budget_to_compare(path: Path, version: str, update: bool, filtered: bool) -> Budget:
    from . import budget as budgets

    if update and (not filtered or not path.exists()):
        return budgets.Budget(version)
    budget = budgets.load(path)
    if update and budget.triton != version:
        raise UserError(
            f"{path} belongs to Triton {budget.triton} and this is {version}: --update-budget has "
            "to measure everything; leave out --arch, --kernel, --case and --cover"
        )
    return budget


class Survey(NamedTuple):
    """All cases, recorded.

    launches: the distinct ones, each with the name of the first case that makes it.
    counts: form of a call: most launches forward and backward.
    """

    launches: list[tuple[Launch, str]]
    counts: dict[str, list[int]]


def surveyed() -> Survey:
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
    return Survey(list(found.values()), counts)


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
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    workers = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
    with (
        Progress(
            *columns,
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ) as progress,
        ThreadPoolExecutor(workers) as pool,
    ):
        task = progress.add_task("compiling", total=len(tasks))
        futures = [pool.submit(_measure, *task) for task in tasks]
        try:
            for done in as_completed(futures):
                done.result()
                progress.advance(task)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


def _measure(launch: Launch, arch: int, case: str) -> Measurement:
    from .code import measure

    try:
        return measure(launch, arch, case)
    except Exception as error:
        error.add_note(f"while compiling {launch.kernel} for sm_{arch}: {case}")
        raise


def write_json(
    path: Path, version: str, measurements: list[Measurement], counts: dict[str, list[int]]
) -> None:
    derived = ("narrow", "blocks", "occupancy", "in_flight")
    rows = [
        {**asdict(m), "code": m.code._asdict(), **{name: getattr(m, name) for name in derived}}
        for m in measurements
    ]
    content = {"triton": version, "launches": counts, "kernels": rows}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


NUMBERS: dict[str, Callable[[Measurement], int]] = {
    "registers": lambda m: m.code.registers,
    "spilled": lambda m: m.code.spilled,
    "shared": lambda m: m.shared,
    "blocks": lambda m: m.blocks,
    "in_flight": lambda m: m.in_flight,
    "instructions": lambda m: m.code.instructions,
    "narrow": lambda m: len(m.narrow),
    "LDS/STS": lambda m: m.code.shared_accesses,
    "barriers": lambda m: m.code.barriers,
    "shuffles": lambda m: m.code.shuffles,
    "conversions": lambda m: m.conversions,
}
EXPLANATION = (
    "blocks: that a multiprocessor holds at once; in_flight: bytes of loads that these can have "
    "issued before they wait for one, an estimate; narrow: activations that are accessed in "
    "smaller pieces than their channels allow; conversions: changes of layout in Triton's code; "
    "loads and stores: bytes of one thread's access to global memory x instructions; in brackets: "
    "change against the budget"
)


def table(measurements: list[Measurement], budget: Budget, each: bool) -> Table:
    """A line for each configuration, or the span over those of each kernel and architecture."""
    view = Table(title="kernels", title_justify="left", caption=EXPLANATION)
    view.add_column("kernel", overflow="fold")
    for name in (*NUMBERS, "loads", "stores", "matrix"):
        view.add_column(name.replace("_", " "), justify="right", overflow="fold")

    def place(m: Measurement) -> tuple:
        return (m.kernel, m.arch, m.case) if each else (m.kernel, m.arch)

    for (kernel, arch, *case), group in groupby(sorted(measurements, key=place), key=place):
        ms = list(group)
        allowed = (budget.entry(ms[0]) if each else None) or {}
        cells = []
        for name, number in NUMBERS.items():
            low, high = min(map(number, ms)), max(map(number, ms))
            change = low - allowed.get(name, low)
            span = f"{low:,}" if low == high else f"{low:,}-{high:,}"
            cells.append(f"{span} ({change:+,})" if change else span)
        for kind in ("loads", "stores", "matrix"):
            counts = [getattr(m.code, kind) for m in ms]
            keys = sorted(set().union(*counts), reverse=True)
            cells.append(" ".join(f"{k}x{counts[0][k]}" if each else str(k) for k in keys))
        view.add_row(f"{kernel} sm_{arch} {''.join(case) or f'({len(ms)})'}", *cells)
    return view
