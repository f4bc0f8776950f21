"""Time every operator, and hold it against what the machine can do at best.

    scotoma bench roofline [options]

The machine's roofs are measured first: the bandwidth of a large copy, and large matrix products in
each arithmetic. Then the fused operators and the eager ones, the fused convolution beside the
separate one in evaluation, the convolutions of ResNet-18 and ResNet-50 with both gradients, and
their linear layers: with cold caches, under CUDA graph replay (by the wall's clock on a CPU), in
turns. Each result is first compared with float64. Rows of results are appended to a file of JSON
lines; a table follows, those farthest below the roof first, and a picture, roofline.png, beside the
file.

Bytes are the fewest that an operator must move, the same for all of its backends: for a convolution
its input, weight and output once. FLOP count a multiply-add as two.

Exit status: 0; 1 if something failed or computed something else; 75 if --resume has
left cases for the next call; 130 if interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console

from ...defective.errors import UserError
from ...kernels import backends
from ...train.config import PictureFormat
from ...train.screen import make_console, show
from ...train.settings import HelpFormatter, add_picture_format
from .. import harness
from ..harness import Outcome, add_run_options, check_names, chosen_device, measure_all, positive
from ..layers import sweep
from . import ceilings, table
from .case import Case
from .row import Plan, measure_case
from .selection import OPERATORS, cases

DTYPES = ("bfloat16", "float16", "float32")
BACKENDS = {
    "triton": "the fused kernels",
    "eager": "the eager definition",
    "separate": "a convolution of torch's, then the operator",
    "library": "cuDNN and cuBLAS",
}
LIBRARIES = ("cudnn", "cublas", "torch")


def main(argv: list[str]) -> int:
    """Measure, print, draw, and return the exit status. Raises UserError for bad options."""
    options = parse(argv)
    chosen = cases(options.operators, small=options.cpu)[: options.max_cases]
    if options.list:
        for case in chosen:
            print(f"{case}  ({case.users})")
        return 0
    device = chosen_device(options.cpu)
    without = left_out(options, device)
    chosen = measurable(chosen, options, device, without)
    if device.type == "cuda":
        # Graphs are captured on a stream that is not the default one.
        torch.cuda.set_stream(torch.cuda.Stream(device))
    console = make_console()
    path = options.out or harness.default_path(harness.device_name(device), "roofline")
    with library_choice():
        outcome = run(options, without, chosen, device, path, console)
    report(outcome, path, console, options.picture_format)
    return outcome.status(table.failures(outcome.rows))


def run(
    options, without, chosen: list[Case], device: torch.device, path: Path, console: Console
) -> Outcome:
    """Measure the ceilings and the cases, keeping every row."""
    dtype = getattr(torch, options.dtype)
    roofs = ceilings.measure(device, dtype)
    settings = {
        "repeats": options.repeats,
        "cold_l2_sizes": sweep.COLD_L2_SIZES,
        "dtype": options.dtype,
        "left_out": list(without),
        "clock": "graph" if device.type == "cuda" else "wall",
    }
    head = harness.row_head("roofline", device, settings) | {"ceilings": roofs.as_row()}
    plan = Plan(dtype, device, options.repeats, roofs, without)
    rates, (unit, factor) = head["ceilings"]["matmul_tflop_per_s"], table.flop_unit(head)
    products = ", ".join(f"{name} at {factor * rate:,.1f} {unit}" for name, rate in rates.items())
    console.print(
        f"{head['machine']['device']}, copies at {head['ceilings']['copy_gb_per_s']} GB/s, "
        f"products in {products} -> {path}",
        highlight=False,
        soft_wrap=True,
    )
    return measure_all(
        chosen,
        lambda case: measure_case(case, plan),
        head=head,
        path=path,
        time_limit=options.time_limit,
        console=console,
        brief=brief,
        resume=options.resume,
    )


@contextmanager
def library_choice() -> Iterator[None]:
    """cuDNN measures its algorithms once for each shape, as in training."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def brief(rows: list[dict]) -> str:
    """Time and percentage of the roof of each row."""
    parts = []
    for row in rows:
        text = "failed"
        if row["times"]:
            text = f"{row['times']['median_us']:.1f} us ({row['attained_percent']:.0f} %)"
        note = " to the weight" if row["detail"].endswith("to the weight") else ""
        parts.append(f"{row['backend']} {row['pass']}{note} {text}")
    return ", ".join(parts)


def report(outcome: Outcome, path: Path, console: Console, picture_format: str) -> None:
    """The table, what failed, what is left, and the picture."""
    if table.by_distance(outcome.rows):
        show(console, table.table(outcome.rows))
    outcome.print_lists(console, {"failures": table.failures(outcome.rows)})
    if table.by_distance(outcome.rows):
        rows = harness.measured_rows(path, outcome.rows[0]) if outcome.resumed else outcome.rows
        console.print(
            draw(rows, path.with_name("roofline"), picture_format), highlight=False, soft_wrap=True
        )


def draw(rows: list[dict], stem: Path, picture_format: PictureFormat) -> str:
    """Draw the rows that were timed. Returns what to say of it."""
    try:
        from ...train.plots import save_as
        from ..report.plots import draw_roofline
    except ImportError as error:
        return f"no picture: {error}"
    figure = draw_roofline([row for row in rows if row["times"]])
    return f"picture: {save_as(figure, stem, picture_format)}"


def left_out(options, device: torch.device) -> tuple[str, ...]:
    """Names of backends, as in rows, that are not measured."""
    names = options.backends
    if names is None:
        names = [n for n in BACKENDS if n != "triton" or device.type == "cuda"]
    if "triton" in names and device.type == "cpu" and not backends.interpreting():
        raise UserError(
            "backends has 'triton', whose kernels run on a GPU; leave it out with --cpu, or set "
            "TRITON_INTERPRET=1 (which times the interpreter, not the kernels)"
        )
    without = [name for name in BACKENDS if name not in names]
    return tuple(n for name in without for n in (LIBRARIES if name == "library" else (name,)))


def measurable(chosen: list[Case], options, device, without: tuple[str, ...]) -> list[Case]:
    """The cases that some backend computes. Raises UserError if there is none."""
    dtype = getattr(torch, options.dtype)
    found = [c for c in chosen if any(w.backend not in without for w in c.ways(dtype, device))]
    if not found:
        raise UserError(
            f"backends {', '.join(options.backends)} compute none of the operators "
            f"{', '.join(options.operators)}; leave one of the two options out"
        )
    return found


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "scotoma bench roofline",
        description=__doc__,
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    names = tuple(OPERATORS)
    add("--operators", nargs="+", metavar="NAME", default=names, help=", ".join(names))
    backend_help = ", ".join(f"{name} ({text})" for name, text in BACKENDS.items())
    add("--backends", nargs="+", metavar="NAME", help=f"{backend_help}; default: what runs here")
    add("--max-cases", type=positive, help="measure the first so many alone")
    add("--dtype", choices=DTYPES, help="of activations (bfloat16; float32 with --cpu)")
    add("--repeats", type=positive, default=20, help="rounds of each timing (20)")
    add_run_options(parser, "roofline", 1800)
    add_picture_format(parser, "of the picture (png)")
    options = parser.parse_args(argv)
    options.dtype = options.dtype or ("float32" if options.cpu else "bfloat16")
    check_names("operators", options.operators, names)
    check_names("backends", options.backends or (), BACKENDS)
    return options
