"""Pictures of result rows of one device; the same rows always give the same picture."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ...train.plots import cut, marker, new, panels
from ..profiling.families import COLOURS, GAPS
from .rows import (
    PASSES,
    by_site,
    convergence_cases,
    flop_unit,
    grouped,
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
_DARK, _WORDS = "#222222", 70


def colours(rows: Iterable[dict]) -> dict[str, str]:
    """Of contestants, in their order; of unknown ones by their place among those."""
    names = ordered(row["contestant"] for row in rows)
    unknown = [name for name in names if name.removesuffix("-graph") not in _COLOURS]
    further = {name: _FURTHER[n % len(_FURTHER)] for n, name in enumerate(unknown)}
    return {name: further.get(name) or _COLOURS[name.removesuffix("-graph")] for name in names}


@contextmanager
def canvas(
    rows: Sequence[dict], size: tuple[float, float], title: str, columns: int = 5
) -> Iterator[tuple[Figure, dict[str, object]]]:
    """A figure to draw on, and a dict for what its legend is to name, in columns.

    It gets title, legend and the words below it, which are made from the rows, at the end.
    """
    machine = max(rows, key=lambda row: row["time"])["machine"]
    words = [machine["device"], f"torch {machine.get('torch')}", f"triton {machine.get('triton')}"]
    commits = {row["machine"].get("commit") or "unknown" for row in rows}
    words.append("commit " + ", ".join(sorted(commits)))
    repeats = sorted({str((row.get("settings") or {}).get("repeats")) for row in rows} - {"None"})
    words += [f"{', '.join(repeats)} repeats"] if repeats else []
    with matplotlib.style.context("default"):
        figure, handles = new(size), {}
        yield figure, handles
        if handles:
            # The layout keeps a title and a legend above the panels apart only if they are one.
            figure.legend(
                handles.values(),
                [cut(name, 40) for name in handles],
                title=cut(title, 120),
                title_fontsize=11,
                loc="outside upper center",
                ncols=min(columns, len(handles)),
                fontsize=8,
                frameon=False,
            )
        else:
            figure.suptitle(cut(title, 120), fontsize=11)
        below = cut("; ".join(words), round(16 * size[0]))
        figure.supxlabel(below, fontsize=7.5, color="#555555")


def panel_size(count: int, width: float, height: float, columns: int) -> tuple[float, float]:
    """Inches of a figure of panels, with room for title, legend and words below."""
    across = max(6.5, width * min(columns, count))
    return across, height * math.ceil(count / columns) + 1.2


def _label(axes: Axes, x: str, y: str = "", grid: str = "both") -> None:
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(axis=grid, alpha=0.3)
    axes.set_axisbelow(True)


def _point(axes: Axes, x: float, y: float, **style) -> Line2D:
    edge = {"markeredgecolor": "#ffffff", "markeredgewidth": 0.5}
    return axes.plot([x], [y], linestyle="", **edge, **style)[0]


# Images per second of whole steps.


def draw_steps(rows: Sequence[dict]) -> Figure:
    """Of one kind of work at one size: a panel for each network, contestants side by side for each
    batch size, whiskers from the 10 % to the 90 % quantile."""
    usual = Counter(row["dtype"] for row in rows).most_common(1)[0][0]

    def label(row: dict) -> str:
        """The contestant, with its number format if that is another one than in the title."""
        return row["contestant"] + ("" if row["dtype"] == usual else f" ({row['dtype']})")

    tints = colours(rows)
    timed = sorted(filter(rate, rows), key=lambda row: list(tints).index(row["contestant"]))
    looks = {
        label(row): {
            "facecolor": tints[row["contestant"]],
            "hatch": "////" if row["contestant"].endswith("-graph") else "",
            "edgecolor": "#ffffff",
            "linewidth": 0.4,
        }
        for row in timed
    }
    # Variants of one network side by side.
    columns = len({row["defects"] for row in rows})
    columns = columns if 1 < columns < 4 else 3
    by_name = sorted(rows, key=lambda row: (row["arch"], row["defects"] != "standard"))
    networks = grouped(by_name, "arch", "defects")
    size = panel_size(len(networks), 10 / columns, 2.5, columns)
    width = "" if rows[0]["width"] is None else f" width {rows[0]['width']},"
    pixels = f"{rows[0]['image_size']} x {rows[0]['image_size']} pixels"
    title = f"images per second: {rows[0]['work']},{width} {pixels}, {usual}"
    with canvas(rows, size, title) as (figure, handles):
        handles |= {name: Patch(**look) for name, look in looks.items()}
        axes_of = zip(panels(figure, len(networks), columns), networks.items(), strict=True)
        for axes, (network, found) in axes_of:
            batches = sorted({row["batch_size"] for row in found})
            present = {label(row) for row in found}
            present = [name for name in looks if name in present]
            for row in filter(rate, found):
                height, low, high = (rate(row, q) for q in ("median_us", "p90_us", "p10_us"))
                offset = (present.index(label(row)) + 0.5) / len(present) - 0.5
                axes.bar(
                    batches.index(row["batch_size"]) + 0.84 * offset,
                    height,
                    0.84 / len(present),
                    yerr=[[max(0, height - low)], [max(0, high - height)]],
                    error_kw={"elinewidth": 0.8, "capsize": 1.5, "ecolor": _DARK},
                    **looks[label(row)],
                )
            axes.set_title(cut(", ".join(network), _WORDS), fontsize=9)
            _label(axes, "batch size (images)", "images/s", "y")
            axes.set_xticks(range(len(batches)), map(str, batches), fontsize=8)
            axes.yaxis.set_major_formatter("{x:,.0f}")
            axes.set_ylim(bottom=0)
    return figure


# The operator at every site, held against the copy bandwidth.


def draw_layers(rows: Sequence[dict]) -> Figure:
    """Percent of the copy bandwidth reached at each site, forward and backward, with cold caches.

    Lines go from the 10 % to the 90 % quantile of the times."""
    sites, tints, clock = list(by_site(rows)), colours(rows), layer_clock(rows)
    title = f"bytes that must move over time taken, cold caches, {clock} times"
    with canvas(rows, (11, 0.3 * len(sites) + 2.0), title, columns=6) as (figure, handles):
        pair = figure.subplots(1, 2, sharey=True)
        for axes, step in zip(pair, PASSES[:2], strict=True):
            for number, (name, tint) in enumerate(tints.items()):
                for row in (row for row in rows if row["contestant"] == name):
                    if not (time := layer_time(row, "cold", clock, step)):
                        continue
                    middle = time["copy_percent"]
                    ends = [middle * time["median_us"] / time[q] for q in ("p90_us", "p10_us")]
                    place = sites.index(row["place"]) + 0.5 * ((number + 0.5) / len(tints) - 0.5)
                    axes.plot(ends, [place, place], color=tint, linewidth=1, alpha=0.7)
                    look = {"marker": marker(number), "markersize": 5, "color": tint}
                    handles[name] = _point(axes, middle, place, **look)
            axes.axvline(100, color=_DARK, linestyle=":", linewidth=1)
            axes.set_title(step, fontsize=9)
            _label(axes, "% of the bandwidth of a large copy")
            axes.set_xlim(left=0)
        pair[0].set_yticks(range(len(sites)), [cut(site, _WORDS) for site in sites], fontsize=8)
        pair[0].set_ylim(len(sites) - 0.4, -0.6)
    return figure


# Operators against the two roofs.

_TINTS = (
    "#b84a00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5c5c5c", "#7a5195",
)  # fmt: skip
_ROOFS = ("-", "--", "-.", ":")


def draw_roofline(rows: Sequence[dict]) -> Figure:
    """Log-log: operations per byte against operations per second, with the measured ceilings.

    Ceilings are those of the newest row. Operators differ in colour, backends in marker."""
    points = [row for row in rows if row["times"] and row["flops"] > 0 and row["bytes"] > 0]
    operators = sorted({row["operator"] for row in points})
    backends = sorted({row["backend"] for row in points}, key=lambda b: (b != "triton", b))
    ceilings = max(rows, key=lambda row: row["time"])["ceilings"]
    bandwidth = ceilings["copy_gb_per_s"] / 1e3  # TB/s
    unit, factor = flop_unit(rows[0])
    matmul = dict(sorted(ceilings["matmul_tflop_per_s"].items(), key=lambda item: -item[1]))
    with canvas(rows, (9.5, 6), "operators against measured ceilings") as (figure, _):
        axes = figure.subplots()
        xs = [row["flops"] / row["bytes"] for row in points]
        ridge = max([*matmul.values(), bandwidth]) / bandwidth
        left, right = min([*xs, 0.5]) / 2, max([*xs, ridge]) * 4
        slope_end = max(left, max(matmul.values()) / bandwidth) if matmul else right
        ends = [left, slope_end]
        label = f"copy, {ceilings['copy_gb_per_s']:,.0f} GB/s"
        axes.plot(ends, [factor * bandwidth * x for x in ends], lw=1.4, color=_DARK, label=label)
        for number, (dtype, ceiling) in enumerate(matmul.items()):
            words = f"matrix multiplication, {dtype}, {factor * ceiling:,.1f} {unit}"
            look = {"color": "#777777", "linestyle": _ROOFS[number % len(_ROOFS)], "lw": 1.4}
            ends, label = [ceiling / bandwidth, right], cut(words, _WORDS)
            axes.plot(ends, [factor * ceiling] * 2, label=label, **look)
        entries = axes.lines[:]
        tints = {name: _TINTS[n % len(_TINTS)] for n, name in enumerate(operators)}
        for row, x in zip(points, xs, strict=True):
            shape, tint = marker(backends.index(row["backend"])), tints[row["operator"]]
            y = factor * row["flops"] / row["times"]["median_us"] / 1e6
            _point(axes, x, y, marker=shape, color=tint, markersize=6, alpha=0.85)
        axes.set(xscale="log", yscale="log", xlim=(left, right))
        axes.set_xlabel("operations per byte that must move (FLOP/B)", fontsize=9)
        axes.set_ylabel(unit, fontsize=9)
        axes.grid(which="major", alpha=0.3)
        looks = [(name, "s", tint) for name, tint in tints.items()]
        looks += [(f"backend {name}", marker(n), "#444444") for n, name in enumerate(backends)]
        for name, shape, tint in looks:
            look = {"linestyle": "", "marker": shape, "color": tint, "label": cut(name, _WORDS)}
            entries.append(Line2D([], [], **look))
        axes.legend(handles=entries, fontsize=7.5, loc="best")
    return figure


# Families of kernels.

_UNKNOWN = "#bbbbbb"  # families that another version may have had


def draw_families(rows: Sequence[dict]) -> Figure:
    """A stacked bar for each network and contestant, in milliseconds of a step."""
    places = list(colours(rows))
    rows = sorted(rows, key=lambda row: (row["case"], places.index(row["contestant"])))
    families = dict.fromkeys(name for row in rows for name in row["families"])
    families = sorted(families, key=lambda name: name == GAPS)
    size = 9.5, 0.36 * len(rows) + 1.9 + 0.2 * (len(families) // 5)
    with canvas(rows, size, "time of a step by family of kernels") as (figure, handles):
        axes = figure.subplots()
        ends = [0.0] * len(rows)
        for family in families:
            lengths = [row["families"].get(family, {"ms": 0.0})["ms"] for row in rows]
            gaps = family == GAPS
            look = {
                "color": "#ffffff" if gaps else COLOURS.get(family, _UNKNOWN),
                "hatch": "xxxx" if gaps else "" if family in COLOURS else "////",
                "edgecolor": "#999999" if gaps else "#ffffff",
                "linewidth": 0.6,
            }
            handles[family] = axes.barh(range(len(rows)), lengths, 0.72, left=ends, **look)
            ends = [a + b for a, b in zip(ends, lengths, strict=True)]
        for place, (row, end) in enumerate(zip(rows, ends, strict=True)):
            busy = "" if row["busy_percent"] is None else f", busy {row['busy_percent']:.0f} %"
            axes.text(end, place, f" {end:.2f} ms{busy}", va="center", fontsize=7.5)
        # On a CPU, which the profiler slows down, families add up to a profiled step.
        step = "step" if rows[0]["gpu"] else "profiled step"
        _label(axes, f"ms per {step}", grid="x")
        words = [cut(f"{row['case']}: {row['contestant']}", 90) for row in rows]
        axes.set_yticks(range(len(rows)), words, fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.28 * max([*ends, 1e-9]))
    return figure


# Test accuracy against seconds of training.


def draw_convergence(rows: Sequence[dict]) -> Figure:
    """A curve for each seed, a panel for each network and data set, the target as a line."""
    cases = sorted(convergence_cases(rows).items())
    size = panel_size(len(cases), 5.2, 3.6, 2)
    target_look = {"color": _DARK, "linestyle": ":", "linewidth": 1}
    looks = {
        name: {"color": tint, "linestyle": "--" if name.endswith("-graph") else "-"}
        for name, tint in colours(rows).items()
    }
    title = "accuracy against training time, one curve a seed"
    with canvas(rows, size, title, columns=6) as (figure, handles):
        handles |= {name: Line2D([], [], linewidth=2, **look) for name, look in looks.items()}
        handles["target"] = Line2D([], [], **target_look)
        for axes, (case, found) in zip(panels(figure, len(cases), 2), cases, strict=True):
            dataset, arch, defects, target, how = case
            words = cut(f"{arch} {defects}, {dataset}", _WORDS), cut(how, 90)
            axes.set_title("\n".join(filter(None, words)), fontsize=8)
            for row in (row for runs in found.values() for row in runs):
                points = row["history"]
                look = looks[row["contestant"]] | {"linewidth": 1.3, "alpha": 0.85}
                look["marker"] = "." if len(points) < 40 else None
                xs, ys = ([point[key] for point in points] for key in ("seconds", "accuracy"))
                axes.plot(xs, [100 * y for y in ys], clip_on=False, **look)
            axes.axhline(100 * target, **target_look)
            _label(axes, "training time (s)", "test accuracy (%)")
            axes.set_xlim(left=0)
            axes.set_ylim(top=min(100, axes.get_ylim()[1]))
    return figure
