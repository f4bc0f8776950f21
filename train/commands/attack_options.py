"""The options of ``scotoma attack``."""

from __future__ import annotations

import argparse

from ..robustness.arithmetic import PRECISIONS
from .options import Parser, make_parser

_EXAMPLES = """\
Make adversarial images from networks, and keep them in files that 'scotoma evaluate' reads.
For example: scotoma attack runs/standard --attack fgsm:eps=8/255 --attack
pgd:eps=16/255,step=1/255,steps=20. Distances are of pixels in [0,1]."""


def make_attack_parser() -> Parser:
    parser = make_parser("attack", _EXAMPLES)
    absent = argparse.SUPPRESS
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run folders or checkpoints")
    parser.add_argument(
        "--ensemble",
        nargs="+",
        action="append",
        default=absent,
        metavar="RUN",
        help="two or more networks as one source, the mean of their logits; may be repeated",
    )
    parser.add_argument(
        "--attack",
        action="append",
        default=absent,
        metavar="NAME[:KEY=VALUE,...]",
        help="an attack and its settings, from every source; may be repeated",
    )
    parser.add_argument("--list", action="store_true", help="list attacks and settings, and stop")
    parser.add_argument(
        "--samples",
        type=int,
        default=1000,
        help="test images to attack, or all that there are; 1000 keep the 95 %% interval of a rate "
        "within 3.1 points, 5000 (the paper's number) within 1.4",
    )
    parser.add_argument("--sample-seed", type=int, default=0, help="of the choice of images")
    parser.add_argument(
        "--correct-for",
        nargs="+",
        default=absent,
        metavar="RUN",
        help="networks beside the sources that must get every image right, usually the targets",
    )
    parser.add_argument(
        "--pixels",
        choices=("float", "uint8"),
        default="float",
        help="uint8 rounds to the nearest of 256 levels, as an image file would",
    )
    parser.add_argument("--batch-size", type=int, default=250, help="images attacked together")
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
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--dataset", default=absent, help="name or image folder; default: the networks' own"
    )
    parser.add_argument("--data-root", default=absent, help="where data sets live")
    parser.add_argument("--download", action="store_true", help="fetch the data set if need be")
    parser.add_argument(
        "--workers", type=int, default=4, help="loader processes, for images over 64 pixels only"
    )
    parser.add_argument("--out", default="adversarial", help="folder for the sets")
    return parser
