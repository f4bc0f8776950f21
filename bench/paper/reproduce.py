"""Making what tables and figures need, and their pages; and the options of it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from ...defective.errors import UserError, counted
from ...train.config import PictureFormat
from ...train.distributed import device_name
from ...train.settings import Parser
from ..harness import commit
from .artefacts import Context, Training
from .budgets import BUDGETS, ROLES
from .claims import claims_of
from .data import Data
from .experiment import Definition, Experiment, Made, read_values
from .judge import Elsewhere, Verdict, at_scale, judge
from .page import build_page, other_images, tally, why_apart, write_page
from .setup import Setup
from .tables import definition as find
from .work import Failure, Plan, make_here


def introduce(
    names: Sequence[str],
    setup: Setup,
    plan: Plan,
    context: Context,
    ray: str | None = None,
    tables: bool = True,
) -> None:
    """Say what is going to be made, so that no default stays unseen.

    Args:
        ray: address of the cluster that makes it, or None. tables: whether attacked images are
            those of tables, of which there are two kinds.
    """
    line = context.screen.line
    seeds = ", ".join(map(str, setup.seeds))
    there = sum(artefact.is_done(context.store) for artefact in plan.artefacts)
    trainings = sum(isinstance(a, Training) for a in plan.to_make())
    line(f"making {', '.join(names)} in {context.store.folder}")
    line(f"  budget    {setup.budget.name}: {setup.budget.description}")
    for role, data in setup.data.items():
        line(f"  data      {data.location(context.store)} as {role}")
    line(f"  seeds     {seeds}" + (f"; attacked images: {setup.images}" if tables else ""))
    device = device_name(context.device) if ray is None else f"those of the Ray cluster at {ray}"
    line(f"  device    {device}, batches of {context.batch_size} in attacks")
    line(
        f"  artefacts {len(plan.artefacts)}: {there} there already, {len(plan.missing)} to make, "
        f"of them {trainings} trainings"
    )


def make_missing(plan: Plan, context: Context, options: RunOptions) -> list[Failure]:
    """Make what is missing, here or on a cluster.

    Raises:
        UserError: data or a cluster that is not there, before any work.
        KeyboardInterrupt: stopped; what is finished is kept, and the same command goes on.
    """
    # Load the data sets of the missing artefacts, so that a missing one is known at once.
    needed = {
        (data.location(context.store), data.root): data
        for artefact in plan.to_make()
        if isinstance(data := getattr(artefact, "data", None), Data) and data.made_by is None
    }
    try:
        for data in needed.values():
            context.screen.begin(f"reading {data.label}")
            context.images(data)
        if options.ray is None:
            return make_here(plan, context)
        from .cluster import make_on_ray

        return make_on_ray(plan, context, options.ray, per_gpu=options.per_gpu)
    except KeyboardInterrupt:
        context.screen.line("stopped; what is finished is kept, and the same command goes on")
        raise


def make_pages(
    definitions: Sequence[Definition],
    experiments: Sequence[Experiment],
    setup: Setup,
    context: Context,
    failures: Sequence[Failure],
    picture_format: PictureFormat = "png",
) -> list[UserError]:
    """Write the pages, and say what they found. Returns why some could not be written."""
    context.screen.begin("writing pages")
    line = context.screen.line
    pages: list[tuple[str, Path, Sequence[Verdict]]] = []
    errors = []
    for each, experiment in zip(definitions, experiments, strict=True):
        try:
            pages.append(
                (each.name, *make_page(each, setup, experiment, context, failures, picture_format))
            )
        except UserError as error:  # a damaged file is no reason to withhold the other pages
            line(f"{each.name}: no page: {error}")
            errors.append(error)
    for name, file, verdicts in pages:
        line(f"{name}: {tally(verdicts)}")
        if len(pages) == 1:
            for verdict in verdicts:
                line(f"  {verdict.verdict}: {verdict.claim}")
        line(f"  page      {file}")
    return errors


def make_page(
    definition: Definition,
    setup: Setup,
    experiment: Experiment,
    context: Context,
    failures: Sequence[Failure],
    picture_format: PictureFormat,
) -> tuple[Path, list[Verdict]]:
    """Write the page of a table or figure. Returns its file to look at, and the verdicts on it.

    Raises:
        UserError: a damaged result, or a file that cannot be written.
    """
    made, verdicts = judged(definition, setup, experiment, context)
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = build_page(made, verdicts, failures, commit(), when)
    folder = context.store.folder / "pages" / f"{definition.name}-{setup.budget.name}"
    return write_page(page, folder, picture_format)[0], verdicts


def judged(
    definition: Definition, setup: Setup, experiment: Experiment, context: Context
) -> tuple[Made, list[Verdict]]:
    """The numbers that are there, and what they say of each claim; where rows were chosen, of each
    claim about them. Raises UserError on a damaged result."""
    values, asides = (
        read_values(places, context.store) for places in (experiment.cells, experiment.asides)
    )
    claims, known = claims_of(definition.name), dict(values)
    made = Made(definition, setup, experiment, values, context, asides)
    if experiment.only:
        claims = [found for each in claims if (found := each.within(experiment.rows))]
    for name in dict.fromkeys(name for claim in claims for name in claim.elsewhere):
        others = read_values(find(name).build(setup).cells, context.store)
        known |= {Elsewhere(name, *place): value for place, value in others.items()}
    scale = setup.budget.scale
    decides = not (other_images(definition, setup) if scale else why_apart(definition, setup))
    verdicts = [judge(claim, known, decides) for claim in claims]
    return made, [at_scale(verdict, scale) for verdict in verdicts] if scale else verdicts


def fail(failures: Sequence[Failure], plan: Plan, errors: Sequence[UserError] = ()) -> None:
    """Raises UserError if an artefact could not be made, or a page not be written."""
    if failures:
        first = failures[0]
        raise UserError(
            f"{len(failures)} of {len(plan.missing)} artefacts could not be made; the first: "
            f"{first.artefact.label}: {first.message}. The same command tries them again"
        )
    if errors:
        raise UserError(
            f"{counted(len(errors), 'page')} could not be written; the first: {errors[0]}"
        )


# Options of every command that makes artefacts.


def add_setup_options(parser: Parser, tables: bool = True) -> None:
    """Options of everything that makes artefacts.

    Args:
        tables: also those that mean something in tables and figures only; else their defaults hold.
    """
    absent = argparse.SUPPRESS
    lines = "; ".join(f"{budget.name}: {budget.description}" for budget in BUDGETS.values())
    parser.add_argument("--budget", choices=tuple(BUDGETS), default="quick", help=lines)
    if tables:
        parser.add_argument(
            "--seeds",
            type=int,
            default=absent,
            metavar="N",
            help="train every network N times (default: "
            + ", ".join(f"{budget.name} {budget.seeds}" for budget in BUDGETS.values())
            + "); intervals are then over seeds, which vary more than the choice of images",
        )
        parser.add_argument(
            "--images",
            choices=("common", "source"),
            default="common",
            help="attack images that all five sources classify right, or that the set's own does; "
            "'source' trains fewer networks for a table of one source",
        )
        parser.add_argument(
            "--stylized",
            default=absent,
            metavar="FOLDER",
            help="Stylized-ImageNet's validation images (tables 1 and 13); without it that column "
            "stays empty",
        )
    parser.add_argument(
        "--first-seed", type=int, default=0, metavar="SEED", help="of the first repetition"
    )
    parser.add_argument(
        "--data",
        action="append",
        default=absent,
        metavar="ROLE=PLACE",
        help=f"for one of {', '.join(ROLES)}: an image folder, or another data set's name, in its "
        "place; may be repeated",
    )
    parser.add_argument("--data-root", default=absent, help="where named data sets live")
    parser.add_argument("--download", action="store_true", help="fetch data sets that are missing")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--batch-size", type=int, default=250, help="images at once, in attacks and evaluations"
    )
    parser.add_argument(
        "--workers", type=int, default=4, help="loader processes, for images over 64 pixels only"
    )
    parser.add_argument("--out", default="paper", help="folder for everything that is made")


def add_run_options(parser: Parser) -> None:
    """Options of where artefacts are made."""
    absent = argparse.SUPPRESS
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        default=absent,
        help="run on a Ray cluster: its address, or 'local' for one on this machine; --out has to "
        "be a folder that all its machines see (docs/paper.md)",
    )
    parser.add_argument(
        "--per-gpu",
        type=int,
        default=absent,
        metavar="N",
        help="with --ray: tasks on a GPU; default: one large training, or four small tasks",
    )


class RunOptions(NamedTuple):
    """Where artefacts are made: address of a cluster, or None; and tasks on one of its GPUs, or
    None, or 0 where a cluster computes on CPUs."""

    ray: str | None
    per_gpu: int | None


def run_options(arguments: argparse.Namespace) -> RunOptions:
    """Raises UserError on a number out of range, or options that do not go with the others."""
    ray, per_gpu = getattr(arguments, "ray", None), getattr(arguments, "per_gpu", None)
    on_cpu = arguments.device == "cpu"
    if per_gpu is not None and (ray is None or on_cpu or not 1 <= per_gpu <= 1000):
        raise UserError(
            f"--per-gpu is {per_gpu}; expected 1 to 1000 tasks on a cluster's GPU: give --ray "
            "ADDRESS with it, and not --device cpu"
        )
    if ray is not None and arguments.device not in ("auto", "cpu"):
        raise UserError(
            f"--device {arguments.device} with --ray: each task gets the GPU that Ray gives it; "
            "expected auto or cpu, and $CUDA_VISIBLE_DEVICES chooses GPUs when Ray is started"
        )
    return RunOptions(ray, 0 if ray is not None and on_cpu else per_gpu)
