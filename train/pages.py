"""A page for people, written once: GitHub's Markdown, and one HTML file that loads nothing.

    page = Page("Table 4", folder)
    page.heading("Numbers")
    page.paragraph(strong("Budget smoke:"), " shows that the machinery works.")
    page.table(frame)  # pandas; cells are words, or what strong() and others below return
    with page.folded("Intervals"):
        page.bullets(["first", (badge("supported", "good"), " ", soft("by 2,000 images"))])
    page.picture("heatmap", figure, "Table 4 as a heat map", wide=True)
    write_files(page.files(folder / "index.md", folder / "index.html"))

Every plain string is words: whatever it holds (it may come from a file that somebody else wrote),
none of it is markup, a link, a formula or a way to break a table. Only :class:`Markup`, which the
functions of this module return, is taken as it is. HTML is made from the Markdown.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, get_args
from urllib.parse import quote, unquote

from ..defective.errors import UserError
from ..defective.serialization import atomic_path
from .config import PictureFormat

if TYPE_CHECKING:  # imported by who has such objects
    import pandas as pd
    from matplotlib.figure import Figure

LONG = 60
"""Characters of a table's cell, markup included, from which on HTML breaks its lines."""
_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$&@#])|(?<=[a-z])(:)(?=//)|(?<=www)(\.)", re.IGNORECASE)
_OPENING = re.compile(r"^([-+=]|\d+(?=[.)](\s|$)))")  # what would begin a list or a rule
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # Unicode's categories


class Markup(str):
    """Markdown of ours, for within a line."""


Inline = str | Markup | tuple["Inline", ...]
Lines = tuple[Sequence[str], Iterable[Sequence[Inline | None]]]
BREAK = Markup("<br>")
"""A new line within a cell or an item."""


def clean(text: str) -> str:
    """One line of characters that can be seen: control characters, line ends, lone surrogates and
    marks that turn the direction of writing become spaces."""
    seen = (" " if unicodedata.category(c) in _HIDDEN else c for c in text)
    return " ".join("".join(seen).split())


def inline(words: Inline) -> Markup:
    """Words that stand for themselves; a tuple's parts are joined, spaces at their ends kept."""
    if isinstance(words, Markup):
        return words
    if isinstance(words, tuple):
        return Markup("".join(map(inline, words)))
    words = str(words)
    inside = _SPECIAL.sub(lambda m: "\\" + m[0], clean(words))
    return Markup(" " * (words[:1] == " ") + inside + " " * (words[-1:] == " " and bool(inside)))


def strong(words: Inline) -> Markup:
    return _tagged("**", inline(words).strip(), "**")


def soft(words: Inline) -> Markup:
    """Words that stand back: smaller, and paler where the page can."""
    return _tagged("<small>", inline(words).strip(), "</small>")


def badge(words: str, tone: str) -> Markup:
    """A verdict, in a colour where the page can: ``tone`` is "good", "bad" or "open"."""
    return _tagged(f'<b class="badge {tone}">', inline(words).strip(), "</b>")


def code(text: str) -> Markup:
    """A name or command, in a fixed-width face."""
    text = clean(text)
    if "|" in text:  # cells are parted before code is read, and a backslash in code is itself
        return _tagged("<code>", inline(text), "</code>")
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return _tagged(fence + pad, text, pad + fence)


def joined(parts: Iterable[Inline], between: Inline = BREAK) -> Markup:
    """Parts, on a line each or with other words between them."""
    return Markup(inline(between).join(map(inline, parts)))


def _tagged(before: str, inside: str, after: str) -> Markup:
    return Markup(f"{before}{inside}{after}" if inside else "")


