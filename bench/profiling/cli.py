"""Show where the time of a step goes, for several ways to run the same network.

    scotoma profile ARCH [options]
    scotoma profile --model package:factory [options]

Each variant runs by the clock alone, and then for as many steps under torch's profiler, which slows
the host but not the kernels. Out come a table of time by kernel family (convolution, BN and
epilogue, optimiser, ...), launches and gaps included, side by side; a picture, timeline.png, of one
step of each; and a gzipped trace of each for https://ui.perfetto.dev or chrome://tracing. Rows of
results are appended to a file of JSON lines, profile.jsonl.

--model profiles a network of your own; in the fused variants its batch norms that a ReLU follows
are fused, and what stays as it is, is said.

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
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch._dynamo import config as dynamo_config

from ...defective import Defects, create_model
from ...defective.errors import UserError
from ...defective.graph import WARM_UP
from ...defective.models import model_names
from ...defective.serialization import atomic_path
from ...kernels import backends
from ...train import plots
from ...train.screen import make_console, show
from .. import harness
from ..harness import noting
from ..model import Model, add_model_options, check_fused, chosen_model, refuse_ours
from ..options import DTYPES, add_picture_format, add_variants, check_names, make_parser, positive
from ..variants import (
    VARIANTS,
    WORKS,
    Case,
    NetworkRun,
    chosen_variants,
    explained,
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


class Plan(NamedTuple):
    """What is profiled, and how.

    Attributes:
        case: with one entry in ``defects``. names: variants. device: where.
        steps: to profile. folder: where traces go.
    """

    case: Case
    names: tuple[str, ...]
    device: torch.device
    steps: int
    folder: Path


def profile_all(plan: Plan, head: dict, path: Path, console: Console) -> list[Profiled]:
    """Time all variants without the profiler, then profile them; rows go to ``path``.

    A profiler can leave traces in a process that slow launches down, so it comes last, and so do
    variants with CUDA graphs, which some drivers' profiling interface harms.
    """
    found = {name: Profiled(_empty_row(plan, name)) for name in plan.names}
    runs: dict[str, NetworkRun] = {}
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
                with noting(found[name].row):
                    defects = plan.case.defects[0]
                    runs[name] = NetworkRun(name, plan.case, defects, data, plan.device)
                    _time(runs[name], found[name], plan)
                bar.advance(task)
            for name in sorted(plan.names, key=report.has_graphs):
                one = found[name]
                bar.update(task, description=f"{name}: profile")
                if not one.row["problems"]:
                    with noting(one.row):
                        _profile(runs[name], one, plan)
                one.row["clocks"] = harness.clocks(plan.device)
                one.row = head | one.row
                harness.append_rows(path, [one.row])
                bar.advance(task)
    finally:
        for run in runs.values():
            run.close()
        runs.clear()
        gc.collect()
    return list(found.values())


def _empty_row(plan: Plan, name: str) -> dict:
    case = plan.case
    return {
        "arch": case.arch,
        "defects": case.defects[0],
        "width": case.width,
        "image_size": case.image_size,
        "batch_size": case.batch_size,
        "work": case.work,
        "dtype": VARIANTS[name].dtype(case.dtype),
        "contestant": name,
        "steps": plan.steps,
        "step_ms": None,
        "busy_percent": None,
        "families": {},
        "trace": None,
        "problems": [],
    }


def _time(run: NetworkRun, one: Profiled, plan: Plan) -> None:
    """By the clock alone: the median over stretches of as many runs as are profiled."""
    losses = run.warm_up(FIRST + WARM_UP)
    if not all(map(math.isfinite, losses)):
        raise ArithmeticError("the loss is not finite")
    one.units = run.units
    runs = -(-plan.steps // one.units)

    def work() -> None:
        for _ in range(runs):
            run.run()

    seconds = statistics.median(harness.wall_seconds(work, plan.device) for _ in range(WINDOWS))
    one.row["steps"] = runs * one.units
    one.row["step_ms"] = round(1e3 * seconds / one.row["steps"], 5)


def _profile(run: NetworkRun, one: Profiled, plan: Plan) -> None:
    path = plan.folder / f"{one.row['contestant']}.trace.json.gz"
    one.trace = profiled(run.run, one.row["steps"] // one.units, plan.device, path)
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
    names = chosen_variants(options.variants or usual_variants(on_gpu, model), device)
    if model is not None:
        check_fused(names, model, VARIANTS)
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
    folder, rows_file = places(options.out, case, device)
    if on_gpu:
        torch.backends.cudnn.benchmark = True
        backends.allow_tf32(convolutions=True, products=True)
    console = make_console()
    if model is not None:
        show(console, f"{model.name}: {model.text}")
    settings = {"steps": options.steps, "contestants": list(names)}
    head = harness.row_head("profile", device, settings) | {"case": f"{case} {case.defects[0]}"}
    console.print(
        f"{head['machine']['device']}: {head['case']}: {', '.join(names)}", highlight=False
    )
    plan = Plan(case, names, device, options.steps, folder)
    found = profile_all(plan, head, rows_file, console)
    rows = [one.row for one in found]
    sound = report.sound(rows)
    if sound:
        for view in (report.families(rows), *map(report.largest, sound)):
            show(console, view)
        _lines(console, "no rule knows:", report.others(rows))
        _lines(console, "", report.sentences(rows))
        title = f"{head['case']}, {head['machine']['device']}, torch {head['machine']['torch']}"
        figure = report.draw([one for one in found if one.trace], title)
        picture = plots.save_as(figure, folder / "timeline", options.picture_format)
        traces = [folder / row["trace"] for row in rows if row["trace"]]
        _lines(console, "files:", map(str, [picture, *traces, rows_file]))
    failures = harness.failures(rows, lambda row: row["contestant"])
    _lines(console, "failures:", failures)
    return 1 if failures else 0


def usual_variants(on_gpu: bool, model: Model | None) -> tuple[str, ...]:
    """The names of those that are profiled if none is named."""
    return ON_GPU if on_gpu and (model is None or model.fusible) else ON_CPU


def _lines(console: Console, title: str, lines) -> None:
    lines = list(lines)
    if lines and title:
        console.print(title)
    for line in lines:
        indent = "  " if title else ""
        show(console, f"{indent}{line}")


def places(out: Path | None, case: Case, device: torch.device) -> tuple[Path, Path]:
    """The folder of pictures and traces, and the file of rows. Raises UserError."""
    rows_file = harness.default_path(harness.device_name(device), "profile")
    name = f"{case.arch.replace(':', '-')}-{case.defects[0]}-b{case.batch_size}-{case.work}"
    folder = rows_file.parent / "profile" / name
    if out is not None:
        folder, rows_file = out, out / rows_file.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        with rows_file.open("ab"):
            pass
    except OSError as error:
        raise UserError(
            f"out is {str(folder)!r}, which cannot be written: {error.strerror}; give another "
            "folder"
        ) from error
    return folder, rows_file


def parse(argv: list[str]) -> argparse.Namespace:
    parser = make_parser("profile", __doc__, explained())
    add = parser.add_argument
    add("arch", nargs="?", metavar="ARCH", help=", ".join(model_names()))
    add("--defects", metavar="SPEC", help="of the network (0.3-Bottom)")
    add_model_options(parser)
    add("--batch", type=int, metavar="N", help="batch size (128; 16 with --cpu)")
    add("--work", metavar="WORK", default="train", help="train, evaluate or pgd (train)")
    add_variants(parser, f"default: {' '.join(ON_GPU)}")
    add("--dtype", choices=DTYPES, help="of activations (bfloat16; float32 with --cpu)")
    sizes = "side of the images (32; 224 with --model)"
    add("--image-size", type=positive, metavar="PIXELS", help=sizes)
    add("--width", type=positive, help="base width (the paper's; 8 with --cpu)")
    add("--steps", type=int, metavar="N", help="profiled steps (20; 5 with --cpu)")
    add("--out", type=Path, metavar="FOLDER", help="default: in bench/results/DEVICE")
    add("--cpu", action="store_true", help="a small network on the CPU, operators by family")
    add_picture_format(parser)
    options = parser.parse_args(argv)
    check_names("work", [options.work], WORKS)
    check_names("variants", options.variants or (), VARIANTS)
    options.dtype = options.dtype or ("float32" if options.cpu else "bfloat16")
    for name, usual in (("batch", (16, 128)), ("steps", (5, 20))):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; expected at least 1")
        setattr(options, name, usual[not options.cpu] if value is None else value)
    if options.model is not None:
        refuse_ours(options, "arch", "defects", "width")
        options.defects = "standard"
        return options
    if options.arch is None:
        raise UserError(
            f"which network? Expected one of {', '.join(model_names())}, or --model package:factory"
        )
    check_names("ARCH", [options.arch], model_names())
    options.defects = str(Defects.parse(options.defects or "0.3-Bottom"))
    options.image_size = options.image_size or 32
    options.width = options.width or (8 if options.cpu else None)
    # What a network cannot be is said before anything is measured.
    with torch.device("meta"):
        sizes = {"image_size": options.image_size, "width": options.width}
        create_model(options.arch, options.defects, **sizes)
    return options
