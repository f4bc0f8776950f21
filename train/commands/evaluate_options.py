"""The options of ``scotoma evaluate``, and what they ask for."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...defective.attacks import Attack, parse_attack
from ...defective.attacks.registry import read_number
from ...defective.errors import UserError
from ..robustness.asked import BOUNDARY_SAMPLES, SAMPLES, Asked
from ..runfolder import CONFIG, WEIGHTS
from ..settings import Parser, add_picture_format, make_parser
from .robustness_options import (
    add_attack,
    add_batch_size,
    add_data,
    add_device,
    add_networks,
    add_samples,
    check_numbers,
)

_DESCRIPTION = """\
Measure how robust networks are: their accuracy on the test images, and whatever is asked for below.
Results are kept one by one, so that the same command goes on where it was stopped. For example:
scotoma evaluate runs/standard runs/defective --against adversarial. Distances are of pixels in
[0,1]."""


def make_evaluate_parser() -> Parser:
    parser = make_parser("evaluate", _DESCRIPTION)
    absent = argparse.SUPPRESS
    add_networks(parser, "target")
    asked = parser.add_argument_group("what to measure")
    asked.add_argument(
        "--against",
        nargs="+",
        action="extend",
        default=absent,
        metavar="SET",
        help="adversarial sets of 'scotoma attack', files or folders of them",
    )
    add_attack(asked, "white-box: attack every target itself; may be repeated")
    asked.add_argument(
        "--boundary",
        nargs="?",
        const="",
        default=absent,
        metavar="KEY=VALUE,...",
        help="decision-based score of the boundary attack, with its settings",
    )
    asked.add_argument(
        "--noise",
        nargs="*",
        default=absent,
        metavar="EPS",
        help="accuracy under Gaussian noise of sigma = eps/2; without values the paper's, 2/255 to "
        "64/255",
    )
    asked.add_argument(
        "--shuffle",
        nargs="*",
        default=absent,
        metavar="K",
        help="accuracy on images of K x K shuffled patches; without values those of 2, 4 and 8 "
        "that divide the images",
    )
    asked.add_argument(
        "--stylized",
        default=absent,
        metavar="FOLDER",
        help="accuracy on a folder of stylised images, FOLDER/<class>/*",
    )
    images = parser.add_argument_group("images")
    add_samples(
        images,
        absent,
        "test images to attack, disturb or shuffle; default: "
        f"{SAMPLES}, and {BOUNDARY_SAMPLES} for --boundary. Sets bring their own",
    )
    add_data(images)
    add_batch_size(parser, "classified")
    add_device(parser)
    parser.add_argument(
        "--out", default="evaluation", help="folder for results, tables and pictures"
    )
    add_picture_format(parser)
    return parser


def read_asked(arguments: argparse.Namespace) -> Asked:
    """Raises UserError for a value out of range, or a set or folder that is not there."""
    check_numbers(arguments)
    settings = getattr(arguments, "boundary", None)
    noise, shuffle = getattr(arguments, "noise", None), getattr(arguments, "shuffle", None)
    stylized = getattr(arguments, "stylized", None)
    if stylized is not None and not Path(stylized).is_dir():
        raise UserError(f"--stylized {stylized}: no such folder; expected FOLDER/<class>/*")
    return Asked(
        sets=_set_files(getattr(arguments, "against", [])),
        attacks=_attacks(getattr(arguments, "attack", [])),
        boundary=None if settings is None else parse_attack(f"boundary:{settings}"),
        epsilons=_epsilons(noise),
        shuffle=shuffle is not None,
        grids=tuple(dict.fromkeys(map(_grid, shuffle))) if shuffle else None,
        stylized=None if stylized is None else Path(stylized),
        samples=getattr(arguments, "samples", SAMPLES),
        boundary_samples=getattr(arguments, "samples", BOUNDARY_SAMPLES),
    )


def _set_files(given: list[str]) -> tuple[Path, ...]:
    """Set files, those of folders in the order of their names, each once."""
    found: dict[Path, Path] = {}
    for text in given:
        path = Path(text)
        of_run = path.is_dir() or path.name in (WEIGHTS, "best.safetensors")
        if of_run and ((path if path.is_dir() else path.parent) / CONFIG).is_file():
            raise UserError(
                f"--against {text}: that is a run, not a set; make sets from it with: scotoma "
                f"attack {text} --attack pgd"
            )
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        if not files:
            raise UserError(f"--against {path}: no *.safetensors there; make sets: scotoma attack")
        for file in files:
            if not file.is_file():
                raise UserError(f"--against {file}: no such set; make it with: scotoma attack")
            found.setdefault(file.resolve(), file)
    return tuple(found.values())


def _attacks(texts: list[str]) -> tuple[Attack, ...]:
    return tuple(dict.fromkeys(map(parse_attack, texts)))


def _epsilons(texts: list[str] | None) -> tuple[float, ...]:
    if texts is None:
        return ()
    if not texts:
        from ..robustness.protocols import PAPER_EPSILONS  # all protocols, for this one option

        return PAPER_EPSILONS
    return tuple(dict.fromkeys(map(_epsilon, texts)))


def _epsilon(text: str) -> float:
    try:
        value = read_number(text)
    except (ValueError, ZeroDivisionError):
        value = -1.0
    if not 0 < value <= 1:
        raise UserError(
            f"--noise {text}: expected 0 < eps <= 1, in units of pixels in [0,1] (for eight levels "
            "of 255 write 8/255)"
        )
    return value


def _grid(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--shuffle {text}: expected a number of patches along a side, 1 or more")
    return int(text)
