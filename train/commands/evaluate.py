"""``scotoma evaluate``: measure how robust networks are, and keep every result."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...defective.errors import UserError, counted
from ...defective.robustness import load_set
from ..distributed import World, choose_device, device_name
from ..robustness.arithmetic import disk_advice, memory_advice
from ..robustness.evaluation import Evaluation
from ..robustness.images import TestImages
from ..robustness.models import NamedModel
from ..robustness.tables import grid_text, levels
from ..robustness.termination import run_until_terminated
from ..robustness.transfer import check_set
from ..screen import Progress, make_console, show
from ..store import Store, writable
from .evaluate_options import Asked, make_evaluate_parser, read_asked
from .robustness_options import images_from, networks_from

_KEPT = "finished results are kept, and the same command goes on with the others"


def main(argv: list[str]) -> int:
    arguments = make_evaluate_parser().parse_intermixed_args(argv)
    return run_until_terminated("evaluate", lambda: evaluate(arguments))


def evaluate(arguments: argparse.Namespace) -> list[dict]:
    """Make all results that are asked for, and tables and pictures of them. Returns the cells.

    Raises:
        UserError: bad arguments, before any work; or a result that could not be made, after all
            others are.
    """
    asked = read_asked(arguments)
    device = choose_device(arguments.device, World())
    loaded = networks_from(arguments, device)
    distinct: dict[str, NamedModel] = {}
    for target in loaded:
        distinct.setdefault(target.digest, target)
    targets = list(distinct.values())
    images = images_from(arguments, targets, device)
    grids = asked.grids_for(images.data.image_size)
    if asked.stylized:
        from ..robustness.protocols.stylized_files import find_stylized

        find_stylized(asked.stylized, images.data)
    set_lines = [_set_line(path, images, targets) for path in asked.sets]
    out = writable(Path(arguments.out), "cells")
    cells = Store(out / "cells")
    cells.all()  # a damaged one is told of before any work
    with (
        Progress() as screen,
        memory_advice(device, arguments.batch_size, f"; {_KEPT}"),
        disk_advice(out, _KEPT),
    ):
        for line in _plan(asked, images, loaded, targets, set_lines, grids, arguments):
            screen.line(line)
        evaluation = Evaluation(
            targets, images, cells, screen, arguments.batch_size, arguments.sample_seed
        )
        try:
            evaluation.prepare(asked, grids)
            evaluation.run(asked, grids)
        except KeyboardInterrupt:
            done = cells.computed + cells.reused
            screen.line(f"stopped; {done} {_KEPT}" if done else "stopped before the first result")
            raise
    with disk_advice(out, _KEPT):
        _show(evaluation, out, grids, arguments.picture_format)
    if evaluation.failures:
        raise UserError(
            evaluation.failures[0]
            if len(evaluation.failures) == 1
            else f"{len(evaluation.failures)} results could not be made; the first: "
            f"{evaluation.failures[0]}"
        )
    return evaluation.results


def _set_line(path: Path, images: TestImages, targets: list[NamedModel]) -> str:
    """What a set is, once it is known to fit. Raises UserError. Only one is in memory at once."""
    found = load_set(path)
    check_set(found, images, targets, str(path))
    details = found.details
    return (
        f"  set       {path}: {details['attack_text']} from {details['source']['name']}, "
        f"{counted(len(found), 'image')}, {details['pixels']}, {details['precision']}"
    )


def _plan(
    asked: Asked,
    images: TestImages,
    loaded: list[NamedModel],
    targets: list[NamedModel],
    set_lines: list[str],
    grids: list[int],
    arguments: argparse.Namespace,
) -> list[str]:
    """Everything that the numbers depend on, so that no default stays unseen."""
    data = images.data
    lines = [
        f"evaluating {', '.join(target.name for target in targets)}",
        f"  data      {data.name}: {counted(len(images), 'test image')}{data.test_note}",
        f"  device    {device_name(images.device)}, float32 without TF32, batches of "
        f"{arguments.batch_size}",
    ]
    known = {target.digest: target.name for target in targets}
    lines += [
        f"warning: {model.name} is the same network as {known[model.digest]}: it is left out"
        for model in loaded
        if known[model.digest] != model.name
    ]
    lines += set_lines
    lines += [f"  white-box {attack}" for attack in asked.attacks]
    if asked.boundary:
        lines.append(f"  score     {asked.boundary}")
    if asked.epsilons:
        lines.append(f"  noise     eps {', '.join(map(levels, asked.epsilons))} of 255")
    if grids:
        lines.append(f"  shuffle   {', '.join(map(grid_text, grids))} patches")
    if asked.stylized:
        lines.append(f"  stylised  {asked.stylized}")
    return lines


def _show(evaluation: Evaluation, out: Path, grids: list[int], picture_format: str) -> None:
    """Tables on the screen and in a file, pictures, and where they are."""
    # Here, since matplotlib takes a second that an error in the arguments need not cost.
    from ..robustness.pictures import draw_all
    from ..robustness.tables import console_tables, write_tables

    console, cells = make_console(), evaluation.cells
    console.print()
    show(console, *console_tables(evaluation.results))
    everything, samples = evaluation.everything(), evaluation.picture_samples(grids)
    write_tables(everything, out)
    pictures = draw_all(everything, out, samples=samples, format=picture_format)
    files = ", ".join(["table.md", *(path.name for path in pictures)])
    show(console, f"results in {out}: {files}, cells/*.json")
    if older := len(everything) - len(evaluation.results):
        older = counted(older, "result")
        console.print(f"table and pictures also show {older} of earlier commands")
    if cells.reused:
        total = counted(cells.reused + cells.computed, "result")
        console.print(f"{cells.reused} of {total} {'was' if cells.reused == 1 else 'were'} there")
