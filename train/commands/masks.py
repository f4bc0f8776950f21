"""``scotoma masks``: a picture of a network's masks."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from ...defective import mask_sites
from ...defective.errors import UserError
from ...defective.models.base import Network
from ...defective.serialization import atomic_path
from .options import add_network_options, make_parser, network_from


def main(argv: list[str]) -> int:
    parser = make_parser("masks", "Draw the masks of a network, or of a checkpoint.")
    parser.add_argument("checkpoint", nargs="?", help="checkpoint or run folder to draw")
    add_network_options(parser)
    parser.add_argument("--out", default="masks.png", help="PNG file to write")
    parser.add_argument("--channels", type=int, default=6, help="channels to show of each mask")
    arguments = parser.parse_args(argv)
    out = Path(arguments.out)
    if arguments.channels < 1:
        raise UserError(f"--channels is {arguments.channels}; expected at least 1")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist")
    if out.is_dir():
        raise UserError(f"--out {out} is a directory; give the name of a PNG file")
    model = network_from(arguments)
    masks = mask_sites(model)
    if not masks:
        raise UserError(f"{model.spec.name} {model.spec.defects} has no masks to draw")
    with atomic_path(out) as temporary:
        draw_masks(model, temporary, arguments.channels)
    for name, mask in masks.items():
        shape = "x".join(map(str, mask.shape))
        print(f"{name:24} {shape:>12}  keeps {int(mask.sum()):>8,}  {_share(mask):.2%}")
    print(f"wrote {out}")
    return 0


def draw_masks(model: Network, path: Path, channels: int = 6) -> None:
    """One row a site: its first channels, and the share kept of every channel as a histogram.

    Args:
        model: a network with masks. path: PNG file. channels: to show of each mask.
    """
    masks = mask_sites(model)
    figure = Figure(figsize=(1.25 * channels + 3.2, 1.3 * len(masks) + 0.8), layout="constrained")
    colours = ListedColormap(["#22252b", "#f2c14e"])
    axes = figure.subplots(
        len(masks), channels + 1, squeeze=False, width_ratios=[1] * channels + [1.6]
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
        shares = 100 * mask.float().mean((1, 2))
        row[-1].hist(shares.tolist(), bins=min(20, math.isqrt(len(shares)) + 1), color="#f2c14e")
        row[-1].tick_params(labelsize=6)
        row[-1].set_yticks([])
    for index, cell in enumerate(axes[0][:-1]):
        cell.set_title(f"channel {index}", fontsize=8)
    axes[0][-1].set_title("kept per channel (%)", fontsize=8)
    spec = model.spec
    figure.suptitle(f"{spec.name} {spec.defects}: kept neurons bright, defective ones dark")
    figure.savefig(path, dpi=110, format="png")


def _share(mask: Tensor) -> float:
    return float(mask.float().mean())
