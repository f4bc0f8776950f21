"""The operator at every site of the networks, ours beside the others."""

from __future__ import annotations

from collections.abc import Sequence

from ...layers import table
from .. import compare
from ..document import Block, Code, Details, Heading, Inline, Paragraph, Table
from ..figures import NONE, fixed, listed, mib, ratio, share
from ..plots import draw_layers
from ..schema import PASSES
from .album import Album

_ORDER = ("ours", *compare.STEP_ORDER, compare.FLOAT16_RIVAL)


def blocks(rows: Sequence[dict], album: Album) -> list[Block]:
    """Args: rows: all rows of a device."""
    groups = compare.layer_groups(row for row in rows if row["benchmark"] == "layers")
    found: list[Block] = []
    for dtype, group in groups.items():
        clock = compare.layer_clock(group)
        sites = table.by_site(group)
        names = compare.ordered((row["contestant"] for row in group), _ORDER)
        leader = table.OURS if table.OURS in names else names[0]
        copies = listed(f"{row['copy_gb_per_s']:,.0f}" for row in group)
        words = (
            f"One call of the operator, cold caches, {clock} times; the others in multiples of "
            f"{leader}. Percentages: bytes that must move, over the time, of the bandwidth of a "
            f"large copy ({copies} GB/s)."
        )
        if any(row["problems"] for row in group):
            words += " (!) marks rows with problems, which are listed under Losses."
        alt = f"Percent of the copy bandwidth at every site, forward and backward, {dtype}"
        found += [
            Heading(3, f"Layers, {dtype}"),
            Paragraph(words),
            album.draw(draw_layers, group, alt, "layers", dtype),
            _times(sites, names, leader, clock),
            Paragraph("Memory: what a forward keeps for its backward, and the peak of both."),
            _memory(sites, names),
            _details(sites, names),
        ]
    return found


def _times(sites: dict[str, dict[str, dict]], names, leader: str, clock: str) -> Table:
    others = [name for name in names if name != leader]
    lines: list[list[Inline]] = []
    for site, found in sites.items():
        first = found.get(leader)
        cells: list[Inline] = [_marked(site, found), next(iter(found.values()))["site"]["users"]]
        for step in PASSES[:2]:
            own = table.median(first, "cold", clock, step)
            percent = None if own is None else first["times"]["cold"][clock][step]["copy_percent"]
            cells += [fixed(own), fixed(percent, 0)]
        for name in others:
            ratios = [
                share(
                    table.median(found.get(name), "cold", clock, step),
                    table.median(first, "cold", clock, step),
                )
                for step in PASSES
            ]
            cells.append(" / ".join(map(ratio, ratios)) if any(ratios) else NONE)
        lines.append(cells)
    heads = ["site (N x C x H x W)", "used by"]
    for step in PASSES[:2]:
        heads += [f"{leader} {step} (µs)", "% of copy"]
    heads += [f"{name}: forward / backward / both" for name in others]
    return Table(heads, lines, left=2)


def _marked(site: str, found: dict[str, dict]) -> str:
    return site + (" (!)" if any(row["problems"] for row in found.values()) else "")


def _memory(sites: dict[str, dict[str, dict]], names) -> Table:
    lines = []
    for site, found in sites.items():
        cells = [site]
        for key in ("saved_bytes", "peak_bytes"):
            cells += [mib(found[name][key] if name in found else None) for name in names]
        lines.append(cells)
    heads = [f"{name} {what} (MiB)" for what in ("saved", "peak") for name in names]
    return Table(["site", *heads], lines)


def _details(sites: dict[str, dict[str, dict]], names) -> Details:
    """All four ways of measuring: forward, backward and both."""
    ways = [(cache, clock) for cache in ("cold", "hot") for clock in ("graph", "wall")]
    lines = []
    for site, found in sites.items():
        for name in (n for n in names if n in found):
            cells = []
            for way in ways:
                times = [table.median(found[name], *way, step) for step in PASSES]
                cells.append(" / ".join(map(fixed, times)) if any(times) else NONE)
            lines.append([site, Code(name), *cells])
    heads = [f"{cache}, {clock} (µs)" for cache, clock in ways]
    return Details(
        "Every contestant, hot and cold, graph and wall: forward / backward / both",
        [Table(["site", "contestant", *heads], lines, left=2)],
    )
