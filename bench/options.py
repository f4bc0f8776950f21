"""The options of ``scotoma bench``: one parser, and what several measurements ask.

Plain argparse, and no torch: machines with a GPU often lack jsonargparse, and help comes at once.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from ..defective.errors import UserError, nearest
from ..train.config import PictureFormat
from ..train.screen import paragraphs

UNFINISHED = 75
"""Exit status as long as --resume has left cases."""
DTYPES = ("bfloat16", "float16", "float32")
"""Of activations."""


def make_parser(verb: str, description: str, epilog: str | None = None, **settings) -> Parser:
    """A parser of a verb's options: argparse's, since machines with a GPU often lack jsonargparse.

    description: the module's docstring, whose indented lines stay apart.
    """
    return Parser(
        f"scotoma {verb}",
        description=description,
        epilog=epilog,
        formatter_class=HelpFormatter,
        **settings,
    )


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Fills paragraphs, and keeps lines that are indented apart."""

    def _fill_text(self, text, width, indent):
        return paragraphs(text, width)


class Parser(argparse.ArgumentParser):
    """Errors as one line that names the nearest known option."""

    def error(self, message: str):
        found = re.match(r"unrecognized arguments: (-[^\s=]*)", message)
        if found:
            known = [name for name in self._option_string_actions if name.startswith("--")]
            message = f"unknown option {found[1]!r}.{nearest(found[1], known)}"
        raise UserError(message)


def add_picture_format(
    parser: argparse.ArgumentParser, text: str = "of the picture (png)", default: str | None = "png"
) -> None:
    formats = get_args(PictureFormat)
    parser.add_argument("--picture-format", choices=formats, default=default, help=text)


def add_run_options(parser: argparse.ArgumentParser, benchmark: str, time_limit: int) -> None:
    """What every measurement of many cases asks. time_limit: seconds, by default."""
    add = parser.add_argument
    add_time_limit(parser, time_limit)
    add("--out", type=Path, help=f"file to append to (bench/results/DEVICE/{benchmark}.jsonl)")
    add_resume(parser)
    add("--cpu", action="store_true", help="small shapes on the CPU: a test of this command")
    add("--list", action="store_true", help="print the cases and stop")


def add_time_limit(parser: argparse.ArgumentParser, time_limit: int) -> None:
    parser.add_argument(
        "--time-limit",
        "--budget-seconds",
        type=positive,
        metavar="SECONDS",
        default=time_limit,
        help=f"start no case that would end later ({time_limit})",
    )


def add_variants(parser: argparse.ArgumentParser, text: str) -> None:
    """``--variants``, which was called ``--contestants``, as it still is in rows."""
    parser.add_argument("--variants", "--contestants", nargs="+", metavar="NAME", help=text)


def add_windows(parser: argparse.ArgumentParser, windows: str) -> None:
    """Options for :func:`time_in_turns`. windows: the usual number, in words."""
    add = parser.add_argument
    add("--windows", type=positive, help=f"timed stretches of each variant ({windows})")
    add("--window-seconds", type=float, default=0.3, help="least length of a stretch, about (0.3)")


def check_window_seconds(options: argparse.Namespace) -> None:
    if not options.window_seconds > 0:
        raise UserError(f"window-seconds is {options.window_seconds}; expected more than 0")


def add_resume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resume",
        action="store_true",
        help="leave out cases that the file has from the same machine, commit and settings; the "
        f"exit status is {UNFINISHED} as long as some are left",
    )


def positive(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def check_names(option: str, names: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """Names without repetition.

    Raises:
        UserError: a name is not among the known ones.
    """
    known = tuple(known)
    for name in names:
        if name not in known:
            raise UserError(
                f"{option} has {name!r}; expected some of {', '.join(known)}.{nearest(name, known)}"
            )
    return tuple(dict.fromkeys(names))
