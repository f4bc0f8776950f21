"""Measure one case: every way checked, then timed in turns; one row of results each."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import torch

from .. import harness
from ..layers import accuracy
from ..layers.operands import Call
from ..layers.sweep import CPU_CALLS, Sweep, cold_sets
from .case import Case, Pass, Way, results
from .ceilings import Ceilings, name


@dataclass(frozen=True)
class Plan:
    """How every case of a run is measured.

    Attributes:
        without: backends that are not measured.
    """

    dtype: torch.dtype
    device: torch.device
    repeats: int
    ceilings: Ceilings
    without: tuple[str, ...] = ()


def measure_case(case: Case, plan: Plan) -> list[dict]:
    """Rows of all passes and ways. One that fails or computes something else gets no times."""
    rows: list[dict] = []
    for step in case.passes(plan.dtype.itemsize):
        ways = [w for w in case.ways(plan.dtype, plan.device) if w.backend not in plan.without]
        new = [_empty_row(case, step, way, plan) for way in ways]
        try:
            _fill(case, step, plan, list(zip(ways, new, strict=True)))
        except Exception as error:
            # The next pass may fit into memory.
            for row in new:
                row["problems"].append(_named(error))
        rows += fastest(new)
        _release(plan.device)
    now = harness.clocks(plan.device)
    return [row | {"clocks": now} for row in rows]


def _empty_row(case: Case, step: Pass, way: Way, plan: Plan) -> dict:
    return {
        "operator": case.operator,
        "kind": case.kind,
        "pass": step.name,
        "backend": way.backend,
        "shape": list(case.shape),
        "detail": ", ".join(text for text in (case.detail, step.note) if text),
        "users": case.users,
        "tile": way.tile,
        "dtype": name(plan.dtype),
        "arithmetic": case.arithmetic(plan.dtype, plan.device),
        "bytes": step.moved,
        "flops": step.flops,
        "times": {},
        "gb_per_s": None,
        "tflop_per_s": None,
        "attained_percent": None,
        "problems": [],
    }


def fastest(rows: list[dict]) -> list[dict]:
    """One row a backend: that of its fastest tile, with the times and problems of all tiles."""
    by_backend: dict[str, list[dict]] = {}
    for row in rows:
        by_backend.setdefault(row["backend"], []).append(row)
    return [_merged(tiles) for tiles in by_backend.values()]


def _merged(tiles: list[dict]) -> dict:
    if len(tiles) == 1:
        return tiles[0]
    best = min(tiles, key=lambda row: row["times"].get("median_us", float("inf")))
    medians = {row["tile"]: row["times"].get("median_us") for row in tiles}
    problems = [f"tile {row['tile']}: {text}" for row in tiles for text in row["problems"]]
    return best | {"tiles_us": medians, "problems": problems}


def _fill(case: Case, step: Pass, plan: Plan, ways: list[tuple[Way, dict]]) -> None:
    first = _asking(case.draw(plan.dtype, plan.device), step.wanted)
    expected = case.exact(first)
    for way, row in ways:
        _check(way, first, expected, row, plan)
    del expected
    sound = [(way, row) for way, row in ways if not row["problems"]]
    if sound:
        _time(case, step, plan, sound, first)


def _asking(call: Call, wanted: tuple[str, ...]) -> Call:
    """The call with gradients for the ``wanted`` operands alone."""
    for operand, tensor in call.operands._asdict().items():
        if tensor is not None and tensor.is_floating_point():
            tensor.requires_grad_(operand in wanted)
    return call


def _check(way: Way, first: Call, expected: dict, row: dict, plan: Plan) -> None:
    try:
        found = accuracy.errors(results(way.run, first.copy(plan.dtype)), expected)
    except Exception as error:
        row["problems"].append(_named(error))
        return
    row["errors"] = {key: value if isfinite(value) else None for key, value in found.items()}
    # TF32 has the unit of float16.
    tf32 = row["arithmetic"] == "tf32"
    row["tolerance"] = accuracy.tolerance(torch.float16 if tf32 else plan.dtype)
    for key, value in found.items():
        if value > row["tolerance"]:
            row["problems"].append(
                f"{key} is wrong: relative error {value:.2g}, allowed {row['tolerance']:.2g}"
            )


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def _time(case: Case, step: Pass, plan: Plan, ways: list[tuple[Way, dict]], first: Call) -> None:
    """Cold caches; by graph replay on a GPU, by the wall's clock on a CPU."""
    on_gpu = plan.device.type == "cuda"
    count = cold_sets(case.footprint(plan.dtype.itemsize), harness.l2_bytes(plan.device))
    sets = [first.copy(plan.dtype) for _ in range(count)]
    options = {"hot": False, "calls": None if on_gpu else CPU_CALLS}
    sweeps, works = [], {}
    for number, (way, row) in enumerate(ways):
        sweep = Sweep(way.run, sets, training=step.name != "evaluation", **options)
        sweeps.append(sweep)
        if step.name == "backward":
            sweep.prepare()
        work = sweep.backward if step.name == "backward" else sweep.forward
        work()  # whatever is done once, such as choosing a kernel
        try:
            works[number] = harness.captured(work).replay if on_gpu else work
        except Exception as error:
            row["problems"].append(f"no CUDA graph: {_named(error)}")
    clock = harness.device_seconds if on_gpu else lambda w: harness.wall_seconds(w, plan.device)
    for number, seconds in harness.interleaved(works, clock, plan.repeats).items():
        row = ways[number][1]
        row["times"] = harness.spread(seconds, sweeps[number].calls)
        row["calls"] = [len(sets), sweeps[number].calls]
        rate(row, plan.ceilings)


def rate(row: dict, ceilings: Ceilings) -> None:
    """What a row's median time means: rates, and the percentage of the roof."""
    seconds = row["times"]["median_us"] * 1e-6
    least = row["bytes"], row["flops"], row["arithmetic"]
    row["gb_per_s"] = round(row["bytes"] / seconds / 1e9, 3)
    row["tflop_per_s"] = round(row["flops"] / seconds / 1e12, 6)
    row["attained_percent"] = round(ceilings.attained_percent(seconds, *least), 2)


def _release(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
