"""What all pictures share: colours, words, pixels, and how they are written."""

from __future__ import annotations

import io
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor

from ..defective.serialization import atomic_path
from .config import PictureFormat

if TYPE_CHECKING:  # half a second, which only who draws is to wait for
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
SMALL = 64
"""Images of fewer pixels a side are shown pixel by pixel, larger ones smoothly."""
RIGHT, WRONG = "#0072b2", "#d55e00"
# Okabe and Ito (2008), without the yellow that white paper swallows.
_COLOURS = ("#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_MARKERS = "osD^vPX<>*ph"
_LINES = ("-", "--", ":")


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


def short(names: Sequence[str], longest: int) -> dict[str, str]:
    """Names cut to a length; those that a cut in the middle makes equal show where they differ.

    All are different in the end, by a number if need be.
    """
    found = {name: _cut(name, longest) for name in names}
    for text in set(found.values()):
        alike = [name for name in found if found[name] == text]
        if len(alike) > 1:
            first = _shared(alike)
            last = _shared([name[::-1] for name in alike])
            for name in alike:
                found[name] = _window(name, first, len(name) - last, longest)
    seen: Counter[str] = Counter()
    for name, text in found.items():
        seen[text] += 1
        if seen[text] > 1:
            found[name] = f"{text[: longest - 4]}… {seen[text]}"
    return {name: plain(text) for name, text in found.items()}


def _shared(texts: Sequence[str]) -> int:
    """With how many equal characters all begin."""
    return sum(
        1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False))
    )


def _cut(name: str, longest: int) -> str:
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
    """Ends of an axis with room about values in percent, none of it below 0 or over 100.

    Markers at 0 and 100 stand half outside: draw them with ``clip_on=False``.
    """
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


def encoded(figure: Figure, format: PictureFormat = "png", source: str | None = None) -> bytes:
    """A picture as a file; the same figure always gives the same bytes.

    Args:
        source: what it was made from, said in the file's metadata.
    """
    from matplotlib import style

    file = io.BytesIO()
    # Without names, versions and dates files depend on nothing but what is drawn.
    metadata = {
        "png": {"Software": None, "Source": source},
        "pdf": {"Creator": None, "Producer": None, "CreationDate": None, "Subject": source},
        "svg": {"Creator": None, "Date": None, "Source": source},
    }[format]
    # TrueType: many journals refuse Type 3 fonts, matplotlib's default in a PDF.
    looks = {"pdf.fonttype": 42, "svg.hashsalt": "scotoma"}
    with style.context(["default", looks]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(file, dpi="figure", format=format, metadata=metadata)
    return file.getvalue()


def picture(axes: Axes, image: Tensor) -> None:
    """An image [C,H,W] of pixels in [0,1], one channel in grey, or three."""
    pixels = image.detach().float().cpu().clamp(0, 1)
    smoothing = "nearest" if max(pixels.shape[1:]) < SMALL else "antialiased"
    if len(pixels) == 3:
        axes.imshow(pixels.permute(1, 2, 0).numpy(), interpolation=smoothing)
    else:
        # Anything but colours: as one brightness.
        grey = pixels.mean(0).numpy()
        axes.imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation=smoothing)
    bare(axes)


def bare(axes: Axes) -> None:
    """No ticks, a thin frame."""
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
