"""Seconds of training until a stated accuracy, over several seeds.

    scotoma bench convergence [options] [options of 'scotoma train']

Trains the same network in several ways (see 'scotoma bench step --help'), once with each seed, and
evaluates after every epoch. The clock runs while batches are made and weights are updated; it
stands while anything is compiled or captured, which happens before on the same network, and during
evaluation. What counts is the first epoch that ends at the target or above; the accuracy at the end
of the run is reported beside it.

Every run is a row of a file of JSON lines. --resume leaves out the runs that are there.

    scotoma bench convergence --target 0.93 --seeds 5 --dataset cifar10 --recipe fast-cifar10

Exit status: 0; 1 if a run diverged; 75 if --resume has
left cases for the next call; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from rich.table import Table

from ..defective.errors import UserError, counted
from ..defective.graph import WARM_UP
from ..kernels import backends
from ..train.config import TrainConfig, check_graph, learning_rate
from ..train.data import DataSet, steps_per_epoch
from ..train.distributed import World
from ..train.engine import Engine
from ..train.screen import show
from ..train.setup import build_model, load_data, make_batches, resolve
from . import harness
from .options import add_resume, add_time_limit, add_variants, fill_in, make_parser, positive
from .report.rows import grouped
from .variants import VARIANTS

RUN_SETTINGS = ("out", "name", "device", "data_root", "download", "save_seconds")
VARIANT_SETTINGS = ("seed", "mask_seed", "backend", "compile", "cuda_graph", "evaluate_on")


class Run(NamedTuple):
    """One variant with one seed."""

    variant: str
    seed: int

    def __str__(self) -> str:
        return f"{self.variant} seed {self.seed}"


def configured(config: TrainConfig, run: Run) -> TrainConfig:
    """The settings of a run: its seed, and how its variant computes."""
    way = VARIANTS[run.variant]
    return replace(
        config,
        seed=run.seed,
        mask_seed=run.seed,
        backend=way.backend,
        compile=way.compile,
        cuda_graph=way.graph,
    )


def measure_run(
    run: Run,
    config: TrainConfig,
    data: DataSet,
    device: torch.device,
    target: float,
    show: Callable[[str], None] = lambda text: None,
) -> dict:
    """Train to the end and evaluate after every epoch; compilation and evaluation are not timed.

    Args:
        run: what. config: resolved settings of all runs. data: what to train on.
        target: accuracy to reach, a fraction. show: told what happens, for people.

    Returns:
        The row: training seconds until the first epoch that ended at ``target`` or above (None if
        none did), and of the whole run; the accuracy after each epoch.
    """
    config = configured(config, run)
    torch.compiler.reset()
    start = time.perf_counter()
    engine = Engine(build_model(config, data), config, device, World())
    batches = make_batches(config, data, data.train, device, training=True)
    held = make_batches(config, data, data.test, device, training=False)
    _prepare(engine, batches, held, config)
    prepared = _now(device) - start
    history, seconds = [], 0.0
    for epoch in range(config.epochs):
        engine.model.train()
        start = _now(device)
        train_epoch(engine, batches, config, epoch)
        seconds += _now(device) - start
        loss, accuracy = engine.evaluate(held.in_order(max(config.batch_size, 250)))
        entry = {"epoch": epoch + 1, "seconds": round(seconds, 4), "accuracy": accuracy}
        history.append(entry | {"loss": loss if math.isfinite(loss) else None})
        show(f"{run}: epoch {epoch + 1}/{config.epochs}, {accuracy:.2%} after {seconds:.1f} s")
        if not math.isfinite(loss):
            break
    reached = next((entry for entry in history if entry["accuracy"] >= target), None)
    return {
        "arch": config.arch,
        "defects": config.defects,
        "dataset": data.name,
        "seed": run.seed,
        "contestant": run.variant,
        "target": target,
        "seconds_to_target": reached and reached["seconds"],
        "epochs_to_target": reached and reached["epoch"],
        "train_s": round(seconds, 4),
        "prepare_s": round(prepared, 3),
        "epochs": config.epochs,
        "accuracy": history[-1]["accuracy"],
        "history": history,
        "problems": [] if math.isfinite(loss) else ["training diverged"],
    }


def train_epoch(engine: Engine, batches, config: TrainConfig, epoch: int) -> None:
    """One epoch of training, as 'scotoma train' does it, of a model in training mode."""
    steps = steps_per_epoch(len(batches), config.batch_size)
    for step, batch in enumerate(batches.epoch(config.seed, epoch, config.batch_size)):
        number = epoch * steps + step
        engine.step(batch, number, learning_rate(config, number, steps), len(batch[1]))


def _prepare(engine: Engine, batches, held, config: TrainConfig) -> None:
    """Everything that is done once, then the initial weights again.

    Written back in place: a CUDA graph goes on using the same memory.
    """
    tensors = engine.model.state_dict()
    before = {name: value.clone() for name, value in tensors.items()}
    size = config.batch_size
    last = steps_per_epoch(len(batches), size) - 1
    for batch in islice(batches.epoch(config.seed, 0, size), WARM_UP + 2):
        engine.step(batch, 0, config.lr, len(batch[1]))
    for batch in batches.epoch(config.seed, 0, size, last):  # which may be a smaller one
        engine.step(batch, 0, config.lr, len(batch[1]))
    engine.evaluate(held.in_order(max(size, 250)))
    with torch.no_grad():
        for name, value in tensors.items():
            value.copy_(before[name])
        for state in engine.optimizer.state.values():
            if "momentum_buffer" in state:
                state["momentum_buffer"].zero_()
        if engine.average is not None:
            engine.average.steps = 0  # the next update copies the weights


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def table(rows: Sequence[dict]) -> Table:
    """Seconds to the target and accuracy at the end, over the seeds of each variant."""

    def reached(own: list[dict], name: str = "seconds_to_target") -> list[float]:
        return [row[name] for row in own if row[name] is not None]

    def mean(name: str, form: str, factor: float = 1.0) -> Callable[[list[dict]], str]:
        return lambda own: mean_and_error([factor * x for x in reached(own, name)], form)

    columns = {
        "variant": lambda own: own[0]["contestant"],
        "seeds": lambda own: str(len(own)),
        "reached": lambda own: f"{len(reached(own))} of {len(own)} at {own[0]['target']:.2%}",
        "s to target": mean("seconds_to_target", ".2f"),
        "epochs": mean("epochs_to_target", ".1f"),
        "s of training": mean("train_s", ".2f"),
        "accuracy %": mean("accuracy", ".2f", 100),
    }
    title = f"{rows[0]['arch']} {rows[0]['defects']} on {rows[0]['dataset']}"
    return harness.console_table(title, grouped(rows, "contestant").values(), columns)


def mean_and_error(values: Sequence[float], form: str) -> str:
    """Mean, and its standard error (nothing for a single value)."""
    if len(values) < 2:
        return format(values[0], form) if values else "-"
    error = statistics.stdev(values) / math.sqrt(len(values))
    return f"{format(statistics.mean(values), form)} ± {format(error, form)}"


def main(argv: list[str]) -> int:
    """Measure, print, and return the exit status. Raises UserError for bad options."""
    options, config = parse(argv)
    device = harness.chosen_device(options.cpu)
    config = resolve(config, device)
    runs = chosen_runs(options, config, device)
    data = load_data(config)
    if data.validation is not None:
        raise UserError("evaluate-on is 'validation'; the target is one of the test images")
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        backends.allow_tf32(convolutions=config.tf32, products=config.tf32)
    settings = asdict(config)
    for name in (*RUN_SETTINGS, *VARIANT_SETTINGS):
        settings.pop(name)
    settings["target"] = options.target
    run = harness.Run("convergence", options, device, settings)
    run.announce(
        f"{config.arch} {config.defects} on {data.name}, {counted(config.epochs, 'epoch')}, "
        f"target {options.target:.2%}"
    )
    with run.console.status("") as status:
        rows = run.measure(
            runs,
            lambda run: [measure_run(run, config, data, device, options.target, status.update)],
            brief,
        )
    if rows:
        show(run.console, table(rows))
    return run.finish(lambda row: row["case"])


def brief(rows: list[dict]) -> str:
    row = rows[0]
    reached = row["seconds_to_target"]
    text = "not reached" if reached is None else f"reached after {reached:.2f} s"
    return f"{text}, {row['accuracy']:.2%} after {row['train_s']:.2f} s"


def chosen_runs(options, config: TrainConfig, device: torch.device) -> list[Run]:
    """Variants in turns, so that the machine's changes meet all of them."""
    usual = ("eager", "compile", "fused", "fused-graph") if device.type == "cuda" else ("eager",)
    names = options.variants or usual
    for name in names:
        if VARIANTS[name].released:
            raise UserError(f"variants has {name!r}, which 'scotoma bench step' alone times")
        refusal = backends.device_refusal(device) if VARIANTS[name].backend == "triton" else None
        if refusal:
            raise UserError(f"variants has {name!r}: {refusal}; leave it out")
        check_graph(configured(config, Run(name, 0)), device, 1)
    return [Run(name, seed) for seed in range(options.seeds) for name in names]


