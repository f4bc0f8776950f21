"""``scotoma paper list``: the tables and figures, and what each needs."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ...train.commands.options import make_parser
from .experiment import Definition
from .experiments import definitions

_DATA = {
    "cifar10": "CIFAR-10",
    "mnist": "MNIST",
    "tiny-imagenet": "Tiny-ImageNet",
    "imagenet": "ImageNet",
}


def data_of(definition: Definition) -> str:
    """The data sets that a table needs, in words."""
    names = [_DATA[role] for role in definition.roles]
    return ", ".join([*names, *(["Stylized-ImageNet"] if definition.stylized else [])])


def show_list(console: Console) -> None:
    """Print every table and figure."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("name", "section", "what it shows", "data", "needs"):
        table.add_column(name, overflow="fold", no_wrap=name == "name")
    for each in definitions().values():
        table.add_row(each.name, each.section, each.title, data_of(each), each.needs)
    console.print(table)
    console.print(
        "Make one with: scotoma paper NAME --budget smoke|quick|full. Data sets that are not there "
        "are named with the way to get them; smoke needs none. --dry-run shows the work first.",
        markup=False,
        highlight=False,
    )


def main(argv: list[str]) -> int:
    """Raises UserError if there are any arguments."""
    make_parser("paper list", "Show the tables and figures, and what each needs.").parse_args(argv)
    show_list(Console())
    return 0
