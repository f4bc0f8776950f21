"""Profile one contestant after another, keeping every row."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch._dynamo import config as dynamo_config

from ...defective.graph import WARM_UP
from .. import harness
from ..step.case import Case
from ..step.players import Player, random_images
from ..step.ways import WAYS
from .record import profiled, seconds
from .summary import summarise
from .trace import Trace

FIRST = 2
"""Steps that compile and try out algorithms, before those that a graph runs as they are."""


@dataclass(frozen=True)
class Plan:
    """What is profiled, and how.

    Attributes:
        case: with one variant. names: contestants. device: where.
        steps: to profile. folder: where traces go.
    """

    case: Case
    names: tuple[str, ...]
    device: torch.device
    steps: int
    folder: Path

    def trace(self, name: str) -> Path:
        return self.folder / f"{name}.trace.json.gz"

    def traces(self, rows: list[dict]) -> list[Path]:
        return [self.folder / row["trace"] for row in rows if row["trace"]]


@dataclass
class Profiled:
    """A contestant's row, its trace (None if it failed), and how many steps a run of it has."""

    row: dict
    trace: Trace | None = None
    units: int = 1


def profile_all(plan: Plan, head: dict, path: Path, console: Console) -> list[Profiled]:
    """Time all contestants without the profiler, then profile them; rows go to ``path``.

    A profiler can leave traces in a process that slow launches down, so it comes last, and so do
    contestants with CUDA graphs, which some drivers' profiling interface harms.
    """
    found = {name: Profiled(_row(plan, name)) for name in plan.names}
    players: dict[str, Player] = {}
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    try:
        with (
            dynamo_config.patch(recompile_limit=64),
            Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar,
        ):
            task = bar.add_task("", total=2 * len(plan.names))
            data = random_images(plan.case, plan.device)
            for name in plan.names:
                bar.update(task, description=f"{name}: warm up, and time without the profiler")
                with _noting(found[name].row):
                    players[name] = Player(name, plan.case, plan.case.defects[0], data, plan.device)
                    _time(players[name], found[name], plan)
                bar.advance(task)
            for name in sorted(plan.names, key=lambda name: _has_graphs(name)):
                one = found[name]
                bar.update(task, description=f"{name}: profile")
                if not one.row["problems"]:
                    with _noting(one.row):
                        _profile(players[name], one, plan)
                one.row["clocks"] = harness.clocks(plan.device)
                one.row = head | one.row
                harness.append_rows(path, [one.row])
                bar.advance(task)
    finally:
        for player in players.values():
            player.close()
        players.clear()
        gc.collect()
    return list(found.values())


def _row(plan: Plan, name: str) -> dict:
    case = plan.case
    return {
        "arch": case.arch,
        "defects": case.defects[0],
        "width": case.width,
        "image_size": case.image_size,
        "batch_size": case.batch_size,
        "work": case.work,
        "dtype": WAYS[name].dtype(case.dtype),
        "contestant": name,
        "steps": plan.steps,
        "step_ms": None,
        "busy_percent": None,
        "families": {},
        "trace": None,
        "problems": [],
    }


def _time(player: Player, one: Profiled, plan: Plan) -> None:
    losses = player.warm_up(FIRST + WARM_UP)
    if not all(map(math.isfinite, losses)):
        raise ArithmeticError("the loss is not finite")
    one.units = player.units
    runs = _runs(one, plan)
    one.row["steps"] = runs * one.units
    step = seconds(player.run, runs, plan.device) / one.units
    one.row["step_ms"] = round(1e3 * step, 5)


def _profile(player: Player, one: Profiled, plan: Plan) -> None:
    path = plan.trace(one.row["contestant"])
    one.trace = profiled(player.run, _runs(one, plan), plan.device, path)
    one.row["trace"] = path.name
    one.row |= summarise(one.trace, one.row["step_ms"], one.units)


def _runs(one: Profiled, plan: Plan) -> int:
    return -(-plan.steps // one.units)


def _has_graphs(name: str) -> bool:
    return WAYS[name].graph or WAYS[name].compile == "max-autotune"


@contextmanager
def _noting(row: dict) -> Iterator[None]:
    """What goes wrong with one contestant is a problem of its row; the others go on."""
    try:
        yield
    except Exception as error:
        row["problems"].append(f"{type(error).__name__}: {error}"[:500])
