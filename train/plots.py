"""Figures: their style, how they are written, and the charts that several pages share."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from ..defective.serialization import atomic_path
from .config import PictureFormat, TrainConfig

if TYPE_CHECKING:  # half a second, which only who draws is to wait for
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

DPI = 120
SMALL = 64
"""Images of fewer pixels a side are shown pixel by pixel, larger ones smoothly."""
RIGHT, WRONG, NEUTRAL = "#0072b2", "#d55e00", "#000000"
# Okabe and Ito (2008), without the yellow that white paper swallows.
_COLOURS = ("#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_MARKERS = "osD^vPX<>*ph"
_LINES = ("-", "--", ":")

Range = tuple[float | None, float, float | None]
"""A number between the ends of its interval; None for an end that is not known."""


# Colours and words


def colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def marker(number: int) -> str:
    return _MARKERS[number % len(_MARKERS)]


def line(number: int) -> str:
    """A dash pattern, another one each time the colours begin again."""
    return _LINES[number // len(_COLOURS) % len(_LINES)]


def plain(text: str) -> str:
    """Words as matplotlib shows them: on one line, and no formulas."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    # A leading underscore would leave the words out of a legend.
    return (" " + text if text.startswith("_") else text).replace("$", r"\$")


def cut(text: str, longest: int) -> str:
    """:func:`plain` words with so much of the middle left out that they are no longer."""
    return plain(_without_middle(text, longest))


def short(names: Sequence[str], longest: int) -> dict[str, str]:
    """Names cut to a length; those that a cut in the middle makes equal show where they differ, or
    get a number."""
    found = {name: _without_middle(name, longest) for name in names}
    for text in set(found.values()):
        alike = [name for name in found if found[name] == text]
        if len(alike) > 1:
            first = shared(alike)
            last = shared([name[::-1] for name in alike])
            for name in alike:
                found[name] = _window(name, first, len(name) - last, longest)
    seen: Counter[str] = Counter()
    for name, text in found.items():
        seen[text] += 1
        if seen[text] > 1:
            found[name] = f"{text[: longest - 4]}… {seen[text]}"
    return {name: plain(text) for name, text in found.items()}


