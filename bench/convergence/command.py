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
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console

from ...defective.errors import UserError, counted
from ...kernels import backends
from ...train.config import TrainConfig
from ...train.dataset import DataSet
from ...train.graph import check_graph
from ...train.screen import make_console, show
from ...train.settings import HelpFormatter
from ...train.setup import load_data, resolve
from .. import harness
from ..harness import (
    Outcome,
    add_resume,
    add_time_limit,
    check_names,
    chosen_device,
    measure_all,
    positive,
)
from ..step.ways import WAYS
from .measure import Run, configured, measure_run
from .table import table

RUN_SETTINGS = ("out", "name", "device", "data_root", "download", "save_seconds")
CONTESTANT_SETTINGS = ("seed", "mask_seed", "backend", "compile", "cuda_graph", "evaluate_on")


def main(argv: list[str]) -> int:
    """Measure, print, and return the exit status. Raises UserError for bad options."""
    options, config = parse(argv)
    device = chosen_device(options.cpu)
    config = resolve(config, device)
    runs = chosen_runs(options, config, device)
    data = load_data(config)
    if data.validation is not None:
        raise UserError("evaluate-on is 'validation'; the target is one of the test images")
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        backends.allow_tf32(convolutions=config.tf32, products=config.tf32)
    console = make_console()
    outcome = run(options, config, runs, data, device, console)
    if outcome.rows:
        show(console, table(outcome.rows))
    failures = [f"{row['case']}: {problem}" for row in outcome.rows for problem in row["problems"]]
    outcome.print_lists(console, {"failures": failures})
    return outcome.status(failures)


def run(
    options, config: TrainConfig, runs: list[Run], data: DataSet, device, console: Console
) -> Outcome:
    """Measure the runs, keeping every row."""
    path = options.out or harness.default_path(harness.device_name(device), "convergence")
    settings = asdict(config)
    for name in (*RUN_SETTINGS, *CONTESTANT_SETTINGS):
        settings.pop(name)
    settings["target"] = options.target
    head = harness.row_head("convergence", device, settings)
    console.print(
        f"{head['machine']['device']}: {config.arch} {config.defects} on {data.name}, "
        f"{counted(config.epochs, 'epoch')}, target {options.target:.2%} -> {path}"
    )
    with console.status("") as status:
        return measure_all(
            runs,
            lambda run: [measure_run(run, config, data, device, options.target, status.update)],
            head=head,
            path=path,
            time_limit=options.time_limit,
            console=console,
            brief=brief,
            resume=options.resume,
        )


def brief(rows: list[dict]) -> str:
    row = rows[0]
    reached = row["seconds_to_target"]
    text = "not reached" if reached is None else f"reached after {reached:.2f} s"
    return f"{text}, {row['accuracy']:.2%} after {row['train_s']:.2f} s"


def chosen_runs(options, config: TrainConfig, device: torch.device) -> list[Run]:
    """Contestants in turns, so that the machine's changes meet all of them."""
    usual = ("eager", "compile", "fused", "fused-graph") if device.type == "cuda" else ("eager",)
    names = check_names("contestants", options.contestants or usual, WAYS)
    runs = [Run(name, seed) for seed in range(options.seeds) for name in names]
    for name in names:
        if WAYS[name].released:
            raise UserError(f"contestants has {name!r}, which 'scotoma bench step' alone times")
        refusal = backends.device_refusal(device) if WAYS[name].backend == "triton" else None
        if refusal:
            raise UserError(f"contestants has {name!r}: {refusal}; leave it out")
        check_graph(configured(config, Run(name, 0)), device, 1)
    return runs


def parse(argv: list[str]) -> tuple[argparse.Namespace, TrainConfig]:
    # Training's own options need a library that nothing else here does.
    from ...train.settings import parse as parse_training

    parser = argparse.ArgumentParser(
        "scotoma bench convergence",
        description=__doc__,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--target", type=float, help="accuracy to reach, a fraction (0.93; 0.8 with --cpu)")
    add("--seeds", type=positive, default=3, help="runs of each contestant (3)")
    add("--contestants", nargs="+", metavar="NAME", help=f"some of {', '.join(WAYS)}")
    add_time_limit(parser, 36000)
    add("--out", type=Path, metavar="FILE", help="file of results to append to")
    add_resume(parser)
    add("--cpu", action="store_true", help="on the CPU: a test of this command")
    options, rest = parser.parse_known_args(argv)
    options.target = options.target or (0.8 if options.cpu else 0.93)
    if not 0 < options.target <= 1:
        raise UserError(f"target is {options.target}; expected a fraction, such as 0.93")
    decided = ("--seed", "--mask-seed", "--backend", "--compile", "--device")
    for flag in (*decided, "--cuda-graph", "--no-cuda-graph"):
        if any(word.split("=")[0] == flag for word in rest):
            raise UserError(f"{flag} is what the contestants and seeds decide; leave it out")
    dataset = [] if options.cpu else ["--dataset", "cifar10"]
    config, _ = parse_training([*dataset, *rest])
    return options, config
