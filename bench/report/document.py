"""A page as data: headings, paragraphs, lists, tables, pictures, folded parts.

Whatever comes from result files stands in plain strings here; the renderers escape it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ...train.config import PictureFormat


@dataclass(frozen=True)
class Code:
    """A name or command, in a fixed-width face."""

    text: str


@dataclass(frozen=True)
class Strong:
    text: str


@dataclass(frozen=True)
class Link:
    """To a file on this machine, written relative to the page."""

    text: str
    path: Path


@dataclass(frozen=True)
class Soft:
    """Words that stand back: smaller, and paler where the page can."""

    text: str


@dataclass(frozen=True)
class Badge:
    """A verdict, in a colour where the page can: ``tone`` is "good", "bad" or "open"."""

    text: str
    tone: str


@dataclass(frozen=True)
class Break:
    """A new line within a cell or an item."""


Span = str | Code | Strong | Link | Soft | Badge | Break
Inline = Span | tuple[Span, ...]


@dataclass(frozen=True)
class Heading:
    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    inline: Inline


@dataclass(frozen=True)
class Bullets:
    items: Sequence[Inline]


@dataclass(frozen=True)
class Table:
    """Columns whose name ends in a unit or count stand right; ``left`` ones do not.

    Attributes:
        names: of the columns. rows: as many cells each. left: how many first columns hold words.
        pinned: whether the first column stays in sight where the table is wider than the page.
    """

    names: Sequence[str]
    rows: Sequence[Sequence[Inline]]
    left: int = 1
    pinned: bool = False


@dataclass(frozen=True)
class Picture:
    """A page shows it as PNG, which every browser and GitHub can; another format lies beside.

    Attributes:
        name: of the PNG file. alt: what it shows, in words. figure: what is drawn.
        wide: whether it may be wider than lines of words, and than a narrow page.
        source: what it was made from, and by what; kept in its files. files: by format, those made
            so far.
    """

    name: str
    alt: str
    figure: Figure
    wide: bool = False
    source: str = ""
    files: dict[str, bytes] = field(default_factory=dict)

    def file(self, format: PictureFormat = "png") -> bytes:
        if format not in self.files:
            from ...train.plots import encoded  # matplotlib, of which pages know nothing

            self.files[format] = encoded(self.figure, format, self.source)
        return self.files[format]


@dataclass(frozen=True)
class Details:
    """Folded until asked for."""

    summary: str
    blocks: Sequence[Block]


Block = Heading | Paragraph | Bullets | Table | Picture | Details


@dataclass
class Document:
    title: str
    blocks: list[Block] = field(default_factory=list)

    def pictures(self) -> list[Picture]:
        return [block for block in walk(self.blocks) if isinstance(block, Picture)]


def walk(blocks: Sequence[Block]):
    """All blocks, those inside folded ones included."""
    for block in blocks:
        yield block
        if isinstance(block, Details):
            yield from walk(block.blocks)


def spans(inline: Inline) -> tuple[Span, ...]:
    return inline if isinstance(inline, tuple) else (inline,)


def clean(text: str) -> str:
    """One line of characters that can be written and seen.

    Control characters, line ends, lone surrogates and marks that turn the direction of writing
    become spaces.
    """
    seen = (" " if unicodedata.category(c) in _HIDDEN else c for c in text)
    return " ".join("".join(seen).split())


_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
