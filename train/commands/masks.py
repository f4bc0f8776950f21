"""``scotoma masks``: a picture of a network's masks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from torch import Tensor

from ...defective import mask_sites
from ...defective.errors import UserError
from ...defective.masks import model_terms
from ...defective.models.base import Network
from .. import plots
from ..config import PictureFormat
from ..settings import add_picture_format, make_parser
from .options import add_network_options, network_from

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def main(argv: list[str]) -> int:
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
        shape = "x".join(map(str, mask.shape))
        print(f"{name:24} {shape:>12}  keeps {int(mask.sum()):>8,}  {_share(mask):.2%}")
    print(f"wrote {out}")
    return 0


def draw_masks(model: Network, channels: int = 6) -> Figure:
    """One row a site: its first channels, and the share kept of every channel as a histogram.

    Args:
        model: a network with masks. channels: to show of each mask.
    """
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
        shape = "x".join(map(str, mask.shape))
        label = f"{name}\n{shape}\n{_share(mask):.1%} kept"
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


def _share(mask: Tensor) -> float:
    return float(mask.float().mean())