def parse(argv: list[str]) -> tuple[argparse.Namespace, TrainConfig]:
    # Training's own options need a library that nothing else here does.
    from ..train.settings import parse as parse_training

    parser = make_parser("bench convergence", __doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--target", type=float, help="accuracy to reach, a fraction (0.93; 0.8 with --cpu)")
    add("--seeds", type=positive, default=3, help="runs of each variant (3)")
    add_variants(parser, VARIANTS, f"some of {', '.join(VARIANTS)}")
    add_time_limit(parser, 36000)
    add("--out", type=Path, metavar="FILE", help="file of results to append to")
    add_resume(parser)
    add("--cpu", action="store_true", help="on the CPU: a test of this command")
    options, rest = parser.parse_known_args(argv)
    fill_in(options, target=(0.8, 0.93))
    if not 0 < options.target <= 1:
        raise UserError(f"target is {options.target}; expected a fraction, such as 0.93")
    decided = ("--seed", "--mask-seed", "--backend", "--compile", "--device")
    for flag in (*decided, "--cuda-graph", "--no-cuda-graph"):
        if any(word.split("=")[0] == flag for word in rest):
            raise UserError(f"{flag} is what the variants and seeds decide; leave it out")
    dataset = [] if options.cpu else ["--dataset", "cifar10"]
    config, _ = parse_training([*dataset, *rest])
    return options, config
