"""Pictures of result rows; the same rows always give the same picture.

Each function takes rows of its benchmark, of one device, and raises ValueError for none, or for
rows of several devices.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...train.pages import clean
from ...train.plots import marker, new, panels
from ...train.plots import plain as shown
from ..profiling.families import COLOURS, GAPS
from .rows import (
    OURS,
    PASSES,
    STEP_ORDER,
    by_site,
    commit,
    convergence_cases,
    flop_unit,
    layer_clock,
    layer_time,
    ordered,
    rate,
)

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


def contestants(rows: Iterable[dict]) -> list[str]:
    return ordered((row["contestant"] for row in rows), (OURS, *STEP_ORDER))


def plain(text: str, longest: int = 70) -> str:
    """Words as matplotlib shows them; no picture is torn wide by one name."""
    text = clean(text)
    return shown(text if len(text) <= longest else text[: longest - 3] + "...")


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


def _label(axes: Axes, x: str, y: str = "", grid: str = "both") -> None:
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(axis=grid, alpha=0.3)
    axes.set_axisbelow(True)


def _points(axes: Axes, x: float, y: float, **style) -> Line2D:
    edge = {"markeredgecolor": "#ffffff", "markeredgewidth": 0.5}
    return axes.plot([x], [y], linestyle="", **edge, **style)[0]


# Images per second of whole steps.


def draw_steps(rows: Sequence[dict]) -> Figure:
    """Bars for each network and batch size, contestants side by side, whiskers from the 10 % to
    the 90 % quantile."""
    one_device(rows)
    cases: dict[tuple, list[dict]] = {}
    for row in sorted(rows, key=lambda row: (row["arch"], row["defects"] != "standard")):
        width = "" if row["width"] is None else f"width {row['width']}"
        size = f"{row['image_size']} x {row['image_size']} pixels"
        words = row["arch"], row["defects"], row["work"], width, size
        cases.setdefault(words, []).append(row)
    usual = Counter(row["dtype"] for row in rows).most_common(1)[0][0]

    def name(row: dict) -> str:
        """The contestant, with its number format if that is another one than in the title."""
        return row["contestant"] + ("" if row["dtype"] == usual else f" ({row['dtype']})")

    names = {name(row): row["contestant"] for row in rows}
    names = {label: names[label] for label in sorted(names, key=lambda n: (_place(names[n]), n))}
    # What all panels share stands in the title, what tells them apart above each.
    same = [len(set(words)) == 1 for words in zip(*cases, strict=True)]
    shared = [w for w, s in zip(next(iter(cases)), same, strict=True) if s and w]
    handles: dict[str, object] = {}
    # Variants of one network side by side.
    columns = len({row["defects"] for row in rows})
    columns = columns if 1 < columns < 4 else 3
    size = panel_size(len(cases), 10 / columns, 2.5, columns)
    with canvas(rows, size, f"images per second: {', '.join([*shared, usual])}") as figure:
        grid = panels(figure, len(cases), columns)
        for axes, (words, found) in zip(grid, cases.items(), strict=True):
            own = ", ".join(w for w, s in zip(words, same, strict=True) if not s and w)
            axes.set_title(plain(own), fontsize=9)
            _bars(axes, [(name(row), row) for row in found], names, handles)
        legend_above(figure, {n: handles[n] for n in names if n in handles}, 5)
    return figure


def _place(name: str) -> int:
    return STEP_ORDER.index(name) if name in STEP_ORDER else len(STEP_ORDER)


def _bars(axes: Axes, bars: list[tuple[str, dict]], names: dict[str, str], handles: dict) -> None:
    batches = sorted({row["batch_size"] for _, row in bars})
    labels = {label for label, _ in bars}
    present = [label for label in names if label in labels]
    breadth = 0.84 / len(present)
    for name, row in bars:
        height, low, high = (rate(row, q) for q in ("median_us", "p90_us", "p10_us"))
        if height is None:
            continue
        offset = (present.index(name) - (len(present) - 1) / 2) * breadth
        handles[name] = axes.bar(
            batches.index(row["batch_size"]) + offset,
            height,
            breadth,
            yerr=[[max(0, height - low)], [max(0, high - height)]],
            color=colour(row["contestant"], names.values()),
            hatch="////" if row["contestant"].endswith("-graph") else "",
            edgecolor="#ffffff",
            linewidth=0.4,
            error_kw={"elinewidth": 0.8, "capsize": 1.5, "ecolor": "#222222"},
        )
    _label(axes, "batch size (images)", "images/s", "y")
    axes.set_xticks(range(len(batches)), [f"{batch}" for batch in batches], fontsize=8)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylim(bottom=0)


# The operator at every site, held against the copy bandwidth.


def draw_layers(rows: Sequence[dict]) -> Figure:
    """Percent of the copy bandwidth reached at each site, forward and backward, with cold caches.

    Lines go from the 10 % to the 90 % quantile of the times."""
    one_device(rows)
    sites, names, clock = list(by_site(rows)), contestants(rows), layer_clock(rows)
    title = f"bytes that must move over time taken, cold caches, {clock} times"
    handles: dict[str, object] = {}
    with canvas(rows, (11, 0.3 * len(sites) + 2.0), title) as figure:
        pair = figure.subplots(1, 2, sharey=True)
        for axes, step in zip(pair, PASSES[:2], strict=True):
            for row in rows:
                time = layer_time(row, "cold", clock, step)
                if not time:
                    continue
                name, share = row["contestant"], time["copy_percent"]
                number, tint = names.index(name), colour(name, names)
                place = sites.index(row["site"]["name"]) + 0.5 * ((number + 0.5) / len(names) - 0.5)
                ends = [share * time["median_us"] / time[q] for q in ("p90_us", "p10_us")]
                axes.plot(ends, [place, place], color=tint, linewidth=1, alpha=0.7)
                style = {"marker": marker(number), "markersize": 5, "color": tint}
                handles[name] = _points(axes, share, place, **style)
            axes.axvline(100, color="#222222", linestyle=":", linewidth=1)
            axes.set_title(step, fontsize=9)
            _label(axes, "% of the bandwidth of a large copy")
            axes.set_xlim(left=0)
        pair[0].set_yticks(range(len(sites)), [plain(s) for s in sites], fontsize=8)
        pair[0].set_ylim(len(sites) - 0.4, -0.6)
        legend_above(figure, {n: handles[n] for n in names if n in handles}, 6)
    return figure


# Operators against the two roofs.

_TINTS = (
    "#b84a00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5c5c5c", "#7a5195",
)  # fmt: skip
_ROOFS = ("-", "--", "-.", ":")


def draw_roofline(rows: Sequence[dict]) -> Figure:
    """Log-log: operations per byte against operations per second, with the measured ceilings.

    Ceilings are those of the newest row. Operators differ in colour, backends in marker."""
    one_device(rows)
    points = [row for row in rows if row["times"] and row["flops"] > 0 and row["bytes"] > 0]
    operators = sorted({row["operator"] for row in points})
    backends = sorted({row["backend"] for row in points}, key=lambda b: (b != "triton", b))
    ceilings = max(rows, key=lambda row: row["time"])["ceilings"]
    bandwidth = ceilings["copy_gb_per_s"] / 1e3  # TB/s
    unit, factor = flop_unit(rows[0])
    matmul = dict(sorted(ceilings["matmul_tflop_per_s"].items(), key=lambda item: -item[1]))
    with canvas(rows, (9.5, 6), "operators against measured ceilings") as figure:
        axes = figure.subplots()
        xs = [row["flops"] / row["bytes"] for row in points]
        ridge = max([*matmul.values(), bandwidth]) / bandwidth
        left, right = min([*xs, 0.5]) / 2, max([*xs, ridge]) * 4
        slope_end = max(left, max(matmul.values()) / bandwidth) if matmul else right
        ends, dark, pale = [left, slope_end], {"color": "#222222"}, {"color": "#777777"}
        axes.plot(ends, [factor * bandwidth * x for x in ends], lw=1.4, **dark)
        entries = {f"copy, {ceilings['copy_gb_per_s']:,.0f} GB/s": Line2D([], [], **dark)}
        for number, (dtype, ceiling) in enumerate(matmul.items()):
            look = {"linestyle": _ROOFS[number % len(_ROOFS)], **pale}
            axes.plot([ceiling / bandwidth, right], [factor * ceiling] * 2, lw=1.4, **look)
            words = f"matrix multiplication, {dtype}, {factor * ceiling:,.1f} {unit}"
            entries[words] = Line2D([], [], **look)
        tints = {name: _TINTS[n % len(_TINTS)] for n, name in enumerate(operators)}
        for row, x in zip(points, xs, strict=True):
            shape, tint = marker(backends.index(row["backend"])), tints[row["operator"]]
            y = factor * row["flops"] / row["times"]["median_us"] / 1e6
            _points(axes, x, y, marker=shape, color=tint, markersize=6, alpha=0.85)
        axes.set(xscale="log", yscale="log", xlim=(left, right))
        axes.set_xlabel("operations per byte that must move (FLOP/B)", fontsize=9)
        axes.set_ylabel(unit, fontsize=9)
        axes.grid(which="major", alpha=0.3)
        for name, tint in tints.items():
            entries[name] = Line2D([], [], linestyle="", marker="s", color=tint)
        for number, name in enumerate(backends):
            look = {"linestyle": "", "marker": marker(number), "color": "#444444"}
            entries[f"backend {name}"] = Line2D([], [], **look)
        axes.legend(entries.values(), [plain(name) for name in entries], fontsize=7.5, loc="best")
    return figure


# Families of kernels.

_UNKNOWN = "#bbbbbb"  # families that another version may have had


def draw_families(rows: Sequence[dict]) -> Figure:
    """A stacked bar for each network and contestant, in milliseconds of a step."""
    one_device(rows)
    rows = sorted(rows, key=_family_order)
    families = list(dict.fromkeys(name for row in rows for name in row["families"]))
    families = [f for f in families if f != GAPS] + [f for f in families if f == GAPS]
    size = 9.5, 0.36 * len(rows) + 1.9 + 0.2 * (len(families) // 5)
    with canvas(rows, size, "time of a step by family of kernels") as figure:
        axes = figure.subplots()
        bottoms, handles = [0.0] * len(rows), {}
        for family in families:
            lengths = [row["families"].get(family, {"ms": 0.0})["ms"] for row in rows]
            gaps = family == GAPS
            handles[family] = axes.barh(
                range(len(rows)),
                lengths,
                0.72,
                left=bottoms,
                color="#ffffff" if gaps else COLOURS.get(family, _UNKNOWN),
                hatch="xxxx" if gaps else "" if family in COLOURS else "////",
                edgecolor="#999999" if gaps else "#ffffff",
                linewidth=0.6,
            )
            bottoms = [a + b for a, b in zip(bottoms, lengths, strict=True)]
        for place, (row, end) in enumerate(zip(rows, bottoms, strict=True)):
            busy = row["busy_percent"]
            words = f" {end:.2f} ms" + ("" if busy is None else f", busy {busy:.0f} %")
            axes.text(end, place, words, va="center", fontsize=7.5)
        # On a CPU, which the profiler slows down, families add up to a profiled step.
        step = "profiled step" if rows[0]["machine"]["kind"] == "cpu" else "step"
        _label(axes, f"ms per {step}", grid="x")
        axes.set_yticks(range(len(rows)), [plain(_family_label(row)) for row in rows], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.28 * max([*bottoms, 1e-9]))
        legend_above(figure, handles, 5)
    return figure


def _family_order(row: dict) -> tuple:
    name = row["contestant"]
    sizes = row["image_size"], row["batch_size"], str(row["width"]), row["dtype"]
    sizes = row.get("work") or "train", *sizes
    return row["arch"], row["defects"] != "standard", row["defects"], *sizes, _place(name), name


def _family_label(row: dict) -> str:
    work = row.get("work") or "train"
    name = f"{row['arch']} {row['defects']}, {work}, batch {row['batch_size']}, {row['dtype']}"
    return f"{name}: {row['contestant']}"


# Test accuracy against seconds of training.


def draw_convergence(rows: Sequence[dict]) -> Figure:
    """A curve for each seed, a panel for each network and data set, the target as a line."""
    one_device(rows)
    cases = {
        case: [row for runs in found.values() for row in runs]
        for case, found in convergence_cases(rows).items()
    }
    names = contestants(rows)
    handles = {
        name: Line2D([], [], color=colour(name, names), linestyle=_line(name), linewidth=2)
        for name in names
    }
    handles["target"] = Line2D([], [], color="#222222", linestyle=":", linewidth=1)
    size = panel_size(len(cases), 5.2, 3.6, 2)
    with canvas(rows, size, "accuracy against training time, one curve a seed") as fig:
        for axes, (case, found) in zip(
            panels(fig, len(cases), 2), sorted(cases.items()), strict=True
        ):
            dataset, arch, defects, target, how = case
            words = plain(f"{arch} {defects}, {dataset}"), plain(how, 90)
            axes.set_title("\n".join(filter(None, words)), fontsize=8)
            for row in found:
                points = row["history"]
                axes.plot(
                    [point["seconds"] for point in points],
                    [100 * point["accuracy"] for point in points],
                    color=colour(row["contestant"], names),
                    linestyle=_line(row["contestant"]),
                    linewidth=1.3,
                    marker="." if len(points) < 40 else None,
                    alpha=0.85,
                    clip_on=False,
                )
            axes.axhline(100 * target, color="#222222", linestyle=":", linewidth=1)
            _label(axes, "training time (s)", "test accuracy (%)")
            axes.set_xlim(left=0)
            axes.set_ylim(top=min(100, axes.get_ylim()[1]))
        legend_above(fig, handles, 6)
    return fig


def _line(name: str) -> str:
    return "--" if name.endswith("-graph") else "-"
