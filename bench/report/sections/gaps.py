"""Where the time goes next: the largest distances between our times and the floor."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...layers import table
from .. import compare
from ..document import Block, Heading, Paragraph, Table
from ..figures import NONE, fixed

MOST = 10


@dataclass(frozen=True)
class Gap:
    """One pass of the operator at one site.

    Attributes:
        network: that uses the site most often, and ``uses`` how often; None where not known.
        median_us, floor_us: of a call; the floor is the bytes that must move at copy bandwidth.
    """

    site: str
    dtype: str
    step: str
    network: str | None
    uses: int
    median_us: float
    floor_us: float

    @property
    def all_uses_us(self) -> float:
        """What a step of the network would gain if every use took the floor's time."""
        return self.uses * (self.median_us - self.floor_us)


def blocks(rows: Sequence[dict]) -> list[Block]:
    """Args: rows: all rows of a device."""
    found = sorted(gaps(rows), key=lambda gap: (-gap.all_uses_us, gap.site, gap.step))
    if not found:
        return []
    words = (
        "The largest distances between a measured time of our kernels (cold caches) and its floor, "
        "the bytes that must move over the copy bandwidth, times the uses in the network that has "
        f"most of them. The {min(MOST, len(found))} largest of {len(found):,}."
    )
    lines = [
        [
            *(gap.site, gap.dtype, gap.step, gap.network or "not known"),
            f"{gap.uses}" if gap.network else NONE,
            *map(fixed, (gap.median_us, gap.floor_us, gap.median_us - gap.floor_us)),
            fixed(gap.all_uses_us),
        ]
        for gap in found[:MOST]
    ]
    names = ["site", "dtype", "pass", "network", "uses", "measured (µs)", "floor (µs)", "gap (µs)"]
    return [
        Heading(3, "Where the time goes next"),
        Paragraph(words),
        Table([*names, "gap of all uses (µs)"], lines, left=4),
    ]


def gaps(rows: Sequence[dict]) -> Iterator[Gap]:
    """Forward and backward of every site of ours that was measured without problems."""
    layers = [row for row in rows if row["benchmark"] == "layers"]
    clock = compare.layer_clock(layers)
    for row in layers:
        if row["contestant"] != table.OURS or row["problems"]:
            continue
        network, uses = most_uses(row["site"]["users"])
        for step in ("forward", "backward"):
            time = table.median(row, "cold", clock, step)
            if time is not None:
                floor = row["bytes"][step] / row["copy_gb_per_s"] / 1e3
                yield Gap(row["site"]["name"], row["dtype"], step, network, uses, time, floor)


def most_uses(users: str) -> tuple[str | None, int]:
    """The network with most uses in words such as ``"resnet18 x3, vgg19 x2"``."""
    found = [(int(m[2]), m[1]) for m in re.finditer(r"([\w.-]+) x(\d{1,6})\b", users)]
    count, name = max(found, key=lambda pair: pair[0], default=(1, None))
    return name, count
