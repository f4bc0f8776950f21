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

from ...train.plots import cut, marker, new, panels
from ..profiling.families import COLOURS, GAPS
from .rows import (
    OURS,
    PASSES,
    STEP_ORDER,
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


def colours(names: Iterable[str]) -> dict[str, str]:
    """Of contestants; of unknown ones by their place among those."""
    names = set(names)
    unknown = sorted(name for name in names if name.removesuffix("-graph") not in _COLOURS)
    found = {name: _COLOURS.get(name.removesuffix("-graph")) for name in names}
    return found | {name: _FURTHER[n % len(_FURTHER)] for n, name in enumerate(unknown)}


def contestants(rows: Iterable[dict]) -> list[str]:
    return ordered((row["contestant"] for row in rows), (OURS, *STEP_ORDER))


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

    def name(row: dict) -> str:
        """The contestant, with its number format if that is another one than in the title."""
        return row["contestant"] + ("" if row["dtype"] == usual else f" ({row['dtype']})")

    order = sorted(rows, key=lambda row: (row["arch"], row["defects"] != "standard"))
    networks = grouped(order, "arch", "defects")
    tints = colours(row["contestant"] for row in rows)
    names = {name(row): row["contestant"] for row in rows}
    places = contestants(rows)
    names = sorted(names, key=lambda label: (places.index(names[label]), label))
    # Variants of one network side by side.
    columns = len({row["defects"] for row in rows})
    columns = columns if 1 < columns < 4 else 3
    size = panel_size(len(networks), 10 / columns, 2.5, columns)
    first = rows[0]
    width = "" if first["width"] is None else f" width {first['width']},"
    pixels = f"{first['image_size']} x {first['image_size']} pixels"
    title = f"images per second: {first['work']},{width} {pixels}, {usual}"
    with canvas(rows, size, title) as (figure, handles):
        grid = panels(figure, len(networks), columns)
        for axes, (network, found) in zip(grid, networks.items(), strict=True):
            batches = sorted({row["batch_size"] for row in found})
            present = sorted({name(row) for row in found}, key=names.index)
            breadth = 0.84 / len(present)
            for row in found:
                height, low, high = (rate(row, q) for q in ("median_us", "p90_us", "p10_us"))
                if height is None:
                    continue
                offset = (present.index(name(row)) - (len(present) - 1) / 2) * breadth
                handles[name(row)] = axes.bar(
                    batches.index(row["batch_size"]) + offset,
                    height,
                    breadth,
                    yerr=[[max(0, height - low)], [max(0, high - height)]],
                    color=tints[row["contestant"]],
                    hatch="////" if row["contestant"].endswith("-graph") else "",
                    edgecolor="#ffffff",
                    linewidth=0.4,
                    error_kw={"elinewidth": 0.8, "capsize": 1.5, "ecolor": _DARK},
                )
            axes.set_title(cut(", ".join(network), _WORDS), fontsize=9)
            _label(axes, "batch size (images)", "images/s", "y")
            axes.set_xticks(range(len(batches)), [f"{batch}" for batch in batches], fontsize=8)
            axes.yaxis.set_major_formatter("{x:,.0f}")
            axes.set_ylim(bottom=0)
        for label in names:  # in their order
            if label in handles:
                handles[label] = handles.pop(label)
    return figure


# The operator at every site, held against the copy bandwidth.


def draw_layers(rows: Sequence[dict]) -> Figure:
    """Percent of the copy bandwidth reached at each site, forward and backward, with cold caches.

    Lines go from the 10 % to the 90 % quantile of the times."""
    sites, names, clock = list(by_site(rows)), contestants(rows), layer_clock(rows)
    tints = colours(names)
    title = f"bytes that must move over time taken, cold caches, {clock} times"
    with canvas(rows, (11, 0.3 * len(sites) + 2.0), title, columns=6) as (figure, handles):
        pair = figure.subplots(1, 2, sharey=True)
        for axes, step in zip(pair, PASSES[:2], strict=True):
            for row in sorted(rows, key=lambda row: names.index(row["contestant"])):
                time = layer_time(row, "cold", clock, step)
                if not time:
                    continue
                name, share = row["contestant"], time["copy_percent"]
                number, look = names.index(name), {"color": tints[name]}
                place = sites.index(row["site"]["name"]) + 0.5 * ((number + 0.5) / len(names) - 0.5)
                ends = [share * time["median_us"] / time[q] for q in ("p90_us", "p10_us")]
                axes.plot(ends, [place, place], linewidth=1, alpha=0.7, **look)
                look |= {"marker": marker(number), "markersize": 5}
                handles[name] = _point(axes, share, place, **look)
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
            axes.plot(
                [ceiling / bandwidth, right],
                [factor * ceiling] * 2,
                lw=1.4,
                color="#777777",
                linestyle=_ROOFS[number % len(_ROOFS)],
                label=cut(
                    f"matrix multiplication, {dtype}, {factor * ceiling:,.1f} {unit}", _WORDS
                ),
            )
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

    def case(row: dict) -> tuple:
        sizes = row["image_size"], row["batch_size"], str(row["width"]), row["dtype"]
        network = row["arch"], row["defects"] != "standard", row["defects"], row.get("work") or ""
        return *network, *sizes, places.index(row["contestant"])

    def words(row: dict) -> str:
        name = f"{row['arch']} {row['defects']}, {row.get('work') or 'train'}"
        name += f", batch {row['batch_size']}, {row['dtype']}: {row['contestant']}"
        return cut(name, _WORDS)

    places = contestants(rows)
    rows = sorted(rows, key=case)
    families = dict.fromkeys(name for row in rows for name in row["families"])
    families = sorted(families, key=lambda name: name == GAPS)
    size = 9.5, 0.36 * len(rows) + 1.9 + 0.2 * (len(families) // 5)
    with canvas(rows, size, "time of a step by family of kernels") as (figure, handles):
        axes = figure.subplots()
        ends = [0.0] * len(rows)
        for family in families:
            lengths = [row["families"].get(family, {"ms": 0.0})["ms"] for row in rows]
            gaps = family == GAPS
            handles[family] = axes.barh(
                range(len(rows)),
                lengths,
                0.72,
                left=ends,
                color="#ffffff" if gaps else COLOURS.get(family, _UNKNOWN),
                hatch="xxxx" if gaps else "" if family in COLOURS else "////",
                edgecolor="#999999" if gaps else "#ffffff",
                linewidth=0.6,
            )
            ends = [a + b for a, b in zip(ends, lengths, strict=True)]
        for place, (row, end) in enumerate(zip(rows, ends, strict=True)):
            busy = "" if row["busy_percent"] is None else f", busy {row['busy_percent']:.0f} %"
            axes.text(end, place, f" {end:.2f} ms{busy}", va="center", fontsize=7.5)
        # On a CPU, which the profiler slows down, families add up to a profiled step.
        step = "profiled step" if rows[0]["machine"]["kind"] == "cpu" else "step"
        _label(axes, f"ms per {step}", grid="x")
        axes.set_yticks(range(len(rows)), map(words, rows), fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.28 * max([*ends, 1e-9]))
    return figure


# Test accuracy against seconds of training.


def draw_convergence(rows: Sequence[dict]) -> Figure:
    """A curve for each seed, a panel for each network and data set, the target as a line."""
    cases = sorted(convergence_cases(rows).items())
    tints = colours(row["contestant"] for row in rows)
    size = panel_size(len(cases), 5.2, 3.6, 2)
    title = "accuracy against training time, one curve a seed"
    with canvas(rows, size, title, columns=6) as (figure, handles):
        for name in [*contestants(rows), "target"]:
            handles[name] = Line2D([], [], **_curve(name, tints))
        for axes, (case, found) in zip(panels(figure, len(cases), 2), cases, strict=True):
            dataset, arch, defects, target, how = case
            words = cut(f"{arch} {defects}, {dataset}", _WORDS), cut(how, 90)
            axes.set_title("\n".join(filter(None, words)), fontsize=8)
            for row in (row for runs in found.values() for row in runs):
                points = row["history"]
                axes.plot(
                    [point["seconds"] for point in points],
                    [100 * point["accuracy"] for point in points],
                    marker="." if len(points) < 40 else None,
                    alpha=0.85,
                    clip_on=False,
                    **_curve(row["contestant"], tints),
                )
            axes.axhline(100 * target, **_curve("target", tints))
            _label(axes, "training time (s)", "test accuracy (%)")
            axes.set_xlim(left=0)
            axes.set_ylim(top=min(100, axes.get_ylim()[1]))
    return figure


def _curve(name: str, tints: dict[str, str]) -> dict:
    if name == "target":
        return {"color": _DARK, "linestyle": ":", "linewidth": 1}
    dashes = "--" if name.endswith("-graph") else "-"
    return {"color": tints[name], "linestyle": dashes, "linewidth": 1.3}