@dataclass
class Picture:
    """Attributes: draw: what makes it. wide: whether it may be wider than a narrow page."""

    draw: Callable[[], Figure]
    wide: bool
    files: dict[str, bytes] = field(default_factory=dict)  # those drawn so far

    def file(self, format: PictureFormat = "png") -> bytes:
        from .plots import encoded  # matplotlib, which a page without pictures does not need

        if format not in self.files:
            self.files[format] = encoded(self.figure, format)
        return self.files[format]

    @cached_property
    def figure(self) -> Figure:
        return self.draw()


class Page:
    """Headings, paragraphs, lists, tables, folded parts and pictures, in the order of the calls.

    Args:
        folder: of the Markdown file. images: where its pictures are, below ``folder``.
    """

    def __init__(self, title: str, folder: Path = Path(), images: str = "images"):
        self.title, self.folder, self.images = title, folder, images
        self.blocks: list[str] = []  # of Markdown
        self.pictures: dict[str, Picture] = {}  # by path below the folder, without an ending

    def heading(self, words: str, level: int = 2) -> None:
        self.blocks.append(f"{'#' * level} {inline(words)}")

    def paragraph(self, *words: Inline) -> None:
        self.blocks.append(_start(words))

    def bullets(self, items: Iterable[Inline]) -> None:
        """A list; nothing if there are no items."""
        lines = [f"- {_start(item)}" for item in items]
        self.blocks += ["\n".join(lines)] if lines else []

    def table(self, frame: pd.DataFrame | Lines, words: int = 1, missing: str = "-") -> None:
        """A table; of a frame the index is the first columns if it has a name.

        Args:
            frame: of words or markup; or (names of columns, lines of cells), without pandas.
            words: how many first columns stand left; a single one stays in sight while others
                scroll.
            missing: what stands for None and NaN.
        """
        if not isinstance(frame, tuple):
            named = any(name is not None for name in frame.index.names)
            frame = frame.reset_index() if named else frame
            frame = frame.columns, frame.itertuples(index=False, name=None)
        names, cells = [inline(str(name)) for name in frame[0]], frame[1]
        lines = [names, ["---" if i < words else "---:" for i in range(len(names))]]
        for line in cells:
            there = (missing if c is None or c != c else c for c in line)
            lines.append([inline(cell) for cell in there])
        self.blocks.append("\n".join(f"| {' | '.join(line)} |" for line in lines))

    def picture(
        self, name: str, figure: Figure | Callable[[], Figure], alt: str, wide: bool = False
    ) -> None:
        """A picture; pages show it as PNG, which every browser and GitHub can.

        Args:
            name: of its file, without an ending. alt: what it shows, in words.
            figure: or what draws it, which is asked only when files are made.
            wide: whether it may be wider than a narrow page.
        """
        draw = figure if callable(figure) else lambda: figure
        self.pictures[f"{self.images}/{name}"] = Picture(draw, wide)
        self.blocks.append(f"![{inline(alt)}]({quote(f'{self.images}/{name}.png')})")

    @contextmanager
    def folded(self, summary: str) -> Iterator[None]:
        """What is added inside is folded until asked for."""
        self.blocks.append(f"<details>\n<summary>{html.escape(clean(summary))}</summary>")
        yield
        self.blocks.append("</details>")

    def link(self, words: str, path: Path) -> Markup:
        """To a file on this machine, written relative to the page."""
        return Markup(f"[{inline(words)}]({_relative(path, self.folder)})")

    def markdown(self) -> str:
        return "\n\n".join([f"# {inline(self.title)}", *self.blocks]) + "\n"

    def html(self, folder: Path | None = None) -> str:
        """The page in one file, pictures inside: light and dark, printable, without scripts; for
        ``folder``, if that is not the Markdown's."""
        from jinja2 import Environment
        from markdown_it import MarkdownIt
        from markupsafe import Markup as Safe

        parser = MarkdownIt("commonmark", {"html": True}).enable("table")
        parser.add_render_rule("table_open", _scrolling)
        parser.add_render_rule("table_close", lambda *_: "</table>\n</div>\n")
        tokens = parser.parse("\n\n".join(self.blocks))
        contents = []
        for number, token in enumerate(tokens):
            if token.type == "heading_open":
                token.attrSet("id", f"part-{number}")
                words = Safe(parser.renderInline(tokens[number + 1].content))
                contents.append((token.tag, f"part-{number}", words))
            elif token.type == "td_open" and _longest(tokens[number + 1].content) > LONG:
                token.attrSet("class", "long")
            for child in token.children or ():
                self._place(child, folder)
        template = Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8")
        shell = Environment(autoescape=True).from_string(template)
        return shell.render(
            title=clean(self.title),
            digest=self.digest(),
            contents=[entry for entry in contents if entry[0] in ("h2", "h3")],
            body=Safe(parser.renderer.render(tokens, parser.options, {})),
        )

    def _place(self, token, folder: Path | None) -> None:
        """A picture's bytes where its path stood, and links as seen from ``folder``."""
        if token.type == "image":
            picture = self.pictures[unquote(token.attrs["src"]).removesuffix(".png")]
            data = base64.b64encode(picture.file()).decode()
            token.attrSet("src", f"data:image/png;base64,{data}")
            token.attrs |= {"class": "wide"} if picture.wide else {}
        elif token.type == "link_open" and folder is not None:
            target = self.folder / unquote(token.attrs["href"])
            token.attrSet("href", _relative(target, folder))

    def digest(self) -> str:
        """Of the Markdown; it stands in the HTML, so that one can tell what this was made from."""
        return hashlib.sha256(self.markdown().encode()).hexdigest()

    def files(
        self, markdown: Path, web: Path | None = None, picture_format: PictureFormat = "png"
    ) -> dict[Path, bytes]:
        """What :func:`write_files` takes, pictures first: no page is to name one that is not there.
        Beside PNG files there are those of ``picture_format``."""
        found = {
            self.folder / f"{name}.{each}": picture.file(each)
            for name, picture in self.pictures.items()
            for each in dict.fromkeys(("png", picture_format))
        }
        found[markdown] = self.markdown().encode()
        if web is not None:
            found[web] = self.html(web.parent).encode()
        return found


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write files, each of which is whole or not there, and remove pictures of former pages: what a
    Markdown file of the same name showed and is not among ``files``, in every format.

    Raises UserError if a file cannot be written.
    """
    path = Path()
    try:
        former = [old for path in files for old in _former(path) if old not in files]
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                temporary.write_bytes(data)
        for path in former:
            path.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{error.filename or path} cannot be written: {reason}; give another --out"
        ) from error


def _former(page: Path) -> Iterator[Path]:
    """Files of the pictures that a page shows as it is now."""
    if page.suffix != ".md" or not page.is_file():
        return
    text = page.read_text(encoding="utf-8", errors="replace")
    name = r"[\w-][\w.-]*"
    for stem in re.findall(rf"^!\[.*\]\((images/(?:{name}/)?{name})\.png\)$", text, re.M):
        yield from (page.parent / f"{stem}.{format}" for format in get_args(PictureFormat))


def _start(words: Inline) -> str:
    """Words at the start of a block."""
    text = inline(words).lstrip()
    return _OPENING.sub(lambda m: m[0] + "\\" if m[0].isdigit() else "\\" + m[0], text)


def _relative(path: Path, folder: Path) -> str:
    """A link's target."""
    return quote(Path(os.path.relpath(path, folder)).as_posix())


def _longest(cell: str) -> int:
    return max(map(len, cell.split("<br>")))


def _scrolling(renderer, tokens: list, number: int, options, env) -> str:
    """A table's beginning: in a frame in which it scrolls, its first column perhaps in sight."""
    head = [token for token in tokens[number : number + 9] if token.type == "th_open"]
    pinned = ["style" in token.attrs for token in head[:2]] == [False, True]
    return f'<div class="scrolls{" pinned" * pinned}">\n<table>\n'
