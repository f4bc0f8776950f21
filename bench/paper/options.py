"""The options of ``scotoma paper``."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from ...defective.errors import UserError
from ...train.settings import Parser, add_picture_format, make_parser
from .budgets import BUDGETS, ROLES

_TEXT = """\
Make tables and figures of the paper, from nothing. For example: scotoma paper table4 --budget
quick. 'scotoma paper list' shows them and what each needs. Whatever is made is kept in --out and
shared between tables; a command that was stopped goes on where it was."""


def make_paper_parser() -> Parser:
    parser = make_parser("paper", _TEXT)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="table4, figure5, ...; several; or all"
    )
    add_setup_options(parser)
    parser.add_argument(
        "--rows",
        nargs="+",
        default=argparse.SUPPRESS,
        metavar="PATTERN",
        help="only the rows whose names match, such as '*0.5-Bottom*'; the rest is not made",
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
    add_run_options(parser)
    add_picture_format(parser, "also write the pictures in this format")
    return parser


def add_setup_options(parser: Parser, tables: bool = True) -> None:
    """Options of everything that makes artefacts.

    Args:
        tables: also those that mean something in tables and figures only; else their defaults hold.
    """
    absent = argparse.SUPPRESS
    lines = "; ".join(f"{budget.name}: {budget.description}" for budget in BUDGETS.values())
    parser.add_argument("--budget", choices=tuple(BUDGETS), default="quick", help=lines)
    if tables:
        _add_table_options(parser)
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


def _add_table_options(parser: Parser) -> None:
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="train every network N times; intervals are then over seeds, which vary more than "
        "the choice of images",
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
        default=argparse.SUPPRESS,
        metavar="FOLDER",
        help="Stylized-ImageNet's validation images (tables 1 and 13); without it that column "
        "stays empty",
    )


def add_run_options(parser: Parser) -> None:
    """Options of where artefacts are made."""
    absent = argparse.SUPPRESS
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        default=absent,
        help="run on a Ray cluster: its address, or 'local' for one on this machine; --out has to "
        "be a folder that all its machines see (docs/cluster.md)",
    )
    parser.add_argument(
        "--per-gpu",
        type=int,
        default=absent,
        metavar="N",
        help="with --ray: tasks on a GPU; default: one large training, or four small tasks",
    )


@dataclass(frozen=True)
class RunOptions:
    """Where artefacts are made.

    Attributes:
        ray: address of a cluster, or None. per_gpu: tasks on one of its GPUs, or None; 0 where a
            cluster computes on CPUs.
    """

    ray: str | None
    per_gpu: int | None


def run_options(arguments: argparse.Namespace) -> RunOptions:
    """Raises UserError on a number out of range, or options that do not go with the others."""
    ray, per_gpu = getattr(arguments, "ray", None), getattr(arguments, "per_gpu", None)
    if per_gpu is not None and ray is None:
        raise UserError("--per-gpu is for tasks on a cluster; give --ray ADDRESS with it")
    if per_gpu is not None and per_gpu < 1:
        raise UserError(f"--per-gpu is {per_gpu}; expected 1 or more")
    if ray is not None and arguments.device not in ("auto", "cpu"):
        raise UserError(
            f"--device {arguments.device} with --ray: each task gets the GPU that Ray gives it; "
            "expected auto or cpu, and $CUDA_VISIBLE_DEVICES chooses GPUs when Ray is started"
        )
    if ray is not None and arguments.device == "cpu":
        if per_gpu is not None:
            raise UserError("--per-gpu is for tasks on GPUs, and --device is cpu; leave out one")
        per_gpu = 0
    return RunOptions(ray, per_gpu)
