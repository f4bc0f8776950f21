"""Pictures of an evaluation: rates as a heat map, noise, trade-off, examples, shuffled images."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...defective.robustness import AdversarialSet
from ...defective.robustness.shuffle import shuffle_patches
from .. import plots
from ..config import PictureFormat
from .images import TestImages
from .models import NamedModel, full_precision
from .protocols import CleanPredictions, classes_of
from .tables import DEFINITIONS, columns, flat, frame, series

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

COUNT = 8
"""Images side by side."""


def draw_all(
    cells: Sequence[dict[str, Any]],
    folder: Path,
    *,
    samples: Mapping[str, Any] | None = None,
    format: PictureFormat = "png",
) -> list[Path]:
    """Write the pictures that apply: transfer, noise, tradeoff, examples and shuffled.

    Each is whole or not there; the same in another format, of an earlier call, is removed.

    Args:
        cells: in any order. folder: made if need be.
        samples: images for the examples and the shuffled ones, as :func:`example_samples` and
            :func:`shuffled_samples` give them; any key may be missing. "set": which of how many
            sets the examples are of.

    Returns:
        The files written.

    Raises:
        UserError: a cell without a result that its kind must have. OSError: it cannot be written.
    """
    found, samples = frame(cells), samples or {}
    made = []
    for name, draw, material in (
        ("transfer", draw_transfer, found),
        ("noise", draw_noise, found),
        ("tradeoff", draw_tradeoff, found),
        ("examples", draw_examples, samples),
        ("shuffled", draw_shuffled, samples),
    ):
        figure = draw(material)
        if figure is not None:
            folder.mkdir(parents=True, exist_ok=True)
            made.append(plots.save_as(figure, folder / name, format))
    return made


def draw_transfer(found: DataFrame) -> Figure | None:
    """P1 as a heat map: targets as rows, (source, attack) as columns; None without such cells."""
    parts = columns(found, "transfer")
    if not parts:
        return None
    names = list(dict.fromkeys(found.target[found.kind == "transfer"]))
    upright = len(parts) > 8
    wide, high = 0.8 if upright else 1.5, 0.5
    shown = plots.short(names, 40)
    across = max(6.0, 0.4 + 0.08 * max(map(len, shown.values())) + wide * len(parts))
    below = textwrap.wrap(DEFINITIONS[0], round(14.5 * across))
    size = (across, high * len(names) + (2.8 if upright else 1.7) + 0.14 * len(below))
    figure = plots.new(size, "Success defence rate (P1, %)")
    axes = figure.subplots()
    values, words, marks = {}, {}, {}
    for label, part in parts.items():
        for name, rate, relation in zip(part.index, part.defence, part.relation, strict=True):
            values[name, label], words[name, label] = rate["rate"], "no image"
            if relation != "transfer":
                marks[name, label] = relation
    plots.heat_map(axes, names, list(parts), values, words=words, marks=marks)
    axes.set_box_aspect(high * len(names) / (wide * len(parts)))
    axes.set_yticks(range(len(names)), [shown[name] for name in names], fontsize=8.5)
    heads = [_head(*item, 44 if upright else 22) for item in parts.items()]
    axes.set_xticks(range(len(parts)), heads, fontsize=8, rotation=90 if upright else 0)
    axes.set_xlabel("attack and its source", fontsize=8.5)
    axes.set_ylabel("target", fontsize=8.5)
    figure.supxlabel("\n".join(below), fontsize=7.5, color="#555555")
    return figure


def _head(label: str, part: DataFrame, width: int) -> str:
    """Attack and source, in lines of so many characters."""
    texts, attack, source = [label], part.short.iat[0], part.source.iat[0]
    if source:
        further = label.removeprefix(f"{attack} from {source}").strip()
        texts = [attack, f"from {source}", further]
    cut = (plots.cut(text, 2 * width) for text in texts)
    return "\n".join(line for text in cut for line in textwrap.wrap(text, width))


def draw_noise(found: DataFrame) -> Figure | None:
    """Accuracy against epsilon = 2 sigma in levels of 255: the paper's Figure 4. A line a target
    with its 95 % interval, a panel for each group of otherwise equal settings; None without cells.
    """
    groups = series(found, "noise", "epsilon", "sigma")
    if not groups:
        return None
    names = list(dict.fromkeys(found.target[found.kind == "noise"]))
    shown = plots.short(names, 44)
    across = min(2, len(groups))
    size = (5.2 * across + 3.4, 3.6 * -(-len(groups) // across) + 0.6)
    figure = plots.new(size, "Accuracy under Gaussian noise")
    told = [flat(settings) for settings, _ in groups]
    same = {k for k, v in told[0].items() if all(each.get(k) == v for each in told)}
    marks, ends = {}, []
    hidden = same | {"images", "indices"}
    all_axes = plots.panels(figure, len(groups), across)
    for axes, own, (_, group) in zip(all_axes, told, groups, strict=True):
        words = [f"{k} {v}" for k, v in own.items() if k not in hidden]
        axes.set_title(plots.plain(", ".join(words))[:70], fontsize=9)
        counts = set()
        for number, name in enumerate(names):
            rates = {
                255 * epsilon: part.accuracy[name]
                for epsilon, part in group.items()
                if name in part.index
            }
            counts |= {rate["n"] for rate in rates.values()}
            points = [(x, _range(rate)) for x, rate in rates.items() if rate["rate"] is not None]
            if points:
                marks[shown[name]] = plots.interval_line(axes, number, points, shown[name])
                ends += [end for _, (low, _, high) in points for end in (low, high)]
        axes.set_xlabel("epsilon = 2 sigma (levels of 255)")
        number_of = " to ".join(str(n) for n in sorted({min(counts), max(counts)}))
        axes.set_ylabel(f"accuracy (%) of {number_of} images\nthat all targets get right clean")
        axes.grid(alpha=0.3)
    for axes in all_axes:
        axes.set_ylim(plots.percent_limits(ends))
    plots.legend(figure, marks, "target, 95 % interval")
    return figure


def draw_tradeoff(found: DataFrame) -> Figure | None:
    """Clean accuracy against P1: the paper's Figure 5. A point a target with its 95 % intervals, a
    panel for each (source, attack); None without one for which two targets have both numbers."""
    clean: dict[str, dict] = {}  # of each target on the most images
    for part in columns(found, "clean").values():
        for name, rate in part.accuracy.items():
            if rate["rate"] is not None and (name not in clean or rate["n"] > clean[name]["n"]):
                clean[name] = rate
    panels = {}
    for label, part in columns(found, "transfer").items():
        points = {
            name: (_range(rate), _range(clean[name]))
            for name, rate in part.defence.items()
            if name in clean and rate["rate"] is not None
        }
        if len(points) > 1:
            panels[label] = points
    if not panels:
        return None
    across = min(3 if len(panels) > 4 else 2, len(panels))
    size = (5.2 * across + 2.6, 3.6 * -(-len(panels) // across) + 0.5)
    figure = plots.new(size, "Clean accuracy and success defence rate (P1), 95 % intervals")
    targets = list(dict.fromkeys(found.target))
    shown, marks = plots.short(targets, 44), {}
    all_axes = plots.panels(figure, len(panels), across)
    pairs = [pair for points in panels.values() for pair in points.values()]
    across_and_up = [
        plots.percent_limits([end for pair in pairs for end in pair[i][::2]], 0.12)
        for i in range(2)
    ]
    for axes, (label, points) in zip(all_axes, panels.items(), strict=True):
        for name, (x, y) in points.items():
            number = targets.index(name)
            look = {"colour": plots.colour(number), "marker": plots.marker(number)}
            marks[shown[name]] = plots.interval_point(axes, x, y, **look)
        axes.set(xlim=across_and_up[0], ylim=across_and_up[1])
        axes.set_title(plots.cut(label, 72), fontsize=9)
        axes.set_xlabel("success defence rate (P1, %)")
        axes.set_ylabel("clean accuracy (%)")
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    plots.legend(figure, marks, "target")
    return figure


def _range(rate: Mapping[str, Any]) -> plots.Range:
    """In percent, with the ends of the interval."""
    return 100 * rate["low"], 100 * rate["rate"], 100 * rate["high"]


def draw_examples(samples: Mapping[str, Any]) -> Figure | None:
    """What :func:`example_samples` gives, with differences, and labels signed and coloured as right
    or wrong; None without examples. "set" (may be absent) is which of how many sets is shown."""
    if "adversarial" not in samples:
        return None
    clean, adversarial, labels = samples["clean"], samples["adversarial"], samples["labels"]
    signs, inks = ("✗", "✓"), (plots.WRONG, plots.RIGHT)
    originals, attacked = (
        [
            (name, [f"{signs[ok]} {word}" for word, ok in said], [inks[ok] for _, ok in said])
            for name, said in samples[which]
        ]
        for which in ("said of originals", "said")
    )
    true = ("true class", labels, [plots.NEUTRAL] * len(labels))
    shown, factor = plots.amplified(adversarial - clean)
    strips = [
        plots.Strip("original", clean, [true, *originals]),
        plots.Strip(samples["heading"], adversarial, attacked),
        plots.Strip(f"difference x {factor}, grey is none", shown),
    ]
    number, total = samples.get("set", (1, 1))
    title = "Adversarial images" + (f", set {number} of {total}" if total > 1 else "")
    return plots.draw_strips(title, strips, [("✓ right", plots.RIGHT), ("✗ wrong", plots.WRONG)])


def draw_shuffled(samples: Mapping[str, Any]) -> Figure | None:
    """What :func:`shuffled_samples` gives; None without shuffled images."""
    return plots.draw_shuffled(samples.get("shuffled") or {}, samples.get("labels") or [])


# The images that the pictures show


def example_samples(
    found: AdversarialSet,
    images: TestImages,
    targets: Sequence[NamedModel],
    clean: CleanPredictions,
) -> dict[str, Any]:
    """Originals and adversarial images that fool their source, and what every network says.

    Returns:
        "indices" int64 [n]; "clean" and "adversarial" float [n,C,H,W]; "labels" n names; "heading",
        the attack and its source; "said of originals" and "said", of each network its name and n
        pairs of (name of its class, whether that is right). n is at most eight; the mapping is
        empty if the set fools nobody.
    """
    part = found.subset(found.fooled.nonzero().flatten()[:COUNT])
    if not len(part):
        return {}
    names, source = images.data.classes, found.details["source"]

    def said(name: str, classes: Tensor) -> tuple[str, list[tuple[str, bool]]]:
        right = (classes == part.labels).tolist()
        return name, [(names[c], ok) for c, ok in zip(classes.tolist(), right, strict=True)]

    attacked = [said(source["name"], part.predictions)]
    with full_precision():
        for target in targets:
            if target.digest != source["digest"]:
                classes = classes_of(target, part.pixels().to(images.device))
                attacked.append(said(target.name, classes))
    return {
        "indices": part.indices,
        "clean": _pixels(images, part.indices),
        "adversarial": part.pixels(),
        "labels": [names[c] for c in part.labels.tolist()],
        "heading": f"{found.details['attack_text']} from {source['name']}",
        "said of originals": [said(t.name, clean.of(t, part.indices)) for t in targets],
        "said": attacked,
    }


def shuffled_samples(
    images: TestImages, indices: Tensor, grids: Sequence[int], seed: int
) -> dict[str, Any]:
    """The first images of ``indices`` with their patches shuffled, as the protocol does it.

    Returns:
        "shuffled" {k: float [n,C,H,W]} with the originals under 1, and "labels" n names.
    """
    chosen = indices[:COUNT]
    originals = _pixels(images, chosen)
    shuffled = {k: shuffle_patches(originals, k, seed, chosen) for k in grids if k != 1}
    labels = [images.data.classes[c] for c in images.labels[chosen].tolist()]
    return {"shuffled": {1: originals} | shuffled, "labels": labels}


def _pixels(images: TestImages, indices: Tensor) -> Tensor:
    """float [n,C,H,W] on the CPU."""
    return torch.cat([pixels.cpu() for _, pixels, _ in images.batches(indices, len(indices))])
