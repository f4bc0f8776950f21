"""What the shown rows were measured on: commits, versions, clocks, dates."""

from __future__ import annotations

from collections.abc import Sequence

from ..document import Block, Heading, Paragraph, Table
from ..figures import listed, span, whole
from ..schema import commit, moment

_VERSIONS = ("torch", "triton", "driver", "cuda", "cudnn")


def blocks(rows: Sequence[dict], superseded: int) -> list[Block]:
    """Args: superseded: rows of the same cases that newer ones replaced."""
    if not rows:
        return []
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        versions = tuple(_text(row["machine"].get(name)) for name in _VERSIONS)
        groups.setdefault((commit(row), *versions), []).append(row)
    newest_first = sorted(
        groups.items(), key=lambda item: (max(_times(item[1])), item[0]), reverse=True
    )
    names = ["commit", "measured (UTC)", "benchmarks", *_VERSIONS[:3], "CUDA", "cuDNN", "rows"]
    names += ["SM clock (MHz)", "highest (MHz)", "GPU (°C)"]
    lines = [
        [
            *(key[0], span_of_days(group)),
            listed(row["benchmark"] for row in group),
            *(*key[1:], whole(len(group))),
            _clock(group, "clocks.sm"),
            _clock(group, "clocks.max.sm"),
            _clock(group, "temperature.gpu"),
        ]
        for key, group in newest_first
    ]
    words = f"{len(rows):,} rows are shown, the newest of each case; {superseded:,} older rows "
    words += "of the same cases were superseded."
    if len(groups) > 1:
        words += (
            " They come from several commits or versions, so that contestants which stand side by "
            "side may have been measured in different runs."
        )
    return [Heading(3, "Conditions"), Paragraph(words), Table(names, lines, left=8)]


def span_of_days(rows: Sequence[dict]) -> str:
    """The first and the last day on which rows were measured."""
    days = sorted({moment(row["time"]).date().isoformat() for row in rows})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _times(rows: Sequence[dict]) -> list:
    return [moment(row["time"]) for row in rows]


def _text(value) -> str:
    return "-" if value is None else str(value)


def _clock(rows: Sequence[dict], name: str) -> str:
    values = []
    for row in rows:
        try:
            values.append(float((row.get("clocks") or {}).get(name)))
        except (TypeError, ValueError):
            continue  # nvidia-smi may answer "[N/A]"
    return span([v for v in values if abs(v) < 1e9])
