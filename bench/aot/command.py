"""``scotoma bench aot``: compile all kernels ahead of time, report, compare with the budget."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ...defective.errors import UserError, nearest
from ...defective.serialization import atomic_path
from ...train.commands.options import make_parser
from ..options import compiling_process

if TYPE_CHECKING:  # these import Triton, whose absence or interpreter is dealt with first
    from .measure import Measurement
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
        "GPU, and report registers, spills, shared memory, and the widths of memory accesses.",
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
    from . import tables

    path = Path(arguments.budget) if arguments.budget else budgets.FILE
    filtered = bool(arguments.kernel or arguments.case or len(set(arguments.archs)) < len(ARCHS))
    budget = _budget_to_compare(path, triton.__version__, arguments.update_budget, filtered)
    launches = select(arguments.archs, arguments.kernel, arguments.case)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200  # nobody wants a table cut to 80 columns in a log
    start = time.perf_counter()
    measurements = compile_all(launches)
    elapsed = time.perf_counter() - start

    if arguments.all or arguments.kernel or arguments.case:
        for table in tables.details(measurements, budget):
            console.print(table)
        console.print(tables.EXPLANATION)
    console.print(tables.summary(measurements))
    console.print(f"{len(measurements)} kernels compiled and read in {elapsed:.0f} s")
    if arguments.json:
        write_json(Path(arguments.json), triton.__version__, measurements)

    if arguments.update_budget:
        kept = budgets.Budget(triton.__version__, budget.kernels if filtered else {})
        for m in measurements:
            kept.set(m)
        budgets.save(kept, path)
        console.print(f"wrote {path}")
    findings = budgets.check(
        measurements, kept if arguments.update_budget else budget, not filtered
    )
    for finding in findings:
        console.print(str(finding), soft_wrap=True)
    if not findings:
        console.print("no spills, no narrow accesses, within the budget")
        return 0
    console.print(f"{len(findings)} findings")
    if budget.triton != triton.__version__ and not arguments.update_budget:
        console.print(
            f"the budget belongs to Triton {budget.triton} and this is {triton.__version__}, so "
            "that they fail nothing"
        )
        return 0
    return 1 if arguments.check else 0


def _budget_to_compare(path: Path, version: str, update: bool, filtered: bool):
    from . import budget as budgets

    if update and (not filtered or not path.exists()):
        return budgets.Budget(version)
    budget = budgets.load(path)
    if update and budget.triton != version:
        raise UserError(
            f"{path} belongs to Triton {budget.triton} and this is {version}: --update-budget has "
            "to measure everything; leave out --arch, --kernel and --case"
        )
    return budget


def select(
    archs: list[int], kernels: list[str] | None = None, cases: list[str] | None = None
) -> list[tuple[Launch, str]]:
    """The distinct launches of all cases, each with the name of the first case that makes it.

    Args:
        archs: compute capabilities. kernels: names, or None for all. cases: words that a case's
            name has to contain, any of these; None for all.

    Raises:
        UserError: no launch has these kernels and words.
    """
    from .cases import all_cases
    from .record import record

    found: dict[str, tuple[Launch, str]] = {}
    for arch in dict.fromkeys(archs):
        for case in all_cases():
            names = Counter()  # a case may launch a kernel in two forms
            for launch in record(case.run, arch):
                if launch.identity not in found:
                    names[launch.kernel] += 1
                    nth = names[launch.kernel]
                    name = case.name if nth == 1 else f"{case.name} #{nth}"
                    found[launch.identity] = launch, name
    known = sorted({launch.kernel for launch, _ in found.values()})
    for name in kernels or ():
        if name not in known:
            raise UserError(
                f"--kernel {name!r}; expected one of {', '.join(known)}.{nearest(name, known)}"
            )
    chosen = [
        (launch, case)
        for launch, case in found.values()
        if (not kernels or launch.kernel in kernels)
        and (not cases or any(set(c.split()) <= set(case.split()) for c in cases))
    ]
    if not chosen:
        example = next(iter(found.values()))[1]
        raise UserError(
            f"--case {cases} and --kernel {kernels} match no configuration; one case is called "
            f"{example!r}"
        )
    return chosen


def compile_all(launches: list[tuple[Launch, str]]) -> list[Measurement]:
    """Compile and read the launches, a few at a time, with a progress bar."""
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
        task = progress.add_task("compiling", total=len(launches))
        futures = [pool.submit(_measure, launch, case) for launch, case in launches]
        try:
            for done in as_completed(futures):
                done.result()
                progress.advance(task)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


def _measure(launch: Launch, case: str) -> Measurement:
    from .measure import measure

    try:
        return measure(launch, case)
    except Exception as error:
        error.add_note(f"while compiling {launch.kernel} for sm_{launch.arch}: {case}")
        raise


def write_json(path: Path, version: str, measurements: list[Measurement]) -> None:
    rows = [
        {**asdict(m), "code": m.code._asdict(), "narrow": m.narrow, "occupancy": m.occupancy}
        for m in measurements
    ]
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({"triton": version, "kernels": rows}, indent=1) + "\n")