def shared(texts: Sequence[Sequence[str]]) -> int:
    """With how many equal characters, or words, all begin."""
    columns = zip(*texts, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def _without_middle(name: str, longest: int) -> str:
    if len(name) <= longest:
        return name
    end = longest // 2
    return f"{name[: longest - end - 1]}…{name[-end:]}"


def _window(name: str, first: int, last: int, longest: int) -> str:
    """So much of a name, with its part from ``first`` to ``last`` about the middle."""
    room = longest - 2
    start = max(0, min((first + last - room) // 2, first, len(name) - room))
    part = name[start : start + room]
    return ("…" if start else "") + part + ("…" if start + room < len(name) else "")


# Figures and files


def new(
    size: tuple[float, float], title: str = "", *, layout: str | None = "constrained"
) -> Figure:
    """An empty figure of so many inches, in matplotlib's own style whatever the user's is."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context("default"):
        figure = Figure(figsize=size, dpi=DPI, layout=layout)
        if layout == "constrained":
            figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)
        if title:
            figure.suptitle(plain(title), fontsize=11)
    return figure


def panels(figure: Figure, count: int, columns: int = 3) -> list[Axes]:
    """Equal axes in rows; those beyond ``count`` are not shown."""
    columns = min(columns, count)
    grid = figure.subplots(math.ceil(count / columns), columns, squeeze=False)
    axes = [cell for row in grid for cell in row]
    for cell in axes[count:]:
        cell.axis("off")
    return axes[:count]


def percent_limits(values: Iterable[float], margin: float = 0.05) -> tuple[float, float]:
    """Ends of an axis with room about values in percent, none of it below 0 or over 100, where
    markers stand half outside: draw them with ``clip_on=False``."""
    values = list(values) or [0.0, 100.0]
    low, high = min(values), max(values)
    room = max(margin * (high - low), 0.5)
    return max(0.0, low - room), min(100.0, high + room)


def save(figure: Figure, path: Path) -> Path:
    """Write a file in the format that its name ends in, whole or not at all. Raises OSError."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded(figure, path.suffix[1:].lower()))
    return path


def save_as(figure: Figure, stem: Path, format: PictureFormat) -> Path:
    """:func:`save` as ``stem``.FORMAT, and remove what an earlier call left in another format."""
    path = save(figure, stem.with_name(f"{stem.name}.{format}"))
    for other in set(get_args(PictureFormat)) - {format}:
        stem.with_name(f"{stem.name}.{other}").unlink(missing_ok=True)
    return path


def encoded(figure: Figure, format: PictureFormat = "png") -> bytes:
    """A picture as a file; the same figure always gives the same bytes."""
    from matplotlib import style

    file = io.BytesIO()
    # Without names, versions and dates files depend on nothing but what is drawn.
    metadata = {
        "png": {"Software": None},
        "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
        "svg": {"Creator": None, "Date": None},
    }[format]
    # TrueType: many journals refuse Type 3 fonts, matplotlib's default in a PDF.
    looks = {"pdf.fonttype": 42, "svg.hashsalt": "scotoma"}
    with style.context(["default", looks]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(file, dpi="figure", format=format, metadata=metadata)
    return file.getvalue()


# Charts


def draw_curves(
    history: Sequence[Mapping[str, Any]], config: TrainConfig, steps_per_epoch: int, data: str
) -> Figure:
    """Accuracy, loss, and the learning rate of the steps, against epochs: the paper's Figure 14.

    ``history`` has the keys of metrics.jsonl, ``data`` is the data set's name.
    """
    from .config import learning_rate

    width = "" if config.width is None else f", width {config.width}"
    figure = new((11, 3.7), f"{config.arch} {config.defects}{width}, on {data}")
    charts = figure.subplots(1, 3, width_ratios=(4, 4, 3))
    epochs = [record["epoch"] for record in history]
    marks = {"marker": "o" if len(epochs) < 20 else None, "markersize": 3, "clip_on": False}
    splits = {"train": ("#4c72b0", "--"), "val": ("#55a868", "-"), "test": ("#c44e52", "-")}
    kinds = (("acc1", "accuracy (%)", 100), ("loss", "loss", 1))
    for axes, (key, label, scale) in zip(charts[:2], kinds, strict=True):
        for split, (tint, dashes) in splits.items():
            for name, look, words in (
                (f"{split}/{key}", dashes, split),
                (f"{split}/robust_{key}", ":", f"{split}, attacked"),
            ):
                if name in history[0]:
                    values = [scale * record[name] for record in history]
                    axes.plot(epochs, values, look, color=tint, label=words, **marks)
        if scale == 100:
            axes.set_ylim(percent_limits(y for drawn in axes.lines for y in drawn.get_ydata()))
        axes.set_ylabel(label)
        axes.legend()
    # In the middle of each step; 2000 points are more than a picture has pixels.
    total = len(history) * steps_per_epoch
    steps = range(0, total, math.ceil(total / 2000))
    rates = [learning_rate(config, step, steps_per_epoch) for step in steps]
    charts[2].plot([(step + 0.5) / steps_per_epoch for step in steps], rates, color="#777777")
    charts[2].set_ylabel("learning rate")
    for axes in charts:
        # An epoch's values are those at its end; the first begins at 0.
        axes.set_xlim(0, 1.03 * len(history))
        axes.set_xlabel("epoch")
        axes.locator_params(axis="x", integer=True)
        axes.grid(alpha=0.3)
    return figure


def heat_map(
    axes: Axes,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Mapping[tuple[str, str], float | None],
    *,
    words: Mapping[tuple[str, str], str] | None = None,
    marks: Mapping[tuple[str, str], str] | None = None,
    signed: bool = False,
    size: float = 9,
) -> None:
    """A table in colours, each cell with its number in percent, rows from the top.

    Args:
        values: fractions by (row, column); missing ones may be None. words: what stands in their
            places. marks: a word below a number, which gets a frame. signed: whether values are
            differences, whose colours go from red to blue. size: of numbers, in points.
    """
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    middle = {"ha": "center", "va": "center"}
    for (y, row), (x, column) in product(enumerate(rows), enumerate(columns)):
        value, box = values.get((row, column)), ((x - 0.5, y - 0.5), 1, 1)
        mark = (marks or {}).get((row, column), "")
        if value is None:
            word = (words or {}).get((row, column), "")
            fill, ink = "#eeeeee" if word else "#ffffff", "#555555"
            axes.add_patch(Rectangle(*box, facecolor=fill, edgecolor="#dddddd", linewidth=0.5))
            lines = textwrap.wrap(word, 10)
            text, points = "\n".join(map(plain, lines)), size * (0.74 if lines[1:] else 0.87)
        else:
            tints = colormaps["RdBu" if signed else "cividis"]
            fill = tints(min(1.0, max(0.0, 0.5 + value if signed else value)))
            axes.add_patch(Rectangle(*box, facecolor=fill, edgecolor="#ffffff", linewidth=0.5))
            # Black where its contrast is better than white's (relative luminance of WCAG 2).
            linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in fill]
            bright = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
            ink = "#000000" if bright > 0.179 else "#ffffff"
            text, points = f"{round(100 * value, 2) + 0:{'+' if signed else ''}.2f}", size
        if text:
            look = {"fontsize": points, "linespacing": 1.0, "color": ink}
            axes.text(x, y - 0.12 if mark else y, text, **middle, **look)
        if mark:
            axes.text(x, y + 0.26, mark, fontsize=0.78 * size, color=ink, **middle)
            inner = (x - 0.47, y - 0.46), 0.94, 0.92
            axes.add_patch(Rectangle(*inner, fill=False, edgecolor=ink, linestyle="--"))
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def interval_line(
    axes: Axes, number: int, points: Sequence[tuple[float, Range]], label: str, dashes: str = ""
) -> Line2D:
    """A line through (x, y) in its number's colour and marks, on a band of the intervals.

    With ``dashes``, in the place of its number's, intervals are bars: many bands hide each other.
    """
    x = [place for place, _ in points]
    low = [middle if low is None else low for _, (low, middle, _) in points]
    high = [middle if high is None else high for _, (_, middle, high) in points]
    if dashes:
        axes.vlines(x, low, high, alpha=0.6, linewidth=1, color=colour(number))
    else:
        axes.fill_between(x, low, high, alpha=0.15, linewidth=0, color=colour(number))
    look = {"color": colour(number), "marker": marker(number), "markersize": 4, "linewidth": 1.4}
    y = [middle for _, (_, middle, _) in points]
    return axes.plot(x, y, dashes or line(number), clip_on=False, label=label, **look)[0]


def interval_point(
    axes: Axes, x: Range, y: Range, *, colour: str, marker: str = "o", size: float = 6
) -> Line2D:
    """A mark with lines along both intervals. Returns the mark."""

    def lengths(of: Range) -> list[list[float]] | None:
        if of[0] is None or of[2] is None:
            return None
        # Rounding must not make an empty one negative.
        return [[max(0.0, of[1] - of[0])], [max(0.0, of[2] - of[1])]]

    look = {"color": colour, "marker": marker, "markersize": size, "linestyle": "none"}
    above = {"clip_on": False, "zorder": 3}  # of the frame
    ends = {"xerr": lengths(x), "yerr": lengths(y), "elinewidth": 0.8}
    mark, _, bars = axes.errorbar(x[1], y[1], **ends, **look, **above)
    for bar in bars:
        bar.set_clip_on(False)
    return mark


def legend(figure: Figure, marks: Mapping[str, Line2D], title: str) -> None:
    """Names of marks, right of all axes."""
    where = {"loc": "outside right center", "frameon": False}
    size = {"fontsize": 8, "title_fontsize": 8}
    figure.legend(list(marks.values()), list(marks), title=title, **where, **size)


# Images


def show_image(axes: Axes, image: Tensor) -> None:
    """An image [C,H,W] of pixels in [0,1], one channel in grey, or three; without ticks."""
    pixels = image.detach().float().cpu().clamp(0, 1)
    smoothing = "nearest" if max(pixels.shape[1:]) < SMALL else "antialiased"
    if len(pixels) == 3:
        axes.imshow(pixels.permute(1, 2, 0).numpy(), interpolation=smoothing)
    else:
        # Anything but colours: as one brightness.
        grey = pixels.mean(0).numpy()
        axes.imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation=smoothing)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set(linewidth=0.5, color="#777777")


def amplified(difference: Tensor) -> tuple[Tensor, int]:
    """(difference around middle grey, factor): the largest power of two that clips nothing.

    Args:
        difference: [..., C,H,W] of pixels in [-1,1].
    """
    largest = float(difference.abs().max()) if difference.numel() else 0.0
    if not largest > 0:
        return torch.full_like(difference, 0.5), 1
    factor = 2 ** max(0, min(10, math.floor(math.log2(0.5 / largest))))
    return (0.5 + factor * difference).clamp(0, 1), factor


@dataclass(frozen=True)
class Strip:
    """A row of images, float [n,C,H,W] of pixels in [0,1], with lines of words below each.

    Attributes:
        name: left of the images. above: a heading over the row.
        lines: of each its name, n words, and their n colours.
    """

    name: str
    images: Tensor
    lines: Sequence[tuple[str, Sequence[str], Sequence[str]]] = ()
    above: str = ""


def draw_strips(
    title: str, strips: Sequence[Strip], legend: Sequence[tuple[str, str]] = (), left: float = 2.7
) -> Figure:
    """Strips below each other: the paper's Figures 3, 6 and 7.

    Args:
        legend: words below the title, and their colours. left: inches for the names.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    side, gap, row, edge, top = 1.15, 0.08, 0.17, 0.12, 0.62  # inches
    heights = [
        (0.3 if strip.above else 0)
        + (side + 2 * gap if len(strip.images) else gap)
        + row * len(strip.lines)
        for strip in strips
    ]
    words = [title, "   ".join(text for text, _ in legend), *(strip.above for strip in strips)]
    across = max(len(strip.images) for strip in strips)
    width = max(left + across * (side + gap) + edge, 2 * edge + 0.09 * max(map(len, words)))
    height = top + sum(heights) + edge
    # Places are computed, not laid out: text and images keep their sizes at any number.
    figure = new((width, height), layout=None)
    renderer = FigureCanvasAgg(figure).get_renderer()

    def write(x: float, y: float, text: str, size: float, room: float = math.inf, **look) -> float:
        """Text, smaller where it is wider than ``room``; its width in inches."""
        written = figure.text(x / width, y / height, text, fontsize=size, **look)
        while (wide := written.get_window_extent(renderer).width / figure.dpi) > room:
            written.set_fontsize(written.get_fontsize() - 0.25)
        return wide

    write(edge, height - 0.16, plain(title), 11, va="top")
    x = edge
    for text, ink in legend:
        x += 0.2 + write(x, height - 0.4, plain(text), 8, color=ink, va="top")
    y, right = height - top, {"x": left - 0.12, "ha": "right", "va": "center"}
    for strip, used in zip(strips, heights, strict=True):
        down = y - (0.3 if strip.above else 0)
        if strip.above:
            write(edge, y - 0.05, plain(strip.above), 9, va="top", weight="bold")
        wrapped = "\n".join(textwrap.wrap(cut(strip.name, 100), 36))
        write(y=down - side / 2, text=wrapped, size=8.5, **right)
        lefts = [left + number * (side + gap) for number in range(len(strip.images))]
        for image, x in zip(strip.images, lefts, strict=True):
            box = x / width, (down - side) / height, side / width, side / height
            show_image(figure.add_axes(box), image)
        for number, (name, texts, inks) in enumerate(strip.lines):
            middle = down - side - row * (number + 0.6)
            write(y=middle, text=cut(name, 42), size=7.5, **right)
            for text, ink, x in zip(texts, inks, lefts, strict=True):
                look = {"ha": "center", "va": "center", "color": ink}
                write(x + side / 2, middle, cut(text, 18), 7.5, side, **look)
        y -= used
    return figure


def draw_shuffled(grids: Mapping[int, Tensor], labels: Sequence[str] = ()) -> Figure | None:
    """Images with their patches in a random order, at most six: the paper's Figure 1.

    Args:
        grids: by k, float [n,C,H,W] of the same images in grids of k x k patches; those under 1
            are the originals. labels: n words.

    Returns:
        None where there are no images or no grid of several patches.
    """
    count = min([6, *map(len, grids.values())]) if any(k > 1 for k in grids) else 0
    if count == 0:
        return None
    names = [("class", labels[:count], [NEUTRAL] * count)] if labels else []
    strips = [
        Strip(f"{k}x{k}" if k > 1 else "original", grids[k][:count], () if i else names)
        for i, k in enumerate(sorted(grids))
    ]
    return draw_strips("Patches in a random order", strips, left=0.95)
