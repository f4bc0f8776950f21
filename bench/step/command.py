"""Time whole steps of the networks: training, evaluation and PGD.

    scotoma bench step [options]

Standard and defective networks, at several batch sizes, run in several ways: plain PyTorch,
torch.compile, the fused operators, and each of them as one CUDA graph. All contestants of a case
are built first, their losses compared, and then timed in turns, by Python's clock over windows of
many steps. Rows of results, with the device, versions, commit and clocks, are appended to a file of
JSON lines; a table of each case follows, and the cases in which a rival is the fastest.

Exit status: 0; 1 if a contestant failed or computed something else; 75 if --resume has
left cases for the next call; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import os

import torch
from rich.console import Console

from ...defective import Defects, create_model
from ...defective.errors import UserError
from ...defective.models import model_names
from ...kernels import backends
from ...train.screen import make_console, show
from ...train.settings import HelpFormatter
from .. import harness
from ..harness import Outcome, add_run_options, check_names, chosen_device, measure_all, positive
from . import table
from .case import STANDARD, WORKS, Case
from .measure import Plan, measure_case
from .ways import ON_CPU, ON_GPU, WAYS, explained

DTYPES = ("bfloat16", "float16", "float32")


def main(argv: list[str]) -> int:
    """Measure, print, and return the exit status. Raises UserError for bad options."""
    options = parse(argv)
    cases = chosen_cases(options)
    if options.list:
        for case in cases:
            print(f"{case} ({', '.join(case.defects)})")
        return 0
    device = chosen_device(options.cpu)
    names = contestants(options, device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        backends.allow_tf32(convolutions=True, products=True)
    console = make_console()
    outcome = run(options, cases, names, device, console)
    for view in table.tables(outcome.rows):
        show(console, view)
    failures = table.failures(outcome.rows)
    outcome.print_lists(console, {"failures": failures, "losses": table.losses(outcome.rows)})
    return outcome.status(failures)


def run(options, cases: list[Case], names: tuple[str, ...], device, console: Console) -> Outcome:
    """Measure the cases, keeping every row."""
    path = options.out or harness.default_path(harness.device_name(device), "step")
    settings = {"windows": options.windows, "window_seconds": options.window_seconds}
    settings |= {"contestants": list(names), "defects": list(options.defects)}
    head = harness.row_head("step", device, settings)
    plan = Plan(names, device, options.windows, options.window_seconds)
    console.print(f"{head['machine']['device']}: {', '.join(names)} -> {path}")
    return measure_all(
        cases,
        lambda case: measure_case(case, plan),
        head=head,
        path=path,
        time_limit=options.time_limit,
        console=console,
        brief=brief,
        resume=options.resume,
    )


def brief(rows: list[dict]) -> str:
    """Milliseconds of each contestant, its variants side by side."""
    parts: dict[str, list[str]] = {}
    for row in rows:
        median = row["times"].get("median_us")
        text = "failed" if median is None else f"{median / 1e3:.2f}"
        parts.setdefault(row["contestant"], []).append(text)
    return ", ".join(f"{name} {' '.join(times)}" for name, times in parts.items()) + " ms"


def chosen_cases(options) -> list[Case]:
    """Cases in the order in which they matter: training first, then by batch size as given."""
    return [
        Case(
            arch,
            options.defects,
            batch,
            work,
            options.dtype,
            options.image_size,
            options.width,
        )
        for work in options.work
        for batch in options.batch
        for arch in options.networks
    ]


def contestants(options, device: torch.device) -> tuple[str, ...]:
    """The names asked for, or the usual ones that can run here."""
    on_gpu = device.type == "cuda"
    names = check_names("contestants", options.contestants or (ON_GPU if on_gpu else ON_CPU), WAYS)
    if os.environ.get(backends.VARIABLE):
        raise UserError(
            f"{backends.VARIABLE} is set, which would decide for the contestants; unset it"
        )
    for name in names:
        if WAYS[name].graph and not on_gpu:
            raise UserError(f"contestants has {name!r}: CUDA graphs need a GPU; leave it out")
        refusal = backends.device_refusal(device) if WAYS[name].backend == "triton" else None
        if refusal:
            raise UserError(f"contestants has {name!r}: {refusal}; leave it out")
    return names


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "scotoma bench step",
        description=__doc__,
        formatter_class=HelpFormatter,
        epilog=explained(),
    )
    add = parser.add_argument
    add("--networks", nargs="+", metavar="NAME", default=model_names(), help="default: all six")
    add("--defects", nargs="+", metavar="SPEC", help="variants (standard 0.3-Bottom)")
    add("--batch", nargs="+", type=positive, metavar="N", help="batch sizes (512 128 1024)")
    add("--work", nargs="+", metavar="WORK", default=list(WORKS), help="default: all three")
    add("--contestants", nargs="+", metavar="NAME", help=f"default: {' '.join(ON_GPU)}")
    add("--dtype", choices=DTYPES, help="of activations (bfloat16; float32 with --cpu)")
    add("--image-size", type=positive, default=32, help="side of the images (32)")
    add("--width", type=positive, help="base width (the paper's; 8 with --cpu)")
    add("--windows", type=positive, help="timed stretches of each contestant (9; 3 with --cpu)")
    add("--window-seconds", type=float, default=0.3, help="length of a stretch, about (0.3)")
    add_run_options(parser, "step", 3600)
    options = parser.parse_args(argv)
    if not options.window_seconds > 0:
        raise UserError(f"window-seconds is {options.window_seconds}; expected more than 0")
    options.dtype = options.dtype or ("float32" if options.cpu else "bfloat16")
    options.batch = options.batch or ([16] if options.cpu else [512, 128, 1024])
    options.windows = options.windows or (3 if options.cpu else 9)
    options.width = options.width or (8 if options.cpu else None)
    options.networks = check_names("networks", options.networks, model_names())
    options.work = check_names("work", options.work, WORKS)
    check_names("contestants", options.contestants or (), WAYS)
    defects = options.defects or [STANDARD, "0.3-Bottom"]
    options.defects = tuple(dict.fromkeys(str(Defects.parse(text)) for text in defects))
    # What a network cannot be is said before anything is measured.
    for arch in options.networks:
        for text in options.defects:
            with torch.device("meta"):
                create_model(arch, text, image_size=options.image_size, width=options.width)
    return options
