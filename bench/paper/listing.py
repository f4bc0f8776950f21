"""``scotoma paper list``: the tables and figures, and what each needs."""

from __future__ import annotations

from rich.console import Console

from ...train.screen import make_console, show
from ...train.settings import make_parser
from .experiment import Definition
from .experiments import definition, definitions

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


def show_list(console: Console, names: list[str]) -> None:
    """Print a line for every table and figure, or all that is known of some. Raises UserError."""
    for each in [definition(name) for name in names]:
        facts = {"section": each.section, "data": data_of(each), "needs": each.needs}
        show(console, f"{each.name}  {each.title}")
        show(console, *(f"  {label:8} {text}" for label, text in facts.items()))
    if not names:
        show(console, *(f"{each.name:9} {each.title}" for each in definitions().values()))
        show(
            console,
            "What one needs: scotoma paper list NAME. Make it: scotoma paper NAME --budget "
            "smoke|quick|full. --dry-run shows the work first.",
        )


def main(argv: list[str]) -> int:
    """Raises UserError if there is no table or figure of a name."""
    parser = make_parser("paper list", "Show the tables and figures, and what each needs.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="table4, figure5, ...: say more")
    show_list(make_console(), parser.parse_args(argv).names)
    return 0
