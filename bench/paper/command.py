"""``scotoma paper``: every table and figure of the paper, each a name."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from ...defective.errors import UserError
from ...train.distributed import World, choose_device
from ...train.robustness.termination import run_until_terminated
from ...train.screen import Progress, make_console
from .artefacts import Context
from .asked import read_setup
from .experiment import Definition, only_rows
from .experiments import definition, definitions
from .options import make_paper_parser, run_options
from .work import Plan, Store

VERBS = {"list": ".listing", "study": ".study.study", "study-score": ".study.score"}
"""Words in the place of a table's name, and the modules that they mean."""


def main(argv: list[str]) -> int:
    """Run one command. Returns the exit status.

    Raises:
        UserError: bad arguments, before any work; or an artefact that could not be made, after all
            others are.
    """
    verb = VERBS.get(argv[0]) if argv else None
    if verb is not None:
        return importlib.import_module(verb, __package__).main(argv[1:])
    arguments = make_paper_parser().parse_intermixed_args(argv)
    return run_until_terminated("paper", lambda: make(arguments))


def make(arguments: argparse.Namespace) -> None:
    """Make tables and figures, and their pages."""
    chosen = chosen_definitions(arguments.names)
    options = run_options(arguments)
    setup = read_setup(arguments, [role for each in chosen for role in each.roles])
    device = choose_device(arguments.device, World())
    store = Store(Path(arguments.out))
    store.prepare()
    experiments = [each.build(setup) for each in chosen]
    if hasattr(arguments, "rows"):
        experiments = [
            only_rows(experiment, arguments.rows, each.name)
            for each, experiment in zip(chosen, experiments, strict=True)
        ]
    plan = Plan.of([a for each in experiments for a in each.wanted()], store)
    if arguments.dry_run:
        from .cost import cost_of, show_cost

        console = make_console()
        found = cost_of(plan, store, device, console.print, measure=arguments.measure)
        show_cost(found, console)
        return
    from . import reproduce

    with Progress() as screen:
        context = Context(store, device, screen, arguments.batch_size, arguments.workers)
        reproduce.introduce([each.name for each in chosen], setup, plan, context, options.ray)
        failures = reproduce.make_missing(plan, context, options)
        errors = reproduce.make_pages(
            chosen, experiments, setup, context, failures, arguments.picture_format
        )
    reproduce.fail(failures, plan, errors)


def chosen_definitions(names: list[str]) -> list[Definition]:
    """Tables and figures by their names, or all. Raises UserError if there is no such one."""
    if not names:
        raise UserError(
            "which table or figure? Expected table4, figure5, ... or all; see: scotoma paper list"
        )
    if names == ["all"]:
        return list(definitions().values())
    return list({each.name: each for each in map(definition, names)}.values())
