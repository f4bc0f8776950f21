"""A page as GitHub's Markdown, in which nothing from a result file is markup."""

from __future__ import annotations

import html
import os
import re
from pathlib import Path
from urllib.parse import quote

from .document import (
    Badge,
    Block,
    Break,
    Bullets,
    Code,
    Details,
    Document,
    Heading,
    Inline,
    Link,
    Paragraph,
    Picture,
    Soft,
    Strong,
    Table,
    clean,
    spans,
)

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$&@#])|(?<=[a-z])(:)(?=//)|(?<=www)(\.)", re.IGNORECASE)
# At the start of a block, what would begin a list or a rule.
_OPENING = re.compile(r"^([-+=]|\d+(?=[.)](\s|$)))")


def render(document: Document, page: Path, pictures: Path) -> str:
    """The page's text.

    Args:
        page: where it will lie; links are relative to its folder. pictures: folder of the pictures.
    """
    writer = _Writer(page.parent, pictures)
    blocks = [Heading(1, document.title), *document.blocks]
    return "\n\n".join(map(writer.block, blocks)) + "\n"


class _Writer:
    def __init__(self, folder: Path, pictures: Path):
        self.folder, self.pictures = folder, pictures

    def block(self, block: Block) -> str:
        match block:
            case Heading(level, text):
                return f"{'#' * level} {escape(text)}"
            case Paragraph(inline):
                return self.start(inline)
            case Bullets(items):
                return "\n".join(f"- {self.start(item)}" for item in items)
            case Table(names, rows, left):
                return self.table(names, rows, left)
            case Picture(name, alt):
                return f"![{escape(alt)}]({relative(self.pictures / name, self.folder)})"
            case Details(summary, blocks):
                inside = "\n\n".join(map(self.block, blocks))
                head = f"<details>\n<summary>{html.escape(clean(summary))}</summary>"
                return f"{head}\n\n{inside}\n\n</details>"
        raise TypeError(f"no block: {block!r}")

    def start(self, inline: Inline) -> str:
        """Words at the start of a block."""
        text = self.inline(inline)
        return _OPENING.sub(lambda m: m[0] + "\\" if m[0].isdigit() else "\\" + m[0], text)

    def inline(self, inline: Inline, in_table: bool = False) -> str:
        return "".join(self.span(span, in_table) for span in spans(inline))

    def span(self, span, in_table: bool) -> str:
        match span:
            case Code(text):
                return code(text, in_table)
            case Strong(text) | Badge(text):
                return f"**{escape(text).strip()}**" if clean(text) else ""
            case Soft(text):
                return f"<small>{escape(text).strip()}</small>" if clean(text) else ""
            case Break():
                return "<br>"
            case Link(text, path):
                return f"[{escape(text)}]({relative(path, self.folder)})"
        return escape(span)

    def table(self, names, rows, left: int) -> str:
        rule = ["---" if i < left else "---:" for i in range(len(names))]
        lines = [[escape(n) for n in names], rule]
        lines += [[self.inline(cell, in_table=True) for cell in row] for row in rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def escape(text: str) -> str:
    """Words that stand for themselves. Spaces at either end are kept, as joints of spans."""
    inside = _SPECIAL.sub(lambda m: "\\" + m[0], clean(text))
    before, after = text[:1] == " ", text[-1:] == " " and bool(inside)
    return " " * before + inside + " " * after


def code(text: str, in_table: bool = False) -> str:
    """A code span, fenced by more backticks than any run of them inside."""
    text = clean(text)
    if not text:
        return ""
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    if in_table:
        # A table's cells are parted before code is read, backslashes being code by then.
        if "\\|" in text:
            return escape(text)
        text = text.replace("|", "\\|")
    return f"{fence}{pad}{text}{pad}{fence}"


def relative(path: Path, folder: Path) -> str:
    """A link's target."""
    return quote(Path(os.path.relpath(path, folder)).as_posix())
