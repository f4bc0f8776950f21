"""Show where the time of a step goes, for several ways to run the same network.

    scotoma profile ARCH [options]
    scotoma profile --model package:factory [options]

Each variant runs by the clock alone, and then for as many steps under torch's profiler, which slows
the host but not the kernels. Out come a table of time by kernel family (convolution, BN and
epilogue, optimiser, ...), launches and gaps included, side by side; a picture, timeline.png, of one
step of each; and a gzipped trace of each for https://ui.perfetto.dev or chrome://tracing. Rows of
results are appended to a file of JSON lines, profile.jsonl.

--model profiles a network of your own; in the fused variants its batch norms are fused, and
what stays as it is, is said.

The share of a step in which the device is busy is the time of its kernels and copies, by the
profiler, over that of a step by the clock without it.

Exit status: 0; 1 if a variant failed; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import gc
import gzip
import json
import math
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch._dynamo import config as dynamo_config

from ...defective.errors import UserError
from ...defective.graph import WARM_UP
from ...defective.models import model_names
from ...defective.serialization import atomic_path
from ...kernels import backends
from ...train import plots
from ...train.screen import show
from ...train.store import writable
from .. import harness
from ..harness import noting
from ..model import chosen_model, refuse_ours
from ..options import Names, add_picture_format, fill_in, make_parser, positive
from ..variants import (
    VARIANTS,
    WORKS,
    Case,
    NetworkRun,
    add_network_options,
    checked_networks,
    chosen_variants,
    random_images,
)
from . import report
from .report import Profiled
from .trace import Trace, read, summarise

ON_GPU, ON_CPU = ("eager", "fused"), ("eager",)
FIRST = 2
"""Steps that compile and try out algorithms, before those that a graph runs as they are."""
WINDOWS = 3
"""Stretches by the clock; the median counts."""
SKIPPED = 2
"""Runs in which the profiler warms up, and records nothing."""


def profile_all(
    case: Case, names: Sequence[str], steps: int, folder: Path, call: harness.Run
) -> list[Profiled]:
    """Time all variants without the profiler, then profile them; rows go to the call's file.

    A profiler can leave traces in a process that slow launches down, so it comes last, and so do
    variants with CUDA graphs, which some drivers' profiling interface harms.

    Args:
        case: with one entry in ``defects``. names: variants. folder: where traces go.
    """
    found = {name: Profiled(_empty_row(case, name, steps)) for name in names}
    runs: dict[str, NetworkRun] = {}
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    try:
        with (
            dynamo_config.patch(recompile_limit=64),
            Progress(*columns, TimeElapsedColumn(), console=call.console, transient=True) as bar,
        ):
            task = bar.add_task("", total=2 * len(names))
            data = random_images(case, call.device)
            for name, one in found.items():
                bar.update(task, description=f"{name}: warm up, and time without the profiler")
                with noting(one.row):
                    runs[name] = NetworkRun(name, case, case.defects[0], data, call.device)
                    _time(runs[name], one, steps, call.device)
                bar.advance(task)
            for name in sorted(names, key=report.has_graphs):
                one = found[name]
                bar.update(task, description=f"{name}: profile")
                if not one.row["problems"]:
                    with noting(one.row):
                        _profile(runs[name], one, folder, call.device)
                one.row = call.head | one.row | {"clocks": harness.clocks(call.device)}
                harness.append_rows(call.path, [one.row])
                bar.advance(task)
    finally:
        for run in runs.values():
            run.close()
        runs.clear()
        gc.collect()
    call.rows = [one.row for one in found.values()]
    return list(found.values())


def _empty_row(case: Case, name: str, steps: int) -> dict:
    later = dict.fromkeys(("step_ms", "busy_percent", "trace"))
    row = case.as_row(name, case.defects[0]) | {"steps": steps, "families": {}, "problems": []}
    return row | later


def _time(run: NetworkRun, one: Profiled, steps: int, device: torch.device) -> None:
    """By the clock alone: the median over stretches of as many runs as are profiled."""
    losses = run.warm_up(FIRST + WARM_UP)
    if not all(map(math.isfinite, losses)):
        raise ArithmeticError("the loss is not finite")
    one.units = run.units
    runs = -(-steps // one.units)
    stretches = harness.time_in_turns({"": run.run}, {"": runs}, device, WINDOWS)[""]
    one.row["steps"] = runs * one.units
    one.row["step_ms"] = round(1e3 * statistics.median(stretches) / one.row["steps"], 5)


def _profile(run: NetworkRun, one: Profiled, folder: Path, device: torch.device) -> None:
    path = folder / f"{one.row['contestant']}.trace.json.gz"
    one.trace = profiled(run.run, one.row["steps"] // one.units, device, path)
    one.row["trace"] = path.name
    one.row |= summarise(one.trace, one.row["step_ms"], one.units)


def profiled(run: Callable[[], object], runs: int, device: torch.device, path: Path) -> Trace:
    """Profile a number of steady runs, and leave the trace, gzipped, at ``path``.

    Two more are recorded than are looked at; see :func:`scotoma.bench.profiling.trace.read`.

    Raises:
        UnreadableTrace: the profiler did not record what was asked for.
    """
    on_device = device.type == "cuda"
    if not on_device:
        # Kineto would write lines to stderr that there is no GPU. On one it may have reasons.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from torch.profiler import ProfilerActivity, profile, schedule

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_device
    recorded = runs + 2
    plan = schedule(wait=0, warmup=SKIPPED, active=recorded, repeat=1)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "trace.json"

        def export(profiler) -> None:
            profiler.export_chrome_trace(str(whole))

        with profile(activities=activities, schedule=plan, on_trace_ready=export) as profiler:
            for number in range(SKIPPED + recorded):
                run()
                # Nothing of the steps before runs in what is recorded, and all of it is finished.
                if on_device and number + 1 in (SKIPPED, SKIPPED + recorded):
                    torch.cuda.synchronize(device)
                profiler.step()
        with (
            whole.open("rb") as plain,
            atomic_path(path) as temporary,
            gzip.open(temporary, "wb", compresslevel=6) as packed,
        ):
            shutil.copyfileobj(plain, packed)
        text = whole.read_text(encoding="utf-8", errors="replace")
    return read(json.loads(text, strict=False)["traceEvents"], on_device)


def main(argv: list[str]) -> int:
    """Profile, print, draw, and return the exit status. Raises UserError for bad options."""
    options = parse(argv)
    model = chosen_model(options)
    device = harness.chosen_device(options.cpu)
    on_gpu = device.type == "cuda"
    names = chosen_variants(options.variants, ON_GPU if on_gpu else ON_CPU, device, model)
    case = Case(
        options.arch if model is None else model.name,
        (options.defects,),
        options.batch,
        options.work,
        options.dtype,
        options.image_size if model is None else model.image_size,
        options.width,
        model,
    )
    # The folder of pictures and traces is that of the rows, or one of the case's below it.
    name = f"{case.arch.replace(':', '-')}-{case.defects[0]}-b{case.batch_size}-{case.work}"
    inside = "" if options.out else f"profile/{name}"
    options.out = options.out and writable(options.out) / "profile.jsonl"
    settings = {"steps": options.steps, "contestants": list(names)}
    call = harness.Run("profile", options, device, settings)
    folder = writable(call.path.parent, inside) / inside
    call.head["case"] = f"{case} {case.defects[0]}"
    if on_gpu:
        torch.backends.cudnn.benchmark = True
        backends.allow_tf32(convolutions=True, products=True)
    if model is not None:
        show(call.console, f"{model.name}: {model.text}")
    call.announce(f"{call.head['case']}: {', '.join(names)}")
    found = profile_all(case, names, options.steps, folder, call)
    if rows := [row for row in call.rows if row["families"]]:
        for view in (report.families(rows), *map(report.largest, rows)):
            show(call.console, view)
        machine = call.head["machine"]
        title = f"{call.head['case']}, {machine['device']}, torch {machine['torch']}"
        figure = report.draw([one for one in found if one.trace], title)
        picture = plots.save_as(figure, folder / "timeline", options.picture_format)
        lists = {
            "no rule knows": report.others(rows),
            "what follows": report.sentences(rows),
            "files": [picture, *(folder / row["trace"] for row in rows), call.path],
        }
        for heading, lines in lists.items():
            if lines:
                show(call.console, f"{heading}:", *(f"  {line}" for line in lines))
    return call.finish(lambda row: row["contestant"])


def parse(argv: list[str]) -> argparse.Namespace:
    parser = make_parser("profile", __doc__, {"works": WORKS, "variants": VARIANTS})
    add = parser.add_argument
    networks = {"known": model_names(), "metavar": "ARCH", "help": ", ".join(model_names())}
    add("arch", action=Names, nargs="?", **networks)
    add("--defects", metavar="SPEC", help="of the network (0.3-Bottom)")
    add("--batch", type=positive, metavar="N", help="batch size (128; 16 with --cpu)")
    works = {"default": "train", "help": "train, evaluate or pgd (train)"}
    add("--work", action=Names, known=WORKS, metavar="WORK", **works)
    add_network_options(parser, ON_GPU)
    add("--steps", type=positive, metavar="N", help="profiled steps (20; 5 with --cpu)")
    add("--out", type=Path, metavar="FOLDER", help="default: in bench/results/DEVICE")
    add("--cpu", action="store_true", help="a small network on the CPU, operators by family")
    add_picture_format(parser)
    options = parser.parse_args(argv)
    fill_in(options, dtype=("float32", "bfloat16"), batch=(16, 128), steps=(5, 20))
    if options.model is not None:
        refuse_ours(options, "arch", "defects", "width")
        options.defects = "standard"
        return options
    if options.arch is None:
        raise UserError(
            f"which network? Expected one of {', '.join(model_names())}, or --model package:factory"
        )
    defects = options.defects or "0.3-Bottom"
    (options.defects,) = checked_networks(options, [options.arch], [defects])
    return options
