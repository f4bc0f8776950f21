"""Before and after: what changed beyond noise between the last two commits of a case."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .. import compare
from ..document import Block, Code, Heading, Inline, Paragraph, Table
from ..figures import fixed, signed
from ..schema import PASSES, commit
from .losses import contestant, describe

_VERSIONS = ("torch", "triton", "driver", "cuda", "cudnn")


def blocks(pairs: Sequence[tuple[dict, dict]]) -> list[Block]:
    """Args: pairs: rows of a case at the commit before and at the newest one."""
    compared, lines = 0, []
    for before, after in pairs:
        for what, old, new in spreads(before, after):
            compared += 1
            if new["p10_us"] > old["p90_us"] or new["p90_us"] < old["p10_us"]:
                change = 100 * (new["median_us"] / old["median_us"] - 1)
                lines.append((-change, _line(before, after, what, old, new, change)))
    if not compared:
        return []
    words = (
        f"{compared:,} times were measured at two commits or more. Of the last two of each, those "
        f"are shown whose intervals from the 10 % to the 90 % quantile do not meet: {len(lines):,}"
        ", the worst first. Where contestants without our kernels change as well, the machine "
        "differed, not the code."
    )
    found: list[Block] = [Heading(3, "Before and after"), Paragraph(words)]
    if lines:
        names = ["case", "contestant", "before at", "after at", "also changed"]
        names += ["before (µs)", "after (µs)", "change (%)"]
        ordered = [line for _, line in sorted(lines, key=lambda item: item[0])]
        found.append(Table(names, ordered, left=5))
    return found


def spreads(before: dict, after: dict) -> Iterator[tuple[str, dict, dict]]:
    """(what, times before, times after) of the times that both rows have."""
    if before["benchmark"] in ("step", "roofline", "attacks"):
        if before["times"] and after["times"]:
            yield "", before["times"], after["times"]
    elif before["benchmark"] == "layers":
        clock = compare.layer_clock([before, after])
        old, new = (row["times"].get("cold", {}).get(clock, {}) for row in (before, after))
        for step in PASSES:
            if step in old and step in new:
                yield step, old[step], new[step]


def _line(before, after, what: str, old: dict, new: dict, change: float) -> list[Inline]:
    case = describe(after) + (f", {what}" if what else "")
    others = [n for n in _VERSIONS if before["machine"].get(n) != after["machine"].get(n)]
    return [
        *(case, Code(contestant(after)), commit(before), commit(after)),
        ", ".join(others) or "nothing",
        *map(_spread, (old, new)),
        signed(change),
    ]


def _spread(times: dict) -> str:
    return f"{fixed(times['median_us'])} ({fixed(times['p10_us'])} to {fixed(times['p90_us'])})"
