"""Show where the time of a step goes, for several ways to run the same network.

    scotoma profile ARCH [options]

Each contestant runs by the clock alone, and then for as many steps under torch's profiler, which
slows the host but not the kernels. Out come a table of time by kernel family (convolution, BN and
epilogue, optimiser, ...), launches and gaps included, side by side; a picture, timeline.png, of one
step of each; and a gzipped trace of each for https://ui.perfetto.dev or chrome://tracing. Rows of
results are appended to a file of JSON lines, profile.jsonl.

The share of a step in which the device is busy is the time of its kernels and copies, by the
profiler, over that of a step by the clock without it.

Exit status: 0; 1 if a contestant failed; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from rich.console import Console

from ...defective import Defects, create_model
from ...defective.errors import UserError
from ...defective.models import model_names
from ...kernels import backends
from ...train.config import PictureFormat
from ...train.screen import make_console, show
from ...train.settings import HelpFormatter, add_picture_format
from .. import harness
from ..harness import (
    check_names,
    chosen_device,
    positive,
    terminated_like_interrupted,
)
from ..step.case import WORKS, Case
from ..step.command import DTYPES, contestants
from ..step.ways import WAYS, explained
from . import table
from .measure import Plan, Profiled, profile_all

ON_GPU, ON_CPU = ("eager", "fused"), ("eager",)


def main(argv: list[str]) -> int:
    """Profile, print, draw, and return the exit status. Raises UserError for bad options."""
    options = parse(argv)
    device = chosen_device(options.cpu)
    on_gpu = device.type == "cuda"
    options.contestants = options.contestants or (ON_GPU if on_gpu else ON_CPU)
    names = contestants(options, device)
    case = chosen_case(options)
    folder, rows_file = places(options.out, case, device)
    if on_gpu:
        torch.backends.cudnn.benchmark = True
        backends.allow_tf32(convolutions=True, products=True)
    console = make_console()
    settings = {"steps": options.steps, "contestants": list(names)}
    head = harness.row_head("profile", device, settings) | {"case": f"{case} {case.defects[0]}"}
    plan = Plan(case, names, device, options.steps, folder)
    console.print(
        f"{head['machine']['device']}: {head['case']}: {', '.join(names)}", highlight=False
    )
    with terminated_like_interrupted():
        found = profile_all(plan, head, rows_file, console)
    report(found, plan, rows_file, console, options.picture_format)
    return 1 if any(one.row["problems"] for one in found) else 0


def report(
    found: list[Profiled], plan: Plan, rows_file: Path, console: Console, picture_format: str
) -> None:
    """Tables, what follows from them, and where the files are."""
    rows = [one.row for one in found]
    if table.sound(rows):
        for view in (table.families(rows), *map(table.largest, table.sound(rows))):
            show(console, view)
        _lines(console, "no rule knows:", table.others(rows))
        _lines(console, "", table.sentences(rows))
        picture = draw(found, plan.folder / "timeline", picture_format)
        _lines(console, "files:", [str(picture), *map(str, plan.traces(rows)), str(rows_file)])
    problems = [f"{row['contestant']}: {text}" for row in rows for text in row["problems"]]
    _lines(console, "failures:", problems)


def draw(found: list[Profiled], stem: Path, picture_format: PictureFormat) -> Path:
    from ...train import plots
    from . import timeline

    strips = [timeline.Strip(one.row, one.trace, one.units) for one in found if one.trace]
    row = strips[0].row
    place = row["machine"]["device"]
    title = f"{row['case']}, {place}, torch {row['machine']['torch']}"
    return plots.save_as(timeline.draw(strips, title), stem, picture_format)


def _lines(console: Console, title: str, lines: list[str]) -> None:
    if lines and title:
        console.print(title)
    for line in lines:
        indent = "  " if title else ""
        show(console, f"{indent}{line}")


def chosen_case(options) -> Case:
    case = Case(
        options.arch,
        (options.defects,),
        options.batch,
        options.work,
        options.dtype,
        options.image_size,
        options.width,
    )
    # What a network cannot be is said before anything is measured.
    with torch.device("meta"):
        create_model(case.arch, options.defects, image_size=options.image_size, width=options.width)
    return case


def places(out: Path | None, case: Case, device: torch.device) -> tuple[Path, Path]:
    """The folder of pictures and traces, and the file of rows. Raises UserError."""
    rows_file = harness.default_path(harness.device_name(device), "profile")
    name = f"{case.arch}-{case.defects[0]}-b{case.batch_size}-{case.work}"
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
    parser = argparse.ArgumentParser(
        "scotoma profile",
        description=__doc__,
        formatter_class=HelpFormatter,
        epilog=explained(),
    )
    add = parser.add_argument
    add("arch", metavar="ARCH", help=", ".join(model_names()))
    add("--defects", metavar="SPEC", default="0.3-Bottom", help="variant (0.3-Bottom)")
    add("--batch", type=int, metavar="N", help="batch size (128; 16 with --cpu)")
    add("--work", metavar="WORK", default="train", help="train, evaluate or pgd (train)")
    add("--contestants", nargs="+", metavar="NAME", help=f"default: {' '.join(ON_GPU)}")
    add("--dtype", choices=DTYPES, help="of activations (bfloat16; float32 with --cpu)")
    add("--image-size", type=positive, default=32, help="side of the images (32)")
    add("--width", type=positive, help="base width (the paper's; 8 with --cpu)")
    add("--steps", type=int, metavar="N", help="profiled steps (20; 5 with --cpu)")
    add("--out", type=Path, metavar="FOLDER", help="default: in bench/results/DEVICE")
    add("--cpu", action="store_true", help="a small network on the CPU, operators by family")
    add_picture_format(parser, "of the picture (png)")
    options = parser.parse_args(argv)
    check_names("ARCH", [options.arch], model_names())
    check_names("work", [options.work], WORKS)
    check_names("contestants", options.contestants or (), WAYS)
    options.defects = str(Defects.parse(options.defects))
    options.dtype = options.dtype or ("float32" if options.cpu else "bfloat16")
    options.width = options.width or (8 if options.cpu else None)
    for name, usual in (("batch", (16, 128)), ("steps", (5, 20))):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; expected at least 1")
        setattr(options, name, usual[not options.cpu] if value is None else value)
    return options
