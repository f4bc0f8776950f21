"""Measure one site: every contestant checked, then timed in turns; one row of results each."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import torch

from .. import harness
from . import accuracy, memory
from .contestants import Contestant, batch_norm_library, contestant
from .operands import Call, draw
from .sites import Site
from .sweep import CPU_CALLS, Sweep, cold_sets
from .traffic import PASSES, minimum_bytes


@dataclass(frozen=True)
class Plan:
    """How every site of a run is measured."""

    names: tuple[str, ...]
    dtype: torch.dtype
    device: torch.device
    repeats: int
    copy_bytes_per_second: float


def measure_site(site: Site, plan: Plan) -> list[dict]:
    """Rows of all contestants. One that fails or computes something else gets no times."""
    torch.compiler.reset()
    players = [contestant(name, site, plan.dtype) for name in plan.names]
    rows = {player.name: _empty_row(site, player) for player in players}
    try:
        _fill(site, plan, players, rows)
    except Exception as error:
        # The next site may fit into memory.
        for row in rows.values():
            row["problems"].append(_named(error))
    _release(plan.device)
    now = harness.clocks(plan.device)
    return [row | {"clocks": now} for row in rows.values()]


def _empty_row(site: Site, player: Contestant) -> dict:
    return {
        "site": {
            "name": str(site),
            "kind": site.kind,
            "relu": site.relu,
            "masked": site.masked,
            "shape": list(site.shape),
            "users": site.users,
        },
        "mode": site.mode,
        "contestant": player.name,
        "dtype": str(player.dtype).removeprefix("torch."),
        "bytes": minimum_bytes(site, player.dtype.itemsize),
        "tolerance": accuracy.tolerance(player.dtype),
        "problems": [],
        "times": {},
    }


def _fill(site: Site, plan: Plan, players: list[Contestant], rows: dict) -> None:
    first = draw(site, plan.dtype, plan.device)
    expected = accuracy.exact_results(site, first)
    for player in players:
        _check(player, site, first, expected, rows[player.name])
    del expected
    sound = [p for p in players if not rows[p.name]["problems"]]
    for player in sound:
        call, row = player.own(first), rows[player.name]
        row["saved_bytes"] = memory.saved_bytes(player.run, call)
        row["saved_bytes_per_element"] = round(row["saved_bytes"] / site.elements, 3)
        row["peak_bytes"] = memory.peak_bytes(player.run, call)
    if sound:
        for cache in ("cold", "hot"):
            _time(site, plan, sound, first, rows, cache)


def _check(player: Contestant, site: Site, first: Call, expected: dict, row: dict) -> None:
    """Compare one contestant's results, which also compiles it."""
    call = player.own(first)
    try:
        if player.name.startswith(("eager", "released")):
            row["batch_norm"] = batch_norm_library(call, site.training)
        found = accuracy.results(player.run, call, without_gradients=not site.training)
        found = accuracy.errors(found, expected)
    except Exception as error:
        # A rival that cannot run here is a result too; the others go on.
        row["problems"].append(_named(error))
        return
    row["errors"] = {name: value if isfinite(value) else None for name, value in found.items()}
    for name, value in found.items():
        if value > row["tolerance"]:
            row["problems"].append(
                f"{name} is wrong: relative error {value:.2g}, allowed {row['tolerance']:.2g}"
            )


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def _time(site: Site, plan: Plan, players, first: Call, rows: dict, cache: str) -> None:
    hot = cache == "hot"
    on_gpu = plan.device.type == "cuda"
    operands = {}
    for player in {p.data: p for p in players}.values():
        # The residual or second branch is read, the output written.
        tensors = 2 + (site.kind != "none")
        touched = tensors * site.elements * player.dtype.itemsize
        count = 1 if hot else cold_sets(touched, harness.l2_bytes(plan.device))
        operands[player.data] = [player.own(first) for _ in range(count)]
    options = {"hot": hot, "calls": None if on_gpu else CPU_CALLS, "training": site.training}
    sweeps = {p.name: Sweep(p.run, operands[p.data], **options) for p in players}
    clocks = {"wall": lambda work: harness.wall_seconds(work, plan.device)}
    if on_gpu:
        clocks["graph"] = harness.device_seconds
    for step in PASSES:
        for sweep in sweeps.values():
            if step == "backward":
                sweep.prepare()
            getattr(sweep, step)()  # whatever is done once, such as choosing a kernel
        for clock, seconds_of in clocks.items():
            works = {name: getattr(sweep, step) for name, sweep in sweeps.items()}
            if clock == "graph":
                works = _graphs(works, rows, f"{cache} {step}")
            samples = harness.interleaved(works, seconds_of, plan.repeats)
            for name, seconds in samples.items():
                row = rows[name]
                found = harness.spread(seconds, sweeps[name].calls)
                _rate(found, row["bytes"][step], plan.copy_bytes_per_second)
                row["times"].setdefault(cache, {}).setdefault(clock, {})[step] = found
            del works
        for sweep in sweeps.values():
            sweep.forget()
    for name, sweep in sweeps.items():
        rows[name].setdefault("calls", {})[cache] = [len(sweep.sets), sweep.calls]


def _graphs(works: dict, rows: dict, what: str) -> dict:
    """Replays of captured works; a work that cannot be captured is a problem of its row."""
    replays = {}
    for name, work in works.items():
        try:
            replays[name] = harness.captured(work).replay
        except Exception as error:
            rows[name]["problems"].append(f"no CUDA graph of {what}: {_named(error)}")
    return replays


def _rate(found: dict, least: int, copy_bytes_per_second: float) -> None:
    rate = least / (found["median_us"] * 1e-6)
    found["gb_per_s"] = round(rate / 1e9, 1)
    found["copy_percent"] = round(100 * rate / copy_bytes_per_second, 1)


def _release(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
