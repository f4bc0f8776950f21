"""Pictures of pages: heat maps of tables, and the paper's figures from what they are made of."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...defective.attacks import parse_attack
from ...defective.errors import UserError
from ...defective.robustness import AdversarialSet, load_set
from ...train import plots
from ...train.datasets import default_root
from ...train.robustness.pictures import shuffled_samples
from .data import fitting_grids
from .estimates import Estimate
from .published import DEFENCE_RATE, TEST_ACCURACY, printed
from .transfer_tables import SCALES

if TYPE_CHECKING:  # matplotlib is half a second, which only who draws is to wait for
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .artefacts import AdversarialImages, Context, Training
    from .data import Data
    from .experiment import Made
    from .page import Grid

METRICS = "metrics.jsonl"
WORDS = "tiny-imagenet-200/words.txt"
"""Comes with Tiny-ImageNet: a number of WordNet and its synonyms a line."""
_NAMES = {
    "cifar10": "CIFAR-10",
    "mnist": "MNIST",
    "tiny-imagenet": "Tiny-ImageNet",
    "imagenet": "ImageNet",
}


class Picture(NamedTuple):
    """What :meth:`scotoma.train.pages.Page.picture` takes."""

    name: str
    figure: Figure
    alt: str
    wide: bool = False


def of_page(made: Made, grid: Grid, heading: str) -> list[Picture]:
    """The heat maps of a table, or what a figure shows.

    Args:
        heading: the page's title.

    Raises:
        UserError: a damaged file that a picture is made of.
    """
    name = made.definition.name
    return _FIGURES[name](made) if name in _FIGURES else draw_heat_maps(grid, name, heading)


def data_name(data: Data) -> str:
    """The paper's name of a data set, and what stands in its place if something does."""
    name = _NAMES.get(data.role, data.role)
    return name if data.label == data.role else f"{data.label} (in the place of {name})"


def class_names(data: Data, context: Context) -> tuple[str, ...]:
    """The classes of a data set in their order, with words for numbers of WordNet where known.

    Raises:
        UserError: the data set cannot be read.
    """
    loaded = context.images(data).data
    classes = loaded.classes
    if not all(re.fullmatch(r"n\d{8}", name) for name in classes):
        return classes
    if loaded.name == "imagenet":
        from torchvision.models import ResNet18_Weights

        known = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
        return tuple(known) if len(known) == len(classes) else classes
    if loaded.name == "tiny-imagenet":
        root = Path(data.root) if data.root else default_root()
        try:
            text = (root / "tiny-imagenet" / WORDS).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return classes
        split = (line.partition("\t") for line in text.splitlines())
        first = {number: words.split(",")[0].strip() for number, _, words in split if words.strip()}
        return tuple(first.get(name, name) for name in classes)
    return classes


# Tables.


