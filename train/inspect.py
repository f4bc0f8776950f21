"""``scotoma models``, ``info`` and ``masks``: what networks and checkpoints are."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from rich.table import Table
from torch import Tensor

from ..defective import create_model, load_model, mask_sites, model_names
from ..defective.errors import UserError, counted
from ..defective.masks import model_terms
from ..defective.models.base import Network
from ..defective.serialization import checkpoint_path, read_details
from ..defective.spec import Conversion
from . import plots
from .config import PictureFormat
from .screen import make_console, show
from .settings import add_picture_format, make_parser

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def add_network_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument(
        *("--arch", "--model"),
        default="resnet18",
        help=f"one of {', '.join(model_names())}, or torchvision:NAME or timm:NAME",
    )
    text = "of another library's network: modules with defects, in place of Bottom or Top"
    group.add_argument("--where", nargs="+", metavar="MODULE", help=text)
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
        where=getattr(arguments, "where", None),
    )


def models(argv: list[str]) -> int:
    parser = make_parser("models", "List the architectures with parameter counts and mask sites.")
    add_variant_options(parser.add_argument_group("variant"))
    parser.add_argument("--all-sites", action="store_true", help="also list every site and shape")
    arguments = parser.parse_args(argv)

    size = f"{arguments.in_channels}x{arguments.image_size}x{arguments.image_size}"
    table = _table(
        f"{arguments.defects}, {size}, {counted(arguments.num_classes, 'class')}",
        *("architecture", "parameters", "sites", "neurons masked over", "kept"),
    )
    sites, failures = {}, []
    for name in model_names():
        try:
            model = network_from(arguments, name)
        except UserError as error:
            failures.append(error)
            table.add_row(name, "-", "-", "not available", "-")
            continue
        masks = sites[name] = mask_sites(model)
        neurons = sum(mask.numel() for mask in masks.values())
        kept = sum(int(mask.sum()) for mask in masks.values())
        share = f"{kept / neurons:.2%}" if neurons else "-"
        table.add_row(name, _parameters(model), str(len(masks)), f"{neurons:,}", share)
    if not sites:
        raise failures[0]
    console = make_console()
    show(console, table)
    for name, masks in sites.items() if arguments.all_sites else ():
        console.print(f"\n{name}")
        for site, mask in masks.items():
            console.print(f"  {site:24} {_shape(mask):>12}  keeps {int(mask.sum()):,}")
    return 0


def info(argv: list[str]) -> int:
    parser = make_parser("info", "Describe a checkpoint: its network, masks and results.")
    parser.add_argument("checkpoint", help="a .safetensors file, or a run folder")
    path = checkpoint_path(parser.parse_args(argv).checkpoint)
    model, (_, details) = load_model(path), read_details(path)
    spec = model.spec

    converted = isinstance(spec, Conversion)
    shape = spec.input_shape if converted else (spec.in_channels, *[spec.image_size] * 2)
    size = "x".join(map(str, shape))
    taken = "as its library normalises images"
    if not converted:
        taken = f"pixels in [0,1]; normalised by mean {spec.mean} std {spec.std}"
    width = "" if converted or spec.width is None else f", width {spec.width}"
    exact = "exact count" if spec.exact_masks else "Bernoulli"
    foreign = converted or ":" in spec.name
    where = "sites of the network's stages" if foreign else f"sites of the {spec.sites}"
    where = where if spec.where is None else f"in {', '.join(spec.where)}"
    seed = "not those of a seed" if spec.mask_seed is None else f"seed {spec.mask_seed}"
    facts = {
        "file": path,
        "network": f"{spec.name}, {spec.defects}{width}",
        "parameters": _parameters(model),
        "input": f"{size}, {taken}",
        "output": f"{spec.num_classes} logits",
        "masks": f"{seed}, {exact}, {where}",
    }
    if not converted and spec.regularizer != "none":
        facts["regulariser"] = spec.regularizer
    for key, value in details.items():
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        elif isinstance(value, float):
            value = f"{value:.2%}" if key.endswith("acc1") else f"{value:.4g}"
        facts["training seed" if key == "seed" else key.replace("_", " ")] = value
    grid = Table.grid(padding=(0, 2))
    for name, fact in facts.items():
        grid.add_row(name, str(fact))
    console = make_console()
    console.print(grid)

    if masks := mask_sites(model):
        sites = _table("mask sites", "site", "shape", "kept", "share")
        for name, mask in masks.items():
            sites.add_row(name, _shape(mask), f"{int(mask.sum()):,}", f"{_share(mask):.2%}")
        show(console, sites)
    return 0


def masks(argv: list[str]) -> int:
    parser = make_parser("masks", "Draw the masks of a network, or of a checkpoint.")
    parser.add_argument("checkpoint", nargs="?", help="checkpoint or run folder to draw")
    add_network_options(parser)
    absent = argparse.SUPPRESS
    parser.add_argument("--out", default=absent, help="file to write; default: masks.png")
    add_picture_format(parser, "of the file; default: what --out ends in, or png", absent)
    parser.add_argument("--channels", type=int, default=6, help="channels to show of each mask")
    arguments = parser.parse_args(argv)
    chosen = getattr(arguments, "picture_format", None)
    out = Path(getattr(arguments, "out", f"masks.{chosen or 'png'}"))
    if arguments.channels < 1:
        raise UserError(f"--channels is {arguments.channels}; expected at least 1")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist")
    if out.is_dir():
        raise UserError(f"--out {out} is a directory; give the name of a file")
    formats = (chosen,) if chosen else get_args(PictureFormat)
    if out.suffix[1:].lower() not in formats:
        raise UserError(f"--out {out}: expected a name that ends in .{', .'.join(formats)}")
    model = network_from(arguments)
    masks = mask_sites(model)
    if not masks:
        raise UserError(f"{model.spec.name} {model.spec.defects} has no masks to draw")
    plots.save(draw_masks(model, arguments.channels), out)
    for name, mask in masks.items():
        print(f"{name:24} {_shape(mask):>12}  keeps {int(mask.sum()):>8,}  {_share(mask):.2%}")
    print(f"wrote {out}")
    return 0


def draw_masks(model: Network, channels: int = 6) -> Figure:
    """One row a site: its first channels, and the share kept of every channel as a histogram."""
    from matplotlib.colors import ListedColormap

    masks, terms = mask_sites(model), model_terms(model)
    spec = model.spec
    title = f"{spec.name} {spec.defects}: kept neurons bright, defective ones dark"
    figure = plots.new((1.25 * channels + 3.2, 1.3 * len(masks) + 0.8), title)
    colours = ListedColormap(["#22252b", "#f2c14e"])
    axes = figure.subplots(
        len(masks), channels + 1, squeeze=False, width_ratios=[1] * channels + [1.8]
    )
    for row, (name, mask) in zip(axes, masks.items(), strict=True):
        patterns = mask.numpy()
        for index, cell in enumerate(row[:-1]):
            cell.set_xticks([])
            cell.set_yticks([])
            if index < mask.shape[0]:
                cell.imshow(patterns[index], cmap=colours, vmin=0, vmax=1, interpolation="nearest")
            else:
                cell.axis("off")
        label = f"{name}\n{_shape(mask)}\n{_share(mask):.1%} kept"
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
        # One range for all, so that rows compare: small masks spread more than large ones.
        shares = 100 * mask.float().mean((1, 2))
        row[-1].hist(shares.tolist(), bins=range(0, 101, 2), color="#f2c14e")
        p = terms[model.get_submodule(name).block].keep_probability
        row[-1].axvline(100 * p, color="#22252b", linestyle=":", linewidth=1)
        row[-1].set_xlim(0, 100)
        row[-1].tick_params(labelsize=6)
        row[-1].locator_params(axis="y", nbins=2, integer=True)
    for index, cell in enumerate(axes[0][:-1]):
        cell.set_title(f"channel {index}", fontsize=8)
    axes[0][-1].set_title("channels by share kept (%), dotted: p", fontsize=8)
    return figure


def _table(title: str, first: str, *others: str) -> Table:
    """Words on the left, numbers on the right."""
    table = Table(first, title=title)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _parameters(model: Network) -> str:
    return f"{sum(p.numel() for p in model.parameters()):,}"


def _shape(mask: Tensor) -> str:
    return "x".join(map(str, mask.shape))


def _share(mask: Tensor) -> float:
    return float(mask.float().mean())
