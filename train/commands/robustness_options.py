"""What ``scotoma attack`` and ``scotoma evaluate`` share: options, their checks and meaning."""

from __future__ import annotations

import argparse

import torch

from ...defective.errors import UserError
from ..config import check_seed
from ..robustness.images import TestImages
from ..robustness.models import NamedModel, load_common_data, load_named

_ABSENT = argparse.SUPPRESS  # as a default: no attribute, and no "(default: ...)" in the help


def add_networks(parser: argparse.ArgumentParser, role: str) -> None:
    """``role``: what a network is to the command, "source" or "target"."""
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run folders or checkpoints")
    parser.add_argument(
        "--ensemble",
        nargs="+",
        action="append",
        default=_ABSENT,
        metavar="RUN",
        help=f"two or more networks as one {role}, the mean of their logits; may be repeated",
    )


def add_attack(parser, text: str) -> None:
    """``parser``: as everywhere below, a parser or a group of its options. ``text``: the help."""
    parser.add_argument(
        "--attack",
        action="append",
        default=_ABSENT,
        metavar="NAME[:KEY=VALUE,...]",
        help=text,
    )


def add_samples(parser, default: int | str, text: str) -> None:
    """``default``: a number, or argparse.SUPPRESS where the command has several."""
    parser.add_argument("--samples", type=int, default=default, help=text)
    parser.add_argument("--sample-seed", type=int, default=0, help="of the choice of images")


def add_batch_size(parser, done: str) -> None:
    """``done``: what happens to a batch, for example "attacked"."""
    parser.add_argument("--batch-size", type=int, default=250, help=f"images {done} together")


def add_device(parser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def add_data(parser) -> None:
    parser.add_argument(
        "--dataset", default=_ABSENT, help="name or image folder; default: the networks' own"
    )
    parser.add_argument("--data-root", default=_ABSENT, help="where data sets live")
    parser.add_argument("--download", action="store_true", help="fetch the data set if need be")
    parser.add_argument(
        "--workers", type=int, default=4, help="loader processes, for images over 64 pixels only"
    )


def check_numbers(arguments: argparse.Namespace) -> None:
    """Raises UserError for a number of the options above that is out of range."""
    for name, least in (("samples", 1), ("batch_size", 1), ("workers", 0)):
        value = getattr(arguments, name, least)
        if value < least:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is {value}; expected {least} or more")
    check_seed("sample-seed", getattr(arguments, "sample_seed", 0))


def networks_from(arguments: argparse.Namespace, device: torch.device) -> list[NamedModel]:
    """The networks that :func:`add_networks` names. Raises UserError as :func:`load_named` does."""
    return load_named(arguments.runs, getattr(arguments, "ensemble", None), device)


def images_from(
    arguments: argparse.Namespace, models: list[NamedModel], device: torch.device
) -> TestImages:
    """The test images that :func:`add_data` names, which fit all ``models``.

    Raises:
        UserError: as :func:`load_common_data` does.
    """
    data = load_common_data(
        models,
        getattr(arguments, "dataset", None),
        getattr(arguments, "data_root", None),
        arguments.download,
    )
    return TestImages(data, device, arguments.workers)