def draw_heat_maps(grid: Grid, name: str, heading: str) -> list[Picture]:
    """A table of rates in at least two columns and rows: ours, the paper's, and the difference,
    side by side."""
    rows, columns = grid.rows, grid.columns
    if not grid.of("measured") or grid.has_scores or min(len(rows), len(columns)) < 2:
        return []
    kinds = {"ours, in percent": "value", "the paper's, in percent": "paper"}
    kinds["difference, in points"] = "difference"
    panels = {
        title: {p: cell[kind] for p, cell in grid.cells.items() if cell[kind] is not None}
        for title, kind in kinds.items()
    }
    panels = {title: values for title, values in panels.items() if values}
    across, down, gap = 0.56 * len(columns), 0.23 * len(rows), 0.25  # inches
    names, heads = plots.short(rows, 26), plots.short(columns, 26)
    corner = f"{grid.axes[1]} →\n{grid.axes[0]} ↓"
    left = 0.2 + 0.068 * max(map(len, [*names.values(), *corner.split("\n")]))
    above = 0.72 + 0.062 * max(map(len, heads.values()))
    pitch = max(across + gap, 1.8)  # the least that a panel's title needs
    width = max(5.0, 0.3 + 0.084 * len(heading), left + len(panels) * pitch + 0.05)
    height = above + down + gap
    # Places are computed, not laid out: cells keep their size at any number.
    figure = plots.new((width, height), layout=None)
    figure.text(0.15 / width, 1 - 0.12 / height, plots.plain(heading), fontsize=11, va="top")
    look = {"fontsize": 8, "color": "#555555", "ha": "right", "va": "bottom"}
    figure.text((left - 0.06) / width, (down + 0.2) / height, corner, **look)
    missing = {p: cell["state"] or "" for p, cell in grid.cells.items() if cell["value"] is None}
    for number, (title, values) in enumerate(panels.items()):
        x = left + number * pitch
        axes = figure.add_axes((x / width, 0.15 / height, across / width, down / height))
        words = {} if number else missing
        plots.heat_map(axes, rows, columns, values, words=words, signed=number == 2, size=7.5)
        axes.set_xticks(range(len(columns)), [heads[c] for c in columns], fontsize=8, rotation=90)
        axes.set_yticks(range(len(rows)), [] if number else [names[r] for r in rows], fontsize=8)
        figure.text(x / width, 1 - 0.42 / height, plots.plain(title), fontsize=9.5, va="top")
    alt = (
        f"{heading.partition(':')[0]} as heat maps: {', '.join(panels)}; the numbers are those of "
        "the table above"
    )
    return [Picture(f"{name}-heatmap", figure, alt, wide=True)]


def _percent(estimate: Estimate) -> plots.Range:
    low, high = (None if end is None else 100 * end for end in (estimate.low, estimate.high))
    return low, 100 * estimate.value, high


# Figure 4, and that by perturbation scale.


_APART = 0.035
"""Between the lines of two rows, in doublings of the axis."""


def _draw_lines(
    made: Made, title: str, places: Mapping[str, float], looks: Mapping[str, tuple[int, str]]
) -> Figure | None:
    """A line for each row and its intervals, in percent; None without a number.

    Args:
        places: {column: where it is on the axis}. looks: {row: number of its colour, dashes}.
    """
    from matplotlib.ticker import NullLocator

    values = made.values
    there = [row for row in made.experiment.rows if any((row, c) in values for c in places)]
    if not there:
        return None
    figure = plots.new((6.6, 4.4), title)
    axes = figure.subplots()
    for place, row in enumerate(there):
        number, dashes = looks[row]
        beside = 2 ** (
            _APART * (place - (len(there) - 1) / 2)
        )  # that bars are not one on the other
        chosen = [(x * beside, (row, c)) for c, x in places.items() if (row, c) in values]
        points = [(x, _percent(values[each])) for x, each in chosen]
        plots.interval_line(axes, number, points, plots.plain(row), dashes)
    ticks = sorted(places.values())
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    return figure


def draw_noise(made: Made) -> list[Picture]:
    """Accuracy under Gaussian noise. Columns are twice the standard deviation in levels of 255, as
    text."""
    rows = made.experiment.rows
    places = {column: float(column) for column in made.experiment.columns}
    looks = {row: (number, "-") for number, row in enumerate(rows)}
    figure = _draw_lines(made, "Accuracy under Gaussian noise", places, looks)
    if figure is None:
        return []
    (axes,) = figure.axes
    axes.set_xlabel("2 sigma (levels of 255, logarithmic)")
    axes.set_ylabel("accuracy (%)")
    axes.legend(loc="lower left", fontsize=8, title="95 % intervals", title_fontsize=8)
    alt = (
        f"accuracy under Gaussian noise of {', '.join(rows)} against twice the standard deviation; "
        "the numbers are those of the table above"
    )
    return [Picture(made.definition.name, figure, alt)]


