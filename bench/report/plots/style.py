"""What all pictures share: colours of contestants, titles, and words under them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import matplotlib.style
from matplotlib.figure import Figure

from ....train.plots import new
from ..compare import STEP_ORDER, ordered
from ..document import clean
from ..schema import commit

# Colours that differ for colour-blind eyes and in lightness; the same work in a CUDA graph is
# hatched.
_COLOURS = {
    "reference": "#cfcfcf",
    "eager": "#8c8c8c",
    "eager-fp16": "#3f3f3f",
    "compile": "#56b4e9",
    "max-autotune": "#0072b2",
    "fused": "#e69f00",
    "fused-compile": "#b84a00",
    "ours": "#b84a00",
    "triton": "#b84a00",
    "released": "#009e73",
}
_FURTHER = ("#cc79a7", "#f0e442", "#009e73", "#7a5195", "#000000")


def colour(name: str, names: Iterable[str] = ()) -> str:
    """Of a contestant; of an unknown one by its place among the unknown ``names``."""
    known = _COLOURS.get(name.removesuffix("-graph"))
    unknown = [n for n in sorted(set(names)) if n.removesuffix("-graph") not in _COLOURS]
    return known or _FURTHER[unknown.index(name) % len(_FURTHER) if name in unknown else 0]


def hatch(name: str) -> str:
    return "////" if name.endswith("-graph") else ""


def contestants(rows: Iterable[dict]) -> list[str]:
    return ordered((row["contestant"] for row in rows), ("ours", *STEP_ORDER))


def plain(text: str, longest: int = 70) -> str:
    """Words as matplotlib shows them: no formulas, one line, no picture torn wide by one name."""
    text = clean(text)
    text = text if len(text) <= longest else text[: longest - 3] + "..."
    # A leading underscore would leave the words out of a legend.
    return (" " + text if text.startswith("_") else text).replace("$", r"\$")


def one_device(rows: Sequence[dict]) -> dict:
    """The machine of the newest row.

    Raises:
        ValueError: there are no rows, or they are of several devices.
    """
    devices = {(row["machine"]["kind"], row["machine"]["device"]) for row in rows}
    if len(devices) != 1:
        names = ", ".join(sorted(f"{name} ({kind})" for kind, name in devices)) or "no device"
        raise ValueError(f"rows of {names}; a picture shows exactly one device")
    return max(rows, key=lambda row: row["time"])["machine"]


@contextmanager
def canvas(rows: Sequence[dict], size: tuple[float, float], title: str) -> Iterator[Figure]:
    """A figure to draw on, that gets its title and the words below it at the end.

    Args:
        rows: what is drawn; the words below the picture are made from them. size: inches.
    """
    machine = one_device(rows)
    words = [machine["device"], f"torch {machine.get('torch')}", f"triton {machine.get('triton')}"]
    words.append("commit " + ", ".join(sorted({commit(row) for row in rows})))
    repeats = sorted({str((row.get("settings") or {}).get("repeats")) for row in rows} - {"None"})
    words += [f"{', '.join(repeats)} repeats"] if repeats else []
    with matplotlib.style.context("default"):
        figure = new(size)
        yield figure
        if figure.legends:
            # The layout keeps a title and a legend above the panels apart only if they are one.
            figure.legends[0].set_title(plain(title, 120), prop={"size": 11})
        else:
            figure.suptitle(plain(title, 120), fontsize=11)
        below = plain("; ".join(words), round(16 * size[0]))
        figure.supxlabel(below, fontsize=7.5, color="#555555")


def source(rows: Sequence[dict]) -> str:
    """What a picture was made from, and by what: equal for equal rows.

    Pixels may differ between versions of matplotlib; the digest of the rows does not.
    """
    bare = [{k: v for k, v in row.items() if k != "folder"} for row in rows]
    digest = hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest()[:32]
    return f"scotoma bench report; rows {digest}; matplotlib {matplotlib.__version__}"


def panel_size(count: int, width: float, height: float, columns: int = 3) -> tuple[float, float]:
    """Inches of a figure of panels, with room for title, legend and words below."""
    columns = min(columns, count)
    return max(6.5, width * columns), height * math.ceil(count / columns) + 1.2


def legend_above(figure: Figure, handles: dict[str, object], columns: int) -> None:
    """One legend for all panels, between title and panels."""
    if not handles:
        return
    figure.legend(
        handles.values(),
        [plain(name, 40) for name in handles],
        loc="outside upper center",
        ncols=min(columns, len(handles)),
        fontsize=8,
        frameon=False,
    )
