"""Measure one case after another, within a time, keeping every result as soon as it is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..train.screen import show
from . import results
from .options import INTERRUPTED, UNFINISHED, terminated_like_interrupted


@dataclass
class Outcome:
    """What was measured, and what was not.

    Attributes:
        rows: in the order of the cases.
        left: cases that were not measured, for lack of time or by interruption.
        interrupted: by Ctrl-C or a polite end of the process.
        resumed: the next call of the same command goes on, so that what is left is no loss.
    """

    rows: list[dict] = field(default_factory=list)
    left: list[Any] = field(default_factory=list)
    interrupted: bool = False
    resumed: bool = False

    def status(self, failures: Sequence[str]) -> int:
        """The command's exit status."""
        if self.interrupted:
            return INTERRUPTED
        if failures:
            return 1
        return UNFINISHED if self.resumed and self.left else 0

    def print_lists(self, console: Console, lists: dict[str, Sequence[str]]) -> None:
        """Titles with a line for each of their items, empty ones left out; at last what is left."""
        for title, lines in (lists | {"not measured": list(map(str, self.left))}).items():
            if lines:
                console.print(f"{title}:")
                for line in lines:
                    show(console, f"  {line}")


def measure_all(
    cases: Sequence[Any],
    measure: Callable[[Any], list[dict]],
    *,
    head: dict,
    path: Path,
    budget_seconds: float,
    console: Console,
    brief: Callable[[list[dict]], str],
    resume: bool = False,
) -> Outcome:
    """Measure cases until all are done or the time is up.

    Args:
        cases: their ``str`` is for people. measure: a case's rows.
        head: what every row begins with. path: JSON lines file to append to.
        budget_seconds: no case is started that would end later, if it took as long as the longest.
        brief: a case's rows in one line.
        resume: leave out cases that the file has from the same machine, commit and settings.

    Raises:
        UserError: the file cannot be written; before anything is measured.
    """
    results.check_writable(path)
    known = {row.get("case") for row in results.measured(path, head)} if resume else set()
    cases = [case for case in cases if str(case) not in known]
    outcome = Outcome(left=list(cases), resumed=resume)
    end, longest = time.monotonic() + budget_seconds, 0.0
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with (
        terminated_like_interrupted(),
        Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar,
    ):
        task = bar.add_task("", total=len(cases))
        for case in cases:
            start = time.monotonic()
            if outcome.rows and start + longest > end:
                break
            bar.update(task, description=str(case))
            try:
                new = [head | {"case": str(case)} | row for row in measure(case)]
            except KeyboardInterrupt:
                outcome.interrupted = True
                break
            results.append(path, new)
            outcome.rows += new
            outcome.left.pop(0)
            bar.advance(task)
            seconds = time.monotonic() - start
            longest = max(longest, seconds)
            show(console, f"{case}: {brief(new)} ({seconds:.0f} s)")
    return outcome
