"""Results as Markdown: tables, settings, and text that is shown literally."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from .arranged import Arranged, Cell, Column
from .wording import rate_text

ABSENT = "-"


def table(heads: Iterable[str], rows: Iterable[Iterable[str]], left: int = 1) -> str:
    """A Markdown table, its first ``left`` columns aligned so. Escapes nothing."""
    heads = list(heads)
    rule = ["---"] * left + ["---:"] * (len(heads) - left)
    lines = [heads, rule, *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def by_target(
    found: Arranged, columns: list[Column], text: Callable[[Cell], str | None]
) -> str | None:
    """Targets as rows, columns as columns; None if no cell has such a text."""
    texts = [{name: text(cell) for name, cell in column.cells.items()} for column in columns]
    kept = [(c, t) for c, t in zip(columns, texts, strict=True) if any(t.values())]
    if not kept:
        return None
    names = [name for name in found.targets if any(t.get(name) for _, t in kept)]
    rows = [[escape(name), *(t.get(name) or ABSENT for _, t in kept)] for name in names]
    return table(["target", *(escape(column.label) for column, _ in kept)], rows)


def rate(name: str) -> Callable[[Cell], str | None]:
    """The text of a rate of a cell that may lack it."""
    return lambda cell: rate_text(cell["results"][name]) if name in cell["results"] else None


def settings(columns: list[Column]) -> str:
    """What was done in full, one line a column."""
    lines = []
    for column in columns:
        results, known = column.results, column.settings_text()
        words = [code(results["shown"]["attack"])] if results["shown"].get("attack") else []
        if column.source:
            words.append(f"source {escape(column.source)} {code(known.pop('source', ''))}")
        if "defence_all" in results:
            words.append(f"{results['defence_all']['n']} images")
        words += [f"{escape(key)} {code(value)}" for key, value in known.items()]
        lines.append(f"- {escape(column.label)}: {', '.join(words) or 'no settings'}")
    return "Settings:\n\n" + "\n".join(lines)


def number(value: float | None, form: str, factor: float = 1) -> str:
    return ABSENT if value is None else format(factor * value, form)


def escape(text: str) -> str:
    """Names and settings as Markdown shows them literally, in a table too."""
    return re.sub(r"([\\`*_\[\]<>|~$#&])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Text in Markdown's backticks, in a table too."""
    return f"`{' '.join(text.split()).replace('`', chr(39)).replace('|', chr(92) + '|')}`"
