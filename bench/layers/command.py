"""Time the operator ``relu(mask * BN(x) + residual)`` where the six networks use it.

    scotoma bench layers [options]

The fused kernels against eager (in bfloat16, and in float16 with cuDNN's batch norm),
torch.compile and the reference as it was released, under naive autocast: forward, backward and
both, with cold and hot caches, by Python's clock and under CUDA graph replay, in turns. Each result
is first compared with float64. Rows of results, with the device, versions, commit and clocks, are
appended to a file of JSON lines; a table follows, and the cases in which the fused kernels are the
slower ones.

Sites are four shapes to compare by (headline), those of the networks at 32 pixels (networks) and
at 224 (imagenet). In evaluation, backward goes to the inputs alone, as an attack needs it, and
"both" is forward and backward of an attack; in training it reaches the parameters too.

Exit status: 0; 1 if a contestant failed or computed something else; 75 if --resume has
left cases for the next call; 130 if interrupted.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from rich.console import Console
from torch._functorch import config as compiler_config

from ...defective.errors import UserError
from ...defective.models import model_names
from ...kernels import backends
from ...train.screen import make_console, show
from ...train.settings import HelpFormatter
from .. import harness
from ..harness import Outcome, add_run_options, check_names, chosen_device, measure_all, positive
from . import sweep, table
from .contestants import CONTESTANTS
from .row import Plan, measure_site
from .sites import MODES, SMALL_SHAPES, Site, headline_sites, network_sites

DTYPES = ("bfloat16", "float16", "float32")
SITES = ("all", "headline", "networks", "imagenet")
BATCH, IMAGENET_BATCH, IMAGENET_SIZE = 128, 64, 224


def main(argv: list[str]) -> int:
    """Measure, print, and return the exit status. Raises UserError for bad options."""
    options = parse(argv)
    sites = chosen_sites(options)
    if options.list:
        for site in sites:
            print(f"{site}  ({site.users})")
        return 0
    device = chosen_device(options.cpu)
    names = contestants(options, device)
    if device.type == "cuda":
        # Graphs are captured on a stream that is not the default one.
        torch.cuda.set_stream(torch.cuda.Stream(device))
    console = make_console()
    outcome = run(options, names, sites, device, console)
    report(outcome, console)
    return outcome.status(table.failures(outcome.rows))


def run(options, names, sites: list[Site], device: torch.device, console: Console) -> Outcome:
    """Measure the sites, keeping every row."""
    path = options.out or harness.default_path(harness.device_name(device), "layers")
    copy = harness.copy_bandwidth(device)
    settings = {"repeats": options.repeats, "cold_l2_sizes": sweep.COLD_L2_SIZES}
    settings |= {"dtype": options.dtype, "contestants": list(names)}
    head = harness.row_head("layers", device, settings) | {"copy_gb_per_s": round(copy / 1e9, 1)}
    plan = Plan(names, getattr(torch, options.dtype), device, options.repeats, copy)
    console.print(f"{head['machine']['device']}, copies at {head['copy_gb_per_s']} GB/s -> {path}")
    # A backward is timed many times over one forward, which donated buffers forbid.
    with compiler_config.patch(donated_buffer=False):
        return measure_all(
            sites,
            lambda site: measure_site(site, plan),
            head=head,
            path=path,
            time_limit=options.time_limit,
            console=console,
            brief=brief,
            resume=options.resume,
        )


def brief(rows: list[dict]) -> str:
    """Forward and backward of each contestant, cold, in microseconds."""
    parts = []
    for row in rows:
        clock = "graph" if "graph" in row["times"].get("cold", {}) else "wall"
        times = [table.median(row, "cold", clock, step) for step in ("forward", "backward")]
        text = "failed" if None in times else f"{times[0]:.1f}+{times[1]:.1f}"
        parts.append(f"{row['contestant']} {text}")
    return ", ".join(parts)


def report(outcome: Outcome, console: Console) -> None:
    rows = outcome.rows
    if rows:
        show(console, table.table(rows))
    losses = table.losses(rows)
    outcome.print_lists(console, {"failures": table.failures(rows), "losses": losses})
    if not losses and any(row["contestant"] == table.OURS and row["times"] for row in rows):
        console.print("no losses")


def chosen_sites(options) -> list[Site]:
    """Each form once, in the first group that has it; all in training before any in evaluation."""
    groups = SITES[1:] if options.sites == "all" else (options.sites,)
    found: dict[tuple, Site] = {}
    for group in groups:
        for site in _group(group, options):
            found.setdefault(site.form, site)
    sites = list(found.values())[: options.max_sites]
    modes = MODES if options.mode == "both" else (options.mode,)
    return [replace(site, mode=mode) for mode in modes for site in sites]


def _group(name: str, options) -> list[Site]:
    if name == "headline":
        return headline_sites(**({"shapes": SMALL_SHAPES} if options.cpu else {}))
    if name == "networks":
        return network_sites(options.networks, options.batch or BATCH, options.image_size)
    return network_sites(options.networks, options.batch or IMAGENET_BATCH, IMAGENET_SIZE)


def contestants(options, device: torch.device) -> tuple[str, ...]:
    """The names asked for, or the usual ones that can run here."""
    names = options.contestants
    can_run = device.type == "cuda" or backends.interpreting()
    if names is None:
        names = ["eager", "compile"]
        if device.type == "cuda":
            names = list(CONTESTANTS)
            if options.dtype == "float16":
                names.remove("eager-fp16")  # which eager is already
            if options.dtype == "float32":
                names.remove("released")  # which is eager, with nothing to cast
    if "ours" in check_names("contestants", names, CONTESTANTS) and not can_run:
        raise UserError(
            "contestants has 'ours', whose kernels run on a GPU; leave it out with --cpu, or set "
            "TRITON_INTERPRET=1 (which times the interpreter, not the kernels)"
        )
    return tuple(dict.fromkeys(names))


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "scotoma bench layers",
        description=__doc__,
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add("--sites", choices=SITES, help="default: all; headline with --cpu")
    add("--mode", choices=(*MODES, "both"), default="training", help="default: training")
    add("--networks", nargs="+", metavar="NAME", default=model_names(), help="default: all six")
    add(
        "--batch",
        type=positive,
        help=f"of the networks' sites ({BATCH}; {IMAGENET_BATCH} imagenet)",
    )
    add(
        "--image-size", type=positive, default=32, help="of the networks' images, not imagenet (32)"
    )
    add("--max-sites", type=positive, help="measure the first so many alone, in each mode")
    add("--dtype", choices=DTYPES, help="of activations (bfloat16; float32 with --cpu)")
    add("--contestants", nargs="+", metavar="NAME", help=", ".join(CONTESTANTS))
    add("--repeats", type=positive, default=20, help="rounds of each timing (20)")
    add_run_options(parser, "layers", 3600)
    options = parser.parse_args(argv)
    options.dtype = options.dtype or ("float32" if options.cpu else "bfloat16")
    options.sites = options.sites or ("headline" if options.cpu else "all")
    check_names("networks", options.networks, model_names())
    check_names("contestants", options.contestants or (), CONTESTANTS)
    return options
