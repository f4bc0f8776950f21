"""Measure one case: run every contestant once, compare what comes out, time them in turns."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import harness
from .case import Budgets, Case, our_attack
from .contestants import CONTESTANTS, Run, make_run
from .outcome import Outcome, disagreement, judge, predictions
from .target import Target

LONG = 10
"""Stretches: so much longer than one, a first attack is long with or without its preparation."""


@dataclass(frozen=True)
class Plan:
    """How every case of a run is measured.

    Attributes:
        names: contestants. device: where. budgets: of the longer attacks.
        windows: timed stretches of each. window_seconds: length of one, about, at least one attack.
    """

    names: tuple[str, ...]
    device: torch.device
    budgets: Budgets
    windows: int
    window_seconds: float


def measure_case(case: Case, target: Target, plan: Plan) -> list[dict]:
    """Rows of all contestants that have this attack, the peer first."""
    names = sorted(
        (name for name in plan.names if CONTESTANTS[name].takes(case.setup)),
        key=lambda name: name != case.setup.peer,
    )
    attack = our_attack(case, plan.budgets)
    rows = {name: _row(case, name, target, attack.parameters()) for name in names}
    runs: dict[str, Run] = {}
    first: dict[str, float] = {}
    outcomes: dict[str, Outcome] = {}
    theirs: tuple[Tensor, Tensor] | None = None
    images, labels = target.images[: case.batch_size], target.labels[: case.batch_size]
    for name, row in rows.items():
        try:
            run, oracle = make_run(name, case, attack, target)
            first[name], found = _timed(run, plan.device)
            if not bool(found.isfinite().all()):
                raise ValueError("the adversarial images are not finite")
            classes = predictions(target.eager, found)
        except Exception as error:
            # A rival that cannot run here is a result too; the others go on.
            row["problems"].append(f"{type(error).__name__}: {error}"[:500])
            continue
        counts = None if oracle is None else (oracle.forwards.clone(), oracle.backwards.clone())
        outcomes[name] = judge(found, classes, images, labels, theirs, counts)
        row["results"] = outcomes[name].as_dict()
        if name == case.setup.peer:
            theirs = found, classes
        elif theirs is None:
            row["problems"].append("nothing to compare with: the peer failed")
        else:
            peer = outcomes[case.setup.peer]
            row["problems"] += disagreement(outcomes[name], peer, case, row["dtype"])
        runs[name] = run
    _time({name: runs[name] for name in runs if not rows[name]["problems"]}, first, rows, plan)
    now = harness.clocks(plan.device)
    runs.clear()
    gc.collect()
    return [row | {"clocks": now} for row in rows.values()]


def _time(runs: dict[str, Run], first: dict[str, float], rows: dict[str, dict], plan: Plan) -> None:
    """Fill in the times of the contestants whose results agree; ``first``: seconds of one run."""
    calls = {name: _calls(run, first[name], plan) for name, run in runs.items()}

    def window(name: str):
        def work() -> None:
            for _ in range(calls[name]):
                runs[name]()

        return work

    samples = harness.interleaved(
        {name: window(name) for name in runs},
        lambda work: harness.wall_seconds(work, plan.device),
        plan.windows,
    )
    for name, seconds in samples.items():
        row = rows[name]
        row["times"] = harness.spread(seconds, calls[name])
        row["images_per_s"] = round(row["batch_size"] / row["times"]["median_us"] * 1e6, 2)
    for row in rows.values():
        base = rows[row["peer"]]["times"].get("median_us") if row["peer"] in rows else None
        own = row["times"].get("median_us")
        if base and own:
            row["times_faster"] = round(base / own, 3)


def _timed(run: Run, device: torch.device) -> tuple[float, Tensor]:
    """Seconds and result of a first attack."""
    found: list[Tensor] = []
    return harness.wall_seconds(lambda: found.append(run()), device), found[0]


def _calls(run: Run, first: float, plan: Plan) -> int:
    """Attacks in a stretch. A first one that took long says enough, and is not repeated."""
    if first > LONG * plan.window_seconds:
        return 1
    seconds = max(1e-6, harness.wall_seconds(run, plan.device))
    return max(1, min(500, round(plan.window_seconds / seconds)))


def _row(case: Case, name: str, target: Target, parameters: dict) -> dict:
    dtype = CONTESTANTS[name].dtype
    return {
        "attack": case.attack,
        "parameters": parameters,
        "arch": target.arch,
        "defects": target.defects,
        "width": target.width,
        "image_size": target.images.shape[-1],
        "dataset": target.dataset,
        "accuracy": target.accuracy,
        "test_images": min(case.batch_size, target.from_test),
        "batch_size": case.batch_size,
        "contestant": name,
        "peer": case.setup.peer,
        "dtype": "float32" if dtype is None else str(dtype).removeprefix("torch."),
        "results": {},
        "times": {},
        "images_per_s": None,
        "times_faster": None,
        "problems": [],
    }
