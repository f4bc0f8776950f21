"""Originals, adversarial images and what networks take them for: the paper's Figures 3, 6, 7."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ... import style

_COLUMNS = 8
# Inches.
_SIDE, _GAP, _LINE, _LEFT, _EDGE, _TITLE = 1.15, 0.08, 0.17, 2.7, 0.12, 0.62


@dataclass
class _Strip:
    """A row of images, and under each what every network takes it for."""

    heading: str
    images: Tensor
    lines: list[tuple[str, list[str], list[bool] | None]]

    @property
    def height(self) -> float:
        return _SIDE + _LINE * len(self.lines) + 2 * _GAP


def draw(samples: dict) -> Figure | None:
    """Rows of originals, adversarial images and differences; None without "rows".

    Predicted labels are signed with a tick or a cross, and coloured, as right or wrong.

    Args:
        samples: "clean" [n,C,H,W] (may be absent), "labels" n names, "rows" of {"title", "images"
            [n,C,H,W], "predicted" n names, "right" n bool}. Rows of the same images one after the
            other share them. "set" (may be absent): which of how many sets is shown.
    """
    rows = samples.get("rows") or []
    if not rows:
        return None
    count = min(_COLUMNS, *(len(row["images"]) for row in rows))
    if count == 0:
        return None
    strips = _strips(samples, rows, count)
    width = _LEFT + count * (_SIDE + _GAP) + _EDGE
    height = _TITLE + sum(strip.height for strip in strips) + _EDGE
    # Places are computed, not laid out: text and images keep their sizes at any number.
    figure = style.new((width, height), layout=None)
    number, total = samples.get("set", (1, 1))
    title = "Adversarial images" + (f", set {number} of {total}" if total > 1 else "")
    figure.text(_EDGE / width, 1 - 0.16 / height, title, fontsize=11, va="top")
    for words, ink, x in (("✓ right", style.RIGHT, 0.0), ("✗ wrong", style.WRONG, 0.75)):
        figure.text((_EDGE + x) / width, 1 - 0.4 / height, words, color=ink, fontsize=8, va="top")
    top = height - _TITLE
    for strip in strips:
        _draw_strip(figure, strip, top, count)
        top -= strip.height
    return figure


def _strips(samples: dict, rows: list[dict], count: int) -> list[_Strip]:
    clean, labels = samples.get("clean"), samples.get("labels")
    strips = []
    if clean is not None:
        clean = clean[:count].detach().float().cpu()
        lines = [("true class", list(labels[:count]), None)] if labels else []
        strips.append(_Strip("original", clean, lines))
    groups: list[tuple[Tensor, list[dict]]] = []
    for row in rows:
        images = row["images"][:count].detach().float().cpu()
        if groups and torch.equal(groups[-1][0], images):
            groups[-1][1].append(row)
        else:
            groups.append((images, [row]))
    for images, same in groups:
        heading, names = _common([row["title"] for row in same])
        lines = [
            (name, list(row["predicted"][:count]), list(row["right"][:count]))
            for name, row in zip(names, same, strict=True)
        ]
        if clean is not None and torch.equal(images, clean):
            strips[0].lines += lines
            continue
        strips.append(_Strip(heading, images, lines))
        if clean is not None:
            shown, factor = style.amplified(images - clean)
            strips.append(_Strip(f"difference x {factor}, grey is none", shown, []))
    return strips


def _common(titles: list[str]) -> tuple[str, list[str]]:
    """(the words with which all titles begin, the rest of each)."""
    words = [title.split() for title in titles]
    shared = 0
    while len(titles) > 1 and all(len(w) > shared + 1 for w in words):
        if len({w[shared] for w in words}) > 1:
            break
        shared += 1
    if shared == 0:
        return "adversarial", titles
    heading = " ".join(words[0][:shared]).rstrip(":,")
    return heading, [" ".join(w[shared:]) for w in words]


def _draw_strip(figure: Figure, strip: _Strip, top: float, count: int) -> None:
    width, height = figure.get_size_inches()

    def write(x: float, y: float, text: str, **look) -> None:
        figure.text(x / width, y / height, text, **look)

    heading = textwrap.wrap(style.short([strip.heading], 100)[strip.heading], 36)
    right = _LEFT - 0.12
    write(right, top - _SIDE / 2, "\n".join(heading), ha="right", va="center", fontsize=8.5)
    for column in range(count):
        x = _LEFT + column * (_SIDE + _GAP)
        box = x / width, (top - _SIDE) / height, _SIDE / width, _SIDE / height
        style.picture(figure.add_axes(box), strip.images[column])
    for number, (name, labels, marks) in enumerate(strip.lines):
        y = top - _SIDE - _LINE * (number + 0.6)
        write(right, y, style.short([name], 42)[name], ha="right", va="center", fontsize=7.5)
        for column, label in enumerate(labels):
            sign, ink = "", "#000000"
            if marks is not None:
                sign = "✓ " if marks[column] else "✗ "
                ink = style.RIGHT if marks[column] else style.WRONG
            middle = _LEFT + column * (_SIDE + _GAP) + _SIDE / 2
            text = sign + style.short([label], 16)[label]
            write(middle, y, text, ha="center", va="center", fontsize=7.5, color=ink)