def draw_perturbation(made: Made) -> list[Picture]:
    """Defence rate by perturbation scale: a colour a keep probability, dashes for the top."""
    rows = made.experiment.rows
    places = {column: float(column.removeprefix("PGD")) for column in SCALES}
    keeps = ("ResNet", "0.5", "0.3", "0.1")
    looks = {r: (keeps.index(r.split("-")[0]), "--" if r.endswith("Top") else "-") for r in rows}
    figure = _draw_lines(made, "ResNet-18 attacked from DenseNet-121 by PGD", places, looks)
    if figure is None:
        return []
    (axes,) = figure.axes
    axes.set_xlabel("perturbation scale (1/255, logarithmic)")
    axes.set_ylabel("success defence rate (P1, %)")
    marks = {line.get_label(): line for line in axes.lines}
    plots.legend(figure, marks, "95 % intervals")
    alt = (
        f"success defence rate of {', '.join(rows)} against the perturbation scale of PGD; the "
        "numbers are those of the table above"
    )
    return [Picture(made.definition.name, figure, alt)]


# Figure 5.


def draw_tradeoff(made: Made) -> list[Picture]:
    """A point for each row that has both numbers, and the paper's points; none without a row.

    The axes span both, unlike the paper's, which begin at a defence rate of 90 %.
    """
    paper = {p: Estimate(v, None, None, 0, (v,)) for p, v in printed("figure5").items()}
    ours, theirs = (
        {
            row: (_percent(values[row, DEFENCE_RATE]), _percent(values[row, TEST_ACCURACY]))
            for row in dict.fromkeys(row for row, _ in values)
            if (row, DEFENCE_RATE) in values and (row, TEST_ACCURACY) in values
        }
        for values in (made.values, paper)
    )
    if not ours:
        return []
    figure = plots.new((6.4, 4.6), "Success defence rate and clean accuracy by keep probability")
    axes = figure.subplots()
    for defence, accuracy in ours.values():
        plots.interval_point(axes, defence, accuracy, colour=plots.RIGHT)
    x, y = ([pair[i][1] for pair in theirs.values()] for i in (0, 1))
    look = {"color": plots.WRONG, "markersize": 8, "linestyle": "none", "clip_on": False}
    axes.plot(x, y, "*", label="the paper", **look)
    axes.plot([], [], "o", color=plots.RIGHT, label="ours, with 95 % intervals")
    axes.set_xlabel("success defence rate (P1, %)")
    axes.set_ylabel("clean accuracy (%)")
    both = [*ours.values(), *theirs.values()]
    ends = [[v for pair in both for v in pair[i] if v is not None] for i in range(2)]
    axes.set_xlim(plots.percent_limits(ends[0], 0.12))
    axes.set_ylim(plots.percent_limits(ends[1], 0.12))
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(loc="lower left", fontsize=8)
    # The paper's on the left of its stars, and pushed down where two would meet; ours on the right,
    # above the intervals, and pushed up.
    across, down = (size / (high - low) for size, (low, high) in _points(axes))
    for pairs, sign, side, mark in ((theirs, -1, "right", " (paper)"), (ours, 1, "left", "")):
        before, last = -math.inf, -math.inf
        for row, (x, y) in sorted(pairs.items(), key=lambda each: sign * each[1][1][1]):
            label = plots.plain(row.removesuffix("-Bottom")) + mark
            place, height = across * x[1], sign * down * y[1]
            wide = 6 + 4.2 * len(label)
            top = max(height, last + 9) if abs(place - before) < wide else height
            before, last = place, top
            offset = (7 * sign, sign * (top - height) + (4 if sign > 0 else -3))
            how = {"textcoords": "offset points", "fontsize": 7.5, "ha": side}
            axes.annotate(label, (x[1], y[1]), xytext=offset, **how)
    alt = (
        f"clean accuracy against the success defence rate of {', '.join(ours)}, each beside the "
        "paper's"
    )
    return [Picture(made.definition.name, figure, alt)]


