"""Adversarial images above and below their originals: Figures 3, 6 and 7."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ....defective.attacks import parse_attack
from ....defective.robustness import AdversarialSet, load_set
from ....train import plots
from ....train.robustness.tables import levels
from ...report.document import Picture
from ..graph.attacking import AdversarialImages
from . import data_name
from .class_names import class_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..experiment import Made

COLUMNS = 8
# Inches.
_SIDE, _GAP, _LINE, _LEFT, _EDGE, _TITLE, _HEADING = 1.05, 0.1, 0.2, 1.15, 0.12, 0.62, 0.3


@dataclass(frozen=True)
class Strip:
    """A row of images with a label below each.

    Attributes:
        images: float [n,C,H,W], pixels in [0,1]. ink: of the labels.
    """

    heading: str
    images: Tensor
    labels: Sequence[str]
    ink: str


@dataclass(frozen=True)
class Block:
    """The rows of one attack; without rows where no image fools all networks."""

    heading: str
    strips: tuple[Strip, ...]

    @property
    def height(self) -> float:
        """Inches."""
        return _HEADING + len(self.strips) * (_SIDE + _LINE + _GAP) + (0 if self.strips else _LINE)


def draw_examples(made: Made) -> list[Picture]:
    """A picture for each data set; networks whose set is not there are left out.

    Raises:
        UserError: a damaged set, or data that cannot be read.
    """
    pictures = []
    for role, blocks in blocks_of(made).items():
        label = data_name(made.setup.data[role])
        alt = f"images of {label}, and adversarial images of them with what their sources see"
        figure = figure_of(f"Adversarial images, {label}", blocks)
        pictures.append(Picture(f"{made.definition.name}-{role}.png", alt, figure, wide=True))
    return pictures


def blocks_of(made: Made) -> dict[str, list[Block]]:
    """{role: what its picture shows}. Raises UserError as :func:`draw_examples`."""
    by_role: dict[str, dict[str, list[AdversarialImages]]] = {}
    for each in made.experiment.attached.values():
        if each.is_done(made.context.store):
            by_attack = by_role.setdefault(each.sample.data.role, {})
            by_attack.setdefault(each.attack, []).append(each)
    return {
        role: [_block(made, attack, several) for attack, several in by_attack.items()]
        for role, by_attack in by_role.items()
    }


def _block(made: Made, attack: str, several: list[AdversarialImages]) -> Block:
    sets = [load_set(each.path(made.context.store)) for each in several]
    chosen = fooling_all(sets)[:COLUMNS]
    heading = _told(attack)
    if not len(chosen):
        return Block(f"{heading}: no image fools all networks", ())
    data = several[0].sample.data
    names, images = class_names(data, made.context), made.context.images(data)
    ((_, pixels, classes),) = images.batches(chosen, len(chosen))
    strips = []
    for each, found in zip(several, sets, strict=True):
        part = found.subset(places_of(found, chosen))
        labels = [names[c] for c in part.predictions.tolist()]
        strips.append(Strip(each.source.name, part.pixels(), labels, plots.WRONG))
    truth = Strip("original", pixels.cpu(), [names[c] for c in classes.tolist()], "#000000")
    # Between the defective networks and the standard one, where the paper has it.
    standard = [each.source.members[0].config.defects == "standard" for each in several]
    strips.insert(standard.index(True) if True in standard else len(strips), truth)
    return Block(heading, tuple(strips))


def fooling_all(sets: Sequence[AdversarialSet]) -> Tensor:
    """int64 [n]: numbers of the images that fool the source of each set, in the first's order."""
    found = sets[0].indices[sets[0].fooled]
    for other in sets[1:]:
        found = found[torch.isin(found, other.indices[other.fooled])]
    return found


def places_of(found: AdversarialSet, indices: Tensor) -> Tensor:
    """int64 [n]: where images of these numbers, all of which it has, are in a set."""
    places = {number: place for place, number in enumerate(found.indices.tolist())}
    return torch.tensor([places[number] for number in indices.tolist()], dtype=torch.int64)


def _told(text: str) -> str:
    """An attack for people, in levels of 255."""
    attack = parse_attack(text)
    scale, step = levels(attack.eps), levels(attack.step)
    return f"MI-FGSM, epsilon {scale}/255, {attack.steps} steps of {step}/255"


def figure_of(title: str, blocks: Sequence[Block]) -> Figure:
    """The blocks below each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    width = _LEFT + COLUMNS * (_SIDE + _GAP) + _EDGE
    height = _TITLE + sum(block.height for block in blocks) + _EDGE
    # Places are computed, not laid out: text and images keep their sizes at any number.
    figure = plots.new((width, height), layout=None)

    renderer = FigureCanvasAgg(figure).get_renderer()

    def write(x: float, y: float, text: str, room: float = math.inf, **look) -> None:
        """Text, in a smaller face where it is wider than ``room``."""
        written = figure.text(x / width, y / height, plots.plain(text), **look)
        while written.get_window_extent(renderer).width > room * figure.dpi:
            written.set_fontsize(written.get_fontsize() - 0.25)

    write(_EDGE, height - 0.12, title, fontsize=11, va="top")
    write(_EDGE, height - 0.38, "below an original its class;", fontsize=8, va="top")
    x = _EDGE + 1.6
    words = "below an adversarial image what the attacked network takes it for"
    write(x, height - 0.38, words, fontsize=8, va="top", color=plots.WRONG)
    top = height - _TITLE
    for block in blocks:
        write(_EDGE, top - 0.05, block.heading, fontsize=9, va="top", weight="bold")
        y = top - _HEADING
        for strip in block.strips:
            middle = y - _SIDE / 2
            write(_LEFT - 0.12, middle, strip.heading, ha="right", va="center", fontsize=8.5)
            for column, (image, label) in enumerate(zip(strip.images, strip.labels, strict=True)):
                x = _LEFT + column * (_SIDE + _GAP)
                box = x / width, (y - _SIDE) / height, _SIDE / width, _SIDE / height
                plots.show_image(figure.add_axes(box), image)
                text = plots.short([label], 18)[label]
                look = {"ha": "center", "va": "center", "fontsize": 8, "color": strip.ink}
                write(x + _SIDE / 2, y - _SIDE - _LINE / 2, text, _SIDE, **look)
            y -= _SIDE + _LINE + _GAP
        top -= block.height
    return figure
