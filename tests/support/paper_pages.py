"""Pages of invented numbers, and what stands on them."""

from dataclasses import replace
from pathlib import Path

from scotoma.bench.paper.page import build_page
from scotoma.bench.paper.published import published
from scotoma.bench.report import markdown
from scotoma.bench.report.document import Break, Bullets, Table, spans, walk

WHEN = "2026-01-02 03:04 UTC"


def page_of(made, *, verdicts=(), failures=(), commit="abc1234", printed="own"):
    number = made.definition.of_table
    if printed == "own":
        printed = None if number is None else published(number)
    return build_page(made, printed, list(verdicts), list(failures), commit, WHEN)


def words(inline):
    """A cell's text, its lines parted by line ends."""
    return "".join("\n" if isinstance(s, Break) else getattr(s, "text", s) for s in spans(inline))


def tables(page):
    return [block for block in walk(page.document.blocks) if isinstance(block, Table)]


def cells_of(table):
    """{(row, column): text}, names without their marks."""
    return {
        (words(row[0]).split("\n")[0], name.removesuffix(" (ours only)")): words(cell)
        for row in table.rows
        for name, cell in zip(table.names[1:], row[1:], strict=True)
    }


def text_of(page, folder=Path("page")):
    return markdown.render(page.document, folder / "index.md", folder / "images")


def lines_of(page):
    """Every item of every list, as text."""
    lists = [block for block in walk(page.document.blocks) if isinstance(block, Bullets)]
    return [words(item) for block in lists for item in block.items]


def without(made, places):
    return replace(made, values={p: v for p, v in made.values.items() if p not in set(places)})
