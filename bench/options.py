"""The options of ``scotoma bench``: one parser, and what several measurements ask.

Plain argparse, and no torch: machines with a GPU often lack jsonargparse, and help comes at once.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from ..defective.errors import UserError, nearest
from ..train.config import PictureFormat
from ..train.screen import paragraphs

UNFINISHED = 75
"""Exit status as long as --resume has left cases."""
DTYPES = ("bfloat16", "float16", "float32")
"""Of activations."""


def make_parser(
    verb: str, description: str, lists: dict[str, dict[str, Any]] | None = None, **settings
) -> Parser:
    """A parser of a verb's options: argparse's, since machines with a GPU often lack jsonargparse.

    Args:
        description: the module's docstring, whose indented lines stay apart.
        lists: for the end of the help, by title: names, and their words or what has a ``text``.
    """
    epilog = "\n\n".join(
        f"{title}:\n"
        + "\n".join(f"  {name:22} {getattr(e, 'text', e)}" for name, e in found.items())
        for title, found in (lists or {}).items()
    )
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


def add_resume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resume",
        action="store_true",
        help="leave out cases that the file has from the same machine, commit and settings; the "
        f"exit status is {UNFINISHED} as long as some are left",
    )


def add_variants(parser: argparse.ArgumentParser, known: Iterable[str], text: str) -> None:
    """``--variants``, which was called ``--contestants``, as it still is in rows."""
    parser.add_argument(
        "--variants", "--contestants", action=Names, known=known, nargs="+", help=text
    )


def add_windows(parser: argparse.ArgumentParser, windows: str) -> None:
    """Options for :func:`time_in_turns`. windows: the usual number, in words."""
    add = parser.add_argument
    add("--windows", type=positive, help=f"timed stretches of each variant ({windows})")
    length = "least length of a stretch, about (0.3)"
    add("--window-seconds", type=seconds, default=0.3, help=length)


def fill_in(options: argparse.Namespace, **usual: tuple[Any, Any]) -> None:
    """Options that nobody gave. usual: of each, the value with ``--cpu`` and the one without."""
    for name, (on_cpu, on_gpu) in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, on_cpu if options.cpu else on_gpu)


def positive(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def seconds(text: str) -> float:
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of more than 0")
    return float(text)


class Names(argparse.Action):
    """Some of the ``known`` names, each once; without ``nargs="+"`` a single one.

    Its errors name the nearest known name.
    """

    def __init__(self, *flags, known: Iterable[str], metavar: str = "NAME", **settings):
        super().__init__(*flags, metavar=metavar, **settings)
        self.known = tuple(known)

    def __call__(self, parser, options, given, flag=None):
        several = isinstance(given, list)
        names = given if several else [given] if given is not None else []
        for name in names:
            if name not in self.known:
                option = self.dest if self.option_strings else self.metavar
                raise UserError(
                    f"{option} has {name!r}; expected some of {', '.join(self.known)}."
                    f"{nearest(name, self.known)}"
                )
        setattr(options, self.dest, tuple(dict.fromkeys(names)) if several else given)
