"""Images per second of whole steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from matplotlib.figure import Figure

from ....train.plots import panels
from ..compare import STEP_ORDER, rate
from . import style


def draw_steps(rows: Sequence[dict]) -> Figure:
    """Bars for each network and batch size, contestants side by side, whiskers from the 10 % to
    the 90 % quantile.

    Args:
        rows: of the step benchmark, of one device.

    Raises:
        ValueError: no rows, or rows of several devices.
    """
    style.one_device(rows)
    cases: dict[tuple, list[dict]] = {}
    for row in sorted(rows, key=lambda row: (row["arch"], row["defects"] != "standard")):
        cases.setdefault(_words(row), []).append(row)
    usual = Counter(row["dtype"] for row in rows).most_common(1)[0][0]
    names = {_label(row, usual): row["contestant"] for row in rows}
    names = {label: names[label] for label in sorted(names, key=lambda n: (_place(names[n]), n))}
    # What all panels share stands in the title, what tells them apart above each.
    same = [len(set(words)) == 1 for words in zip(*cases, strict=True)]
    shared = [w for w, s in zip(next(iter(cases)), same, strict=True) if s and w]
    title = f"images per second: {', '.join([*shared, usual])}"
    handles: dict[str, object] = {}
    # Variants of one network side by side.
    columns = len({row["defects"] for row in rows})
    columns = columns if 1 < columns < 4 else 3
    size = style.panel_size(len(cases), 10 / columns, 2.5, columns)
    with style.canvas(rows, size, title) as figure:
        for axes, (words, found) in zip(
            panels(figure, len(cases), columns), cases.items(), strict=True
        ):
            own = ", ".join(w for w, s in zip(words, same, strict=True) if not s and w)
            axes.set_title(style.plain(own), fontsize=9)
            bars = [(_label(row, usual), row) for row in found]
            _bars(axes, bars, names, handles)
        style.legend_above(figure, {n: handles[n] for n in names if n in handles}, 5)
    return figure


def _words(row: dict) -> tuple[str, ...]:
    width = "" if row["width"] is None else f"width {row['width']}"
    size = f"{row['image_size']} x {row['image_size']} pixels"
    return row["arch"], row["defects"], row["work"], width, size


def _label(row: dict, usual: str) -> str:
    """The contestant, with its number format if that is another one than in the title."""
    return row["contestant"] + ("" if row["dtype"] == usual else f" ({row['dtype']})")


def _place(name: str) -> int:
    return STEP_ORDER.index(name) if name in STEP_ORDER else len(STEP_ORDER)


def _bars(axes, bars: list[tuple[str, dict]], names: dict[str, str], handles: dict) -> None:
    batches = sorted({row["batch_size"] for _, row in bars})
    labels = {label for label, _ in bars}
    present = [label for label in names if label in labels]
    breadth = 0.84 / len(present)
    for name, row in bars:
        height = rate(row)
        if height is None:
            continue
        offset = (present.index(name) - (len(present) - 1) / 2) * breadth
        low, high = rate(row, "p90_us"), rate(row, "p10_us")
        handles[name] = axes.bar(
            batches.index(row["batch_size"]) + offset,
            height,
            breadth,
            yerr=[[max(0, height - low)], [max(0, high - height)]],
            color=style.colour(row["contestant"], names.values()),
            hatch=style.hatch(row["contestant"]),
            edgecolor="#ffffff",
            linewidth=0.4,
            error_kw={"elinewidth": 0.8, "capsize": 1.5, "ecolor": "#222222"},
        )
    axes.set_xticks(range(len(batches)), [f"{batch}" for batch in batches], fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("batch size (images)", fontsize=8)
    axes.set_ylabel("images/s", fontsize=8)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
