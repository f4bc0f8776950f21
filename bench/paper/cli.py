"""``scotoma paper``: every table and figure of the paper, each a name."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from rich.console import Console

from ...defective.errors import UserError, check_installed
from ...train.distributed import World, choose_device
from ...train.screen import Progress, make_console, show
from ...train.settings import Parser, add_picture_format, make_parser
from . import reproduce
from .artefacts import Context
from .experiment import Definition, only_rows
from .setup import read_setup
from .tables import definition, definitions
from .work import Plan, Store, closure

VERBS = {"study": ".study.study", "study-score": ".study.score", "page": ".results_page"}
"""Words in the place of a table's name, and the modules that they mean."""
_TEXT = """\
Make tables and figures of the paper, from nothing. For example: scotoma paper table4 --budget
quick. 'scotoma paper list' shows them and what each needs. Whatever is made is kept in --out and
shared between tables; a command that was stopped goes on where it was."""


def make_paper_parser() -> Parser:
    parser = make_parser("paper", _TEXT)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="table4, figure5, ...; several; or all"
    )
    reproduce.add_setup_options(parser)
    parser.add_argument(
        "--rows",
        nargs="+",
        default=argparse.SUPPRESS,
        metavar="PATTERN",
        help="only the rows whose names match, such as '*0.5-Bottom*', or of one table, such as "
        "'table4:ResNet-18*'; the rest is not made",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be made, and how long it takes"
    )
    parser.add_argument(
        "--measure",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with --dry-run: time a few steps of each network here; otherwise only count",
    )
    parser.add_argument(
        "--results",
        default=argparse.SUPPRESS,
        metavar="FOLDER",
        help="also leave all numbers there, in a small file to pass on (results.json), with a page "
        "of all claims; nothing is made again that it has. With --dry-run: keep the estimate there",
    )
    reproduce.add_run_options(parser)
    add_picture_format(parser, "also write the pictures in this format")
    return parser


def main(argv: list[str]) -> int:
    """Run one command. Returns the exit status.

    Raises:
        UserError: bad arguments, before any work; or an artefact that could not be made, after all
            others are.
    """
    verb = argv[0] if argv else ""
    if verb == "list":
        parser = make_parser("paper list", "Show the tables and figures, and what each needs.")
        parser.add_argument(
            "names", nargs="*", metavar="NAME", help="table4, figure5, ...: say more"
        )
        show_list(make_console(), parser.parse_args(argv[1:]).names)
    elif verb in VERBS:
        return importlib.import_module(VERBS[verb], __package__).main(argv[1:])
    else:
        make(make_paper_parser().parse_args(argv))
    return 0


def make(arguments: argparse.Namespace) -> None:
    """Make tables and figures, and their pages."""
    chosen = chosen_definitions(arguments.names)
    options = reproduce.run_options(arguments)
    setup = read_setup(arguments, [role for each in chosen for role in each.roles])
    device = choose_device(arguments.device, World())
    store = Store(Path(arguments.out))
    store.prepare()
    experiments = [each.build(setup) for each in chosen]
    if hasattr(arguments, "rows"):
        names = {each.name for each in chosen}
        if strange := [p for p in arguments.rows if ":" in p and p.partition(":")[0] not in names]:
            raise UserError(
                f"--rows {strange[0]}: {strange[0].partition(':')[0]} is not among what is made; "
                f"expected {', '.join(sorted(names))} before the colon"
            )
        experiments = [
            only_rows(experiment, arguments.rows, each.name)
            for each, experiment in zip(chosen, experiments, strict=True)
        ]
    wanted = [a for each in experiments for a in each.wanted()]
    keeper = None
    if hasattr(arguments, "results"):
        from .results_page import Keeper

        names = (each.name for each in chosen)
        keeper = Keeper(Path(arguments.results), setup, dict(zip(names, experiments, strict=True)))
        keeper.read().restore(closure(wanted), store)
    plan = Plan.of(wanted, store)
    if arguments.dry_run:
        from .cost import cost_of, show_cost

        console = make_console()
        found = cost_of(plan, store, device, console.print, arguments.measure)
        show_cost(found, console)
        if keeper is not None:
            keeper.estimated(found)
        return
    check_installed("jinja2", "markdown_it", "scipy")  # for the page, which comes last
    with Progress() as screen:
        context = Context(store, device, screen, arguments.batch_size, arguments.workers)
        reproduce.introduce([each.name for each in chosen], setup, plan, context, options.ray)
        try:
            failures = reproduce.make_missing(plan, context, options)
        except KeyboardInterrupt:
            if keeper is not None:
                keeper.keep(context)
            raise
        if keeper is not None:
            keeper.keep(context)
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


_DATA = {
    "cifar10": "CIFAR-10",
    "mnist": "MNIST",
    "tiny-imagenet": "Tiny-ImageNet",
    "imagenet": "ImageNet",
}


def show_list(console: Console, names: list[str]) -> None:
    """Print a line for every table and figure, or all that is known of some. Raises UserError."""
    for each in [definition(name) for name in names]:
        data = [_DATA[role] for role in each.roles] + ["Stylized-ImageNet"] * each.stylized
        show(console, f"{each.name}  {each.title}")
        section = "none in the paper; extends " * each.ours + each.section
        show(console, f"  section  {section}", f"  data     {', '.join(data)}")
        show(console, f"  needs    {each.needs}")
    if not names:
        show(console, *(f"{each.name:12} {each.title}" for each in definitions().values()))
        show(
            console,
            "What one needs: scotoma paper list NAME. Make it: scotoma paper NAME --budget "
            "smoke|small|quick|full. --dry-run shows the work first.",
        )
