"""Measure one case: build every contestant, compare what they compute, time them in turns."""

from __future__ import annotations

import gc
import math
import time
from dataclasses import dataclass

import torch
from torch._dynamo import config as dynamo_config

from ...defective.graph import WARM_UP
from ...train.data import ResidentBatches
from .. import harness
from .case import STANDARD, Case
from .players import Player, random_images
from .ways import WAYS

FIRST = 2
"""Steps before memory is measured: they compile and try out algorithms."""
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 5e-2}
"""Of the relative difference in loss to the first contestant, over a few steps of training."""


@dataclass(frozen=True)
class Plan:
    """How every case of a run is measured.

    Attributes:
        names: contestants; the first is what the others are compared with.
        device: where. windows: timed stretches of each. window_seconds: length of one, about.
    """

    names: tuple[str, ...]
    device: torch.device
    windows: int
    window_seconds: float


def measure_case(case: Case, plan: Plan) -> list[dict]:
    """Rows of all contestants and variants.

    All are kept in memory at once, so that they can be timed in turns; where that is too much,
    one contestant after the other, its variants in turns.
    """
    data = random_images(case, plan.device)
    # One entry of the compiler's cache for each contestant, variant and mode.
    with dynamo_config.patch(recompile_limit=64):
        try:
            return _measure(case, plan, plan.names, data, in_turns=True)
        except torch.OutOfMemoryError:
            _release(plan.device)
        rows = []
        for name in plan.names:
            try:
                rows += _measure(case, plan, (name,), data, in_turns=False)
            except torch.OutOfMemoryError as error:
                rows += [_row(case, name, d) | {"problems": [_named(error)]} for d in case.defects]
                _release(plan.device)
    _compare(rows, case)
    return _with_overheads(rows)


def _measure(
    case: Case, plan: Plan, names: tuple[str, ...], data: ResidentBatches, in_turns: bool
) -> list[dict]:
    torch.compiler.reset()
    players: dict[tuple[str, str], Player] = {}
    rows = {
        (name, defects): _row(case, name, defects) for name in names for defects in case.defects
    }
    try:
        for key, row in rows.items():
            row["in_turns"] = in_turns
            try:
                players[key] = _prepared(*key, case, data, plan, row)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                # A rival that cannot run here is a result too; the others go on.
                row["problems"].append(_named(error))
        if in_turns:
            _compare(list(rows.values()), case)
        sound = {key: player for key, player in players.items() if not rows[key]["problems"]}
        steps = {key: _window(player, plan) for key, player in sound.items()}

        def window(key):
            def work():
                for _ in range(steps[key]):
                    sound[key].run()

            return work

        samples = harness.interleaved(
            {key: window(key) for key in sound},
            lambda work: harness.wall_seconds(work, plan.device),
            plan.windows,
        )
        for key, seconds in samples.items():
            _fill(rows[key], seconds, steps[key] * sound[key].units)
    finally:
        for player in players.values():
            player.close()
        players.clear()
        _release(plan.device)
    now = harness.clocks(plan.device)
    return _with_overheads([row | {"clocks": now} for row in rows.values()])


def _row(case: Case, name: str, defects: str) -> dict:
    return {
        "arch": case.arch,
        "defects": defects,
        "width": case.width,
        "image_size": case.image_size,
        "batch_size": case.batch_size,
        "work": case.work,
        "contestant": name,
        "dtype": WAYS[name].dtype(case.dtype),
        "losses": [],
        "times": {},
        "images_per_s": None,
        "peak_bytes": None,
        "prepare_s": None,
        "mask_overhead_percent": None,
        "problems": [],
    }


def _prepared(
    name: str, defects: str, case: Case, data: ResidentBatches, plan: Plan, row: dict
) -> Player:
    """A contestant ready to be timed; its losses, memory and preparation time go to ``row``."""
    on_gpu = plan.device.type == "cuda"
    before = torch.cuda.memory_allocated(plan.device) if on_gpu else 0
    start = time.perf_counter()
    player = Player(name, case, defects, data, plan.device)
    losses = player.warm_up(FIRST)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(plan.device)
    losses += player.warm_up(WARM_UP)
    row["prepare_s"] = round(time.perf_counter() - start, 3)
    row["losses"] = [loss if math.isfinite(loss) else None for loss in losses]
    if on_gpu:
        row["peak_bytes"] = torch.cuda.max_memory_allocated(plan.device) - before
    return player


def _compare(rows: list[dict], case: Case) -> None:
    """A time of a wrong result is worth nothing: losses must be those of the first contestant."""
    tolerance, first = TOLERANCE[case.dtype], {}
    for row in rows:
        if None in row["losses"]:
            row["problems"].append("the loss is not finite")
        # The loader's workers draw their own order and crops.
        if not row["losses"] or None in row["losses"] or WAYS[row["contestant"]].released:
            continue
        expected = first.setdefault(row["defects"], row["losses"])
        worst = max(
            abs(a - b) / max(abs(b), 0.1) for a, b in zip(row["losses"], expected, strict=True)
        )
        if worst > tolerance:
            row["problems"].append(
                f"losses differ from the first contestant's by {worst:.2g}, allowed {tolerance:.2g}"
            )
            row["times"], row["images_per_s"] = {}, None


def _window(player: Player, plan: Plan) -> int:
    """Steps that take about the window's time."""
    seconds = harness.wall_seconds(player.run, plan.device)
    return max(2, min(500, round(plan.window_seconds / max(seconds, 1e-6))))


def _fill(row: dict, seconds: list[float], steps: int) -> None:
    row["times"] = harness.spread(seconds, steps)
    row["images_per_s"] = round(row["batch_size"] / row["times"]["median_us"] * 1e6, 1)


def _with_overheads(rows: list[dict]) -> list[dict]:
    """How much longer a step takes with masks than without, in the same contestant."""
    plain = {r["contestant"]: r["times"].get("median_us") for r in rows if r["defects"] == STANDARD}
    for row in rows:
        base, own = plain.get(row["contestant"]), row["times"].get("median_us")
        if row["defects"] != STANDARD and base and own:
            row["mask_overhead_percent"] = round(100 * (own / base - 1), 2)
    return rows


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def _release(device: torch.device) -> None:
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
