"""What a person sees of ``scotoma attack`` at work: a bar, and the sets that were made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text
from torch import Tensor

from ...defective.attacks import Attack, Status
from ...defective.robustness import AdversarialSet
from ...defective.robustness.rates import fooled_source
from ..screen import make_console, show
from .images import TestImages
from .set_request import told_settings
from .tables import interval


def distances(found: AdversarialSet, images: TestImages, size: int) -> tuple[Tensor, Tensor]:
    """Euclidean and largest distance [N] of each image from its original, pixels in [0,1]."""
    euclidean, largest = [], []
    for number, (indices, originals, _) in enumerate(images.batches(found.indices, size)):
        start = number * size
        delta = found.pixels(slice(start, start + len(indices))).to(originals.device) - originals
        euclidean.append(delta.flatten(1).norm(dim=1).cpu())
        largest.append(delta.flatten(1).abs().amax(1).cpu())
    return torch.cat(euclidean), torch.cat(largest)


def figures(attack: Attack, found: AdversarialSet, images: TestImages, size: int) -> list[str]:
    """A set's row of the table at the end; ``size`` images at once are compared."""
    details = found.details
    rate = fooled_source(
        labels=found.labels,
        source_clean_predictions=found.clean_predictions,
        source_adversarial_predictions=found.predictions,
    )
    fooled = "no image left N 0"
    if rate["n"]:
        fooled = f"{100 * rate['rate']:.2f}\n{interval(rate)}\nN {rate['n']:,}"
    counts = torch.bincount(found.status.long(), minlength=len(Status)).tolist()
    told = [f"{Status(i).name.lower()} {n:,}" for i, n in enumerate(counts) if n]
    sizes = ["-", "-"]
    if bool(found.fooled.any()):
        euclidean, largest = distances(found.subset(found.fooled), images, size)
        sizes = [f"{float(euclidean.median()):.4f}", f"{255 * float(largest.median()):.2f}"]
    passes = [f"{float(t.double().mean()):,.1f}" for t in (found.forwards, found.backwards)]
    return [
        details["source"]["name"],
        "\n".join([attack.name, *told_settings(attack).split(",")]).strip(),
        fooled,
        "\n".join(told),
        *sizes,
        f"{passes[0]} + {passes[1]}",
        f"{details['seconds']:,.1f}",
    ]


def show_sets(made: Sequence[tuple[Path, list[str]]]) -> None:
    """The table of files and their :func:`figures`; long names are folded, files whole below."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("set")
    table.add_column("source", max_width=24)
    table.add_column("attack")
    heads = "fooled %,status,L2,Linf x255,passes,seconds"
    for head in heads.split(","):
        table.add_column(head, justify="right")
    for number, (_, row) in enumerate(made, 1):
        table.add_row(*map(Text, [str(number), *row]))
    files = (f"{number}  {path}" for number, (path, _) in enumerate(made, 1))
    show(make_console(), table, _NOTE, *files)


_NOTE = (
    "fooled: of the images that the source gets right, with the 95 % interval; status before any "
    "rounding; L2 and Linf: medians of the fooled, pixels in [0,1] (Linf in levels of 255); "
    "passes: forward and backward, means of an image"
)
