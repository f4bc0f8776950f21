"""The options of ``scotoma attack``."""

from __future__ import annotations

import argparse

from ..robustness.arithmetic import PRECISIONS
from ..settings import Parser, make_parser
from .robustness_options import (
    add_attack,
    add_batch_size,
    add_data,
    add_device,
    add_networks,
    add_samples,
)

_EXAMPLES = """\
Make adversarial images from networks, and keep them in files that 'scotoma evaluate' reads.
For example: scotoma attack runs/standard --attack fgsm:eps=8/255 --attack
pgd:eps=16/255,step=1/255,steps=20. Distances are of pixels in [0,1]."""


def make_attack_parser() -> Parser:
    parser = make_parser("attack", _EXAMPLES)
    add_networks(parser, "source")
    add_attack(parser, "an attack and its settings, from every source; may be repeated")
    parser.add_argument("--list", action="store_true", help="list attacks and settings, and stop")
    add_samples(
        parser,
        1000,
        "test images to attack, or all that there are; 1000 keep the 95 %% interval of a rate "
        "within 3.1 points, 5000 (the paper's number) within 1.4",
    )
    parser.add_argument(
        "--correct-for",
        nargs="+",
        default=argparse.SUPPRESS,
        metavar="RUN",
        help="networks beside the sources that must get every image right, usually the targets",
    )
    parser.add_argument(
        "--pixels",
        choices=("float", "uint8"),
        default="float",
        help="uint8 rounds to the nearest of 256 levels, as an image file would",
    )
    add_batch_size(parser, "attacked")
    parser.add_argument(
        "--precision",
        choices=tuple(PRECISIONS),
        default="float32",
        help="of the passes in attacks; verdicts are always in float32",
    )
    parser.add_argument(
        "--cuda-graph",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="on a GPU, launch a whole gradient at once in attacks that keep a batch together",
    )
    add_device(parser)
    add_data(parser)
    parser.add_argument("--out", default="adversarial", help="folder for the sets")
    return parser