def _points(axes: Axes) -> list[tuple[float, tuple[float, float]]]:
    """(length, limits) of both axes; lengths in points, about: what is around them is not laid out
    yet."""
    width, height = axes.figure.get_size_inches()
    return [(72 * 0.86 * width, axes.get_xlim()), (72 * 0.8 * height, axes.get_ylim())]


# Figure 1.


def draw_shuffled(made: Made) -> list[Picture]:
    """A column an image: as it is, and in 2x2, 4x4 and 8x8 patches, as Table 1 shuffles them.

    No picture where the choice of images is not there.

    Raises:
        UserError: a damaged choice of images, or data that cannot be read.
    """
    sample, context = made.experiment.attached["images"], made.context
    if not sample.is_done(context.store):
        return []
    indices, _ = sample.read(context.store)
    images, names = context.images(sample.data), class_names(sample.data, context)
    found = shuffled_samples(images, indices, fitting_grids(sample.data), seed=0)
    labels = [names[label] for label in images.labels[indices].tolist()]
    figure = plots.draw_shuffled(found["shuffled"], labels)
    alt = f"{len(labels)} images of {data_name(sample.data)}, and their patches in random order"
    return [] if figure is None else [Picture(made.definition.name, figure, alt)]


# Figures 3, 6 and 7.

EXAMPLES = 8
"""Images of a strip."""


def draw_examples(made: Made) -> list[Picture]:
    """Adversarial images above and below their originals, a picture for each data set; networks
    whose set is not there are left out.

    Raises:
        UserError: a damaged set, or data that cannot be read.
    """
    found = []
    legend = (
        ("below an original its class;", plots.NEUTRAL),
        ("below an adversarial image what the attacked network takes it for", plots.WRONG),
    )
    for role, strips in example_strips(made).items():
        label = data_name(made.setup.data[role])
        alt = f"images of {label}, and adversarial images of them with what their sources see"
        figure = plots.draw_strips(f"Adversarial images, {label}", strips, legend, left=1.15)
        found.append(Picture(f"{made.definition.name}-{role}", figure, alt, wide=True))
    return found


def example_strips(made: Made) -> dict[str, list[plots.Strip]]:
    """{role: what its picture shows}. Raises UserError as :func:`draw_examples`."""
    there = [each for each in made.experiment.attached.values() if each.is_done(made.context.store)]
    found: dict[str, list[plots.Strip]] = {}
    for role, attack in dict.fromkeys((each.sample.data.role, each.attack) for each in there):
        several = [e for e in there if (e.sample.data.role, e.attack) == (role, attack)]
        found.setdefault(role, []).extend(_strips(made, attack, several))
    return found


def _strips(made: Made, text: str, several: Sequence[AdversarialImages]) -> list[plots.Strip]:
    """Of one attack, the first with a heading."""
    attack = parse_attack(text)
    scale, step = (f"{round(255 * size, 2):g}" for size in (attack.eps, attack.step))
    heading = f"MI-FGSM, epsilon {scale}/255, {attack.steps} steps of {step}/255"
    sets = [load_set(each.path(made.context.store)) for each in several]
    chosen = fooling_all(sets)[:EXAMPLES]
    if not len(chosen):
        nothing = f"{heading}: no image fools all networks"
        return [plots.Strip("", torch.empty(0, 3, 1, 1), above=nothing)]
    data = several[0].sample.data
    names, images = class_names(data, made.context), made.context.images(data)
    ((_, pixels, classes),) = images.batches(chosen, len(chosen))
    shown = []
    for each, found in zip(several, sets, strict=True):
        places = {number: place for place, number in enumerate(found.indices.tolist())}
        part = found.subset(torch.tensor([places[number] for number in chosen.tolist()]))
        shown.append((each.source.name, part.pixels(), part.predictions, plots.WRONG))
    # Between the defective networks and the standard one, where the paper has it.
    standard = [each.source.members[0].config.defects == "standard" for each in several]
    original = "original", pixels.cpu(), classes, plots.NEUTRAL
    shown.insert(standard.index(True) if True in standard else len(shown), original)
    strips = []
    for name, pixels, classes, ink in shown:
        lines = [("", [names[number] for number in classes.tolist()], [ink] * len(classes))]
        strips.append(plots.Strip(name, pixels, lines, "" if strips else heading))
    return strips


