"""Time attacks beside those of foolbox, at equal settings and with equal results.

    scotoma bench attacks [options]

A small network learns the sample that comes with scotoma (or --model names a trained one), once for
each variant. Every attack then runs on images that the network has right: ours in several ways,
foolbox's (for MI-FGSM torchattacks') with the same settings. First all results are compared, by
pixels and predictions, or by success rate and median perturbation; one that does not agree gets no
time. Then they are timed in turns, by Python's clock. What a time covers is the attack alone: no
side judges its results in it.

Rows of results, with the device, versions, commit and clocks, are appended to a file of JSON lines;
a table of each case follows, and the cases in which a library is faster than we are.

Needs foolbox: pip install 'scotoma[crosscheck]'

Exit status: 0; 1 if a contestant failed or found something else; 75 if --resume has
left cases for the next call; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict

import torch
from rich.console import Console

from ...defective import Defects
from ...defective.errors import UserError
from ...kernels import backends
from ...train.config import TrainConfig
from ...train.screen import make_console, show
from ...train.settings import HelpFormatter
from .. import harness
from ..harness import Outcome, add_run_options, check_names, chosen_device, measure_all, positive
from . import table
from .case import SETUPS, TORCHATTACKS, Budgets, Case, our_attack
from .contestants import CONTESTANTS, PEERS, explained
from .measure import Plan, measure_case
from .peers import available, library
from .target import Target, loaded, trained

ARCH = "resnet18"
TRAINING_LIMIT = 2000
"""Training images on a CPU."""


def main(argv: list[str]) -> int:
    """Measure, print, and return the exit status. Raises UserError for bad options."""
    options = parse(argv)
    if options.list:
        for case in chosen_cases(options, named(options)):
            print(f"{case}: {our_attack(case, budgets(options))}")
        return 0
    device = chosen_device(options.cpu)
    names = contestants(options, device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    console = make_console()
    outcome = run(options, names, device, console)
    for view in table.tables(outcome.rows):
        show(console, view)
    failures = table.failures(outcome.rows)
    outcome.print_lists(console, {"failures": failures, "losses": table.losses(outcome.rows)})
    return outcome.status(failures)


def run(options, names: tuple[str, ...], device: torch.device, console: Console) -> Outcome:
    """Train or load the networks and measure the cases, keeping every row."""
    path = options.out or harness.default_path(harness.device_name(device), "attacks")
    plan = Plan(names, device, budgets(options), options.windows, options.window_seconds)
    settings = {
        "windows": options.windows,
        "window_seconds": options.window_seconds,
        "contestants": list(names),
        "budgets": asdict(plan.budgets),
        "training_epochs": None if options.model else options.epochs,
        "foolbox": harness.version("foolbox"),
        "torchattacks": harness.version("torchattacks"),
        "cudnn_tf32": backends.convolutions_may_use_tf32(),
    }
    head = harness.row_head("attacks", device, settings)
    console.print(f"{head['machine']['device']}: {', '.join(names)} -> {path}")
    harness.check_writable(path)
    targets = {}
    for target in chosen_targets(options, device, console):
        targets[target.name] = target
        console.print(
            f"{target.name}: {target.accuracy:.2%} of the test images of {target.dataset}",
            highlight=False,
        )
    cases = chosen_cases(options, [(t.name, t.defects) for t in targets.values()])
    return measure_all(
        cases,
        lambda case: measure_case(case, targets[case.network], plan),
        head=head,
        path=path,
        time_limit=options.time_limit,
        console=console,
        brief=brief,
        resume=options.resume,
    )


def named(options) -> list[tuple[str, str]]:
    """Networks (name, defects) before there are any."""
    if options.model:
        return [(options.model, "")]
    width = "" if options.width is None else f" width {options.width}"
    return [(f"{ARCH} {defects}{width}", defects) for defects in options.defects]


def chosen_targets(options, device: torch.device, console: Console) -> list[Target]:
    """The network that was named, or one of each variant, trained now."""
    count = max(options.batch)
    if options.model:
        return [loaded(options.model, options.dataset, device, count)]
    found = []
    for defects in options.defects:
        config = TrainConfig(
            arch=ARCH,
            defects=defects,
            width=options.width,
            epochs=options.epochs,
            train_limit=TRAINING_LIMIT if device.type == "cpu" else None,
        )
        with console.status(f"training {ARCH} {defects}"):
            found.append(trained(config, device, count))
    return found


def brief(rows: list[dict]) -> str:
    """Seconds of each contestant."""

    def text(row: dict) -> str:
        median = row["times"].get("median_us")
        return "failed" if median is None else f"{median / 1e6:.4g} s"

    return ", ".join(f"{row['contestant']} {text(row)}" for row in rows)


def chosen_cases(options, networks: list[tuple[str, str]]) -> list[Case]:
    """Cases of networks (name, defects), the short attacks first."""
    return [
        Case(attack, name, defects, batch)
        for attack in options.attacks
        for batch in options.batch
        for name, defects in networks
    ]


def budgets(options) -> Budgets:
    constants, first = (4, 1.0) if options.cpu else (6, 0.01)
    return Budgets(constants, options.cw_steps, first, options.boundary_steps)


def contestants(options, device: torch.device) -> tuple[str, ...]:
    """The names asked for, or all that can run here. Raises UserError."""
    on_gpu = device.type == "cuda"
    usual = [name for name, who in CONTESTANTS.items() if on_gpu or not who.gpu]
    names = check_names("contestants", options.contestants or usual, CONTESTANTS)
    if os.environ.get(backends.VARIABLE):
        raise UserError(
            f"{backends.VARIABLE} is set, which would decide for the contestants; unset it"
        )
    for name in names:
        if CONTESTANTS[name].gpu and not on_gpu:
            raise UserError(f"contestants has {name!r}, which needs a GPU; leave it out")
    for attack in options.attacks:
        peer = SETUPS[attack].peer
        if peer not in names:
            raise UserError(
                f"contestants lacks {peer!r}, which {attack} is compared with: no speed is shown "
                "without the proof that results agree"
            )
        library(peer)
    wanted = {SETUPS[attack].peer for attack in options.attacks}
    return tuple(name for name in names if name not in PEERS or name in wanted)


def parse(argv: list[str]) -> argparse.Namespace:
    attacks = "\n".join(f"  {name:24} {setup.text}" for name, setup in SETUPS.items())
    parser = argparse.ArgumentParser(
        "scotoma bench attacks",
        description=__doc__,
        formatter_class=HelpFormatter,
        epilog=f"attacks:\n{attacks}\n\ncontestants:\n{explained()}",
    )
    add = parser.add_argument
    add("--attacks", nargs="+", metavar="NAME", help=f"some of {', '.join(SETUPS)} (all)")
    add("--defects", nargs="+", metavar="SPEC", help="variants (standard 0.3-Bottom)")
    add("--batch", nargs="+", type=positive, metavar="N", help="batch sizes (128 1000; 32 on CPU)")
    add("--contestants", nargs="+", metavar="NAME", help="default: all that can run here")
    add("--width", type=positive, help=f"base width of {ARCH} (the paper's; 8 with --cpu)")
    add("--epochs", type=positive, help="of the training before (4; 3 on 2000 images with --cpu)")
    add("--model", metavar="RUN", help="attack this run folder or checkpoint; nothing is trained")
    add("--dataset", metavar="NAME", help="with --model: its data set, where no run folder says it")
    add(
        "--cw-steps",
        type=positive,
        metavar="N",
        help="of cw-l2, cw-l2-stop for a constant (200; 40 on CPU)",
    )
    add("--boundary-steps", type=positive, metavar="N", help="of boundary (2000; 200 on CPU)")
    add("--windows", type=positive, help="timed stretches of each contestant (5; 3 with --cpu)")
    add("--window-seconds", type=float, default=0.3, help="least length of a stretch, about (0.3)")
    add_run_options(parser, "attacks", 1800)
    options = parser.parse_args(argv)
    if not options.window_seconds > 0:
        raise UserError(f"window-seconds is {options.window_seconds}; expected more than 0")
    if options.dataset and not options.model:
        raise UserError("dataset is for --model; without one the network learns the sample")
    if options.model:
        for name in ("defects", "width", "epochs"):
            if getattr(options, name) is not None:
                raise UserError(f"{name} is what the network of --model decides; leave it out")
    usual = [name for name, s in SETUPS.items() if s.peer != TORCHATTACKS or available(s.peer)]
    options.attacks = check_names("attacks", options.attacks or usual, SETUPS)
    check_names("contestants", options.contestants or (), CONTESTANTS)
    for name, on_cpu, on_gpu in (
        ("batch", [32], [128, 1000]),
        ("width", 8, None),
        ("epochs", 3, 4),
        ("cw_steps", 40, 200),
        ("boundary_steps", 200, 2000),
        ("windows", 3, 5),
    ):
        given = getattr(options, name)
        setattr(options, name, given or (on_cpu if options.cpu else on_gpu))
    defects = options.defects or ["standard", "0.3-Bottom"]
    options.defects = tuple(dict.fromkeys(str(Defects.parse(text)) for text in defects))
    return options
