"""Options that several verbs share: which network is meant."""

from __future__ import annotations

import argparse

from ...defective import create_model, load_model, model_names
from ...defective.models.base import Network


def add_network_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument("--arch", default="resnet18", help=f"one of {', '.join(model_names())}")
    add_variant_options(group)
    group.add_argument("--mask-seed", type=int, default=0, help="seed of the masks")


def add_variant_options(group) -> None:
    group.add_argument(
        "--defects", default="0.5-Bottom", help="the paper's notation, for example 0.3-Bottom"
    )
    group.add_argument("--sites", default="release", choices=("release", "paper"), help="placement")
    group.add_argument("--width", type=int, help="base width; the paper's if not given")
    group.add_argument("--image-size", type=int, default=32, help="side of the images in pixels")
    group.add_argument("--in-channels", type=int, default=3, help="channels of the images")
    group.add_argument("--num-classes", type=int, default=10, help="classes")


def network_from(arguments: argparse.Namespace, arch: str | None = None) -> Network:
    """The network that :func:`add_network_options` describe, or the one in a checkpoint."""
    if getattr(arguments, "checkpoint", None):
        return load_model(arguments.checkpoint)
    return create_model(
        arch or arguments.arch,
        arguments.defects,
        num_classes=arguments.num_classes,
        in_channels=arguments.in_channels,
        image_size=arguments.image_size,
        width=arguments.width,
        mask_seed=getattr(arguments, "mask_seed", 0),
        sites=arguments.sites,
    )