def fooling_all(sets: Sequence[AdversarialSet]) -> Tensor:
    """int64 [n]: numbers of the images that fool the source of each set, in the first's order."""
    found = sets[0].indices[sets[0].fooled]
    for other in sets[1:]:
        found = found[torch.isin(found, other.indices[other.fooled])]
    return found


# Figure 14.

History = list[dict[str, float]]
_LINES = {"train/acc1": ("train", "--"), "test/acc1": ("test", "-")}


def draw_training_curves(made: Made) -> list[Picture]:
    """Accuracy against the epoch: a panel for each data set, a colour for each network, a curve for
    each seed.

    Trainings that are not there are left out.

    Raises:
        UserError: damaged metrics of a training.
    """
    from matplotlib.lines import Line2D

    store = made.context.store
    panels: dict[str, list[tuple[Training, History]]] = {}
    for each in made.experiment.attached.values():
        if each.is_done(store):
            history = read_history(each.path(store) / METRICS)
            panels.setdefault(each.data.role, []).append((each, history))
    if not panels:
        return []
    there = [training for several in panels.values() for training, _ in several]
    names = list(dict.fromkeys(training.config.defects for training in there))
    figure = plots.new((4.6 * len(panels) + 0.4, 3.9), "ResNet-18: accuracy after each epoch")
    charts = plots.panels(figure, len(panels))
    for axes, several in zip(charts, panels.values(), strict=True):
        axes.set_title(plots.plain(data_name(several[0][0].data)), fontsize=9)
        for training, history in several:
            _curve(axes, history, plots.colour(names.index(training.config.defects)))
        values = (100 * record[key] for _, found in several for record in found for key in _LINES)
        axes.set_ylim(plots.percent_limits(values))
        axes.set_xlabel("epoch")
        axes.set_ylabel("accuracy (%)")
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
    handles = {
        plots.plain(f"{name}, {words}"): Line2D([], [], color=plots.colour(number), linestyle=line)
        for number, name in enumerate(names)
        for words, line in _LINES.values()
    }
    look = {"loc": "outside lower center", "ncols": 4, "fontsize": 8, "frameon": False}
    figure.legend(handles.values(), handles, **look)
    alt = f"training and test accuracy of {' and '.join(names)} against the epoch"
    return [Picture(made.definition.name, figure, alt)]


def _curve(axes: Axes, history: History, colour: str) -> None:
    marker = "o" if len(history) < 20 else None  # a curve of one epoch would not be seen
    epochs = [record["epoch"] for record in history]
    look = {"color": colour, "marker": marker, "markersize": 3, "linewidth": 1.2}
    for key, (_, line) in _LINES.items():
        values = [100 * record[key] for record in history]
        axes.plot(epochs, values, line, clip_on=False, **look)


def read_history(path: Path) -> History:
    """Epochs of a training, each with "epoch", "train/acc1" and "test/acc1" (fractions).

    Raises:
        UserError: no such file, or a damaged one.
    """
    keys = ("epoch", *_LINES)
    try:
        records = [json.loads(line) for line in path.read_text().splitlines()]
        history = [{key: float(record[key]) for key in keys} for record in records]
        if not history or not all(math.isfinite(v) for each in history for v in each.values()):
            raise ValueError("no numbers in it")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{path}: no metrics of a training ({error}); remove its folder to train it again"
        ) from None
    return history


_FIGURES: dict[str, Callable[[Made], list[Picture]]] = {
    "figure1": draw_shuffled,
    "figure3": draw_examples,
    "figure4": draw_noise,
    "figure5": draw_tradeoff,
    "figure6": draw_examples,
    "figure7": draw_examples,
    "figure14": draw_training_curves,
    "perturbation": draw_perturbation,
}
