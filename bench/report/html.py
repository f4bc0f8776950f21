"""A page as one HTML file: pictures inside, nothing loaded, light and dark, printable."""

from __future__ import annotations

import html
from base64 import b64encode
from pathlib import Path

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
from .markdown import relative

LONG = 60
"""Characters of a table's cell, markup included, from which on its lines are broken."""

# The policy keeps a browser from loading or running anything, whatever the rows hold.
_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ --text: #1f2328; --soft: #59636e; --line: #d1d9e0; --band: #f6f8fa; --page: #ffffff;
  --link: #0757b0; --good: #116329; --bad: #a40e26; --open: #59636e; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --text: #e6e8eb; --soft: #a3acb6; --line: #3d444d; --band: #1b2027; --page: #11151a;
    --link: #79b8ff; --good: #6fdd8b; --bad: #ff9a94; --open: #a3acb6; }}
}}
/* As wide as the widest table, which scrolls by itself where the page is narrower. */
body {{ margin: 0 auto; padding: 1.5rem; box-sizing: border-box; width: fit-content;
  max-width: min(81rem, 100%); color: var(--text);
  background: var(--page); font: 16px/1.5 system-ui, sans-serif; }}
h1, h2, h3, h4 {{ line-height: 1.25; margin: 2rem 0 .7rem; }}
h1 {{ margin-top: 0; }}
h2 {{ padding-bottom: .3rem; border-bottom: 1px solid var(--line); }}
p, ul {{ max-width: 52rem; overflow-wrap: break-word; }}
a {{ color: var(--link); }}
nav ul {{ list-style: none; padding-left: 1.2rem; margin: 0; }}
nav > ul {{ padding-left: 0; columns: 18rem; }}
code {{ font: .875em ui-monospace, monospace; background: var(--band); padding: .1em .3em;
  border-radius: 4px; overflow-wrap: anywhere; }}
.wide {{ overflow-x: auto; margin: 1rem 0; }}
table {{ border-collapse: collapse; font-size: .8125rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .45rem; border: 1px solid var(--line); text-align: right;
  vertical-align: top; }}
td {{ white-space: nowrap; }}
td code {{ overflow-wrap: break-word; }}
.long {{ white-space: normal; min-width: 14rem; }}
th {{ background: var(--band); }}
.words {{ text-align: left; }}
.pinned th:first-child, .pinned td:first-child {{ position: sticky; left: 0;
  background: var(--band); }}
li:has(br) {{ margin-bottom: .6rem; }}
small {{ color: var(--soft); font-size: .92em; }}
.badge {{ font-weight: 600; padding: .05em .5em; border: 1px solid; border-radius: 1em;
  white-space: nowrap; }}
.good {{ color: var(--good); }}
.bad {{ color: var(--bad); }}
.open {{ color: var(--open); }}
img {{ max-width: 100%; background: #ffffff; border-radius: 6px; }}
.wide img {{ max-width: max(100%, 60rem); }}
summary {{ cursor: pointer; color: var(--soft); margin: .7rem 0; }}
@media print {{
  :root {{ --text: #000000; --soft: #333333; --line: #999999; --band: #eeeeee; --page: #ffffff;
    --link: #000000; --good: #000000; --bad: #000000; --open: #000000; }}
  body {{ width: auto; max-width: none; padding: 0; font-size: 11px; }}
  nav {{ display: none; }}
  .wide {{ overflow: visible; }}
  table {{ font-size: 8.5px; }}
  th, td {{ padding: .1rem .3rem; white-space: normal; }}
  .long {{ min-width: 0; }}
  .wide img {{ max-width: 100%; }}
  tr, img {{ break-inside: avoid; }}
  img {{ max-height: 23cm; }}
  h2, h3, h4 {{ break-after: avoid; }}
  details::details-content {{ content-visibility: visible; height: auto; }}
}}
</style>
</head>
<body>
"""


def render(document: Document, page: Path) -> str:
    """The page's text; links are relative to the folder of ``page``."""
    writer = _Writer(page.parent)
    body = [writer.block(block) for block in document.blocks]
    parts = [
        _HEAD.format(title=_text(document.title)),
        f"<h1>{_text(document.title)}</h1>",
        _contents(writer.headings),
        *body,
        "</body>\n</html>",
    ]
    return "\n".join(parts) + "\n"


def _contents(headings: list[tuple[int, str]]) -> str:
    """Links to the headings of the two upper levels."""
    lines, depth = ["<nav>"], 1
    for number, (level, text) in enumerate(headings):
        if level > 3:
            continue
        lines += ["<ul>"] * (level - depth) + ["</ul>"] * (depth - level)
        depth = level
        lines.append(f'<li><a href="#part-{number}">{_text(text)}</a></li>')
    return "\n".join([*lines, *["</ul>"] * (depth - 1), "</nav>"])


class _Writer:
    def __init__(self, folder: Path):
        self.folder = folder
        self.headings: list[tuple[int, str]] = []

    def block(self, block: Block) -> str:
        match block:
            case Heading(level, text):
                number = len(self.headings)
                self.headings.append((level, text))
                return f'<h{level} id="part-{number}">{_text(text)}</h{level}>'
            case Paragraph(inline):
                return f"<p>{self.inline(inline)}</p>"
            case Bullets(items):
                lines = "\n".join(f"<li>{self.inline(item)}</li>" for item in items)
                return f"<ul>\n{lines}\n</ul>"
            case Table(names, rows, left, pinned):
                return self.table(names, rows, left, pinned)
            case Picture(alt=alt, wide=wide):
                source = f"data:image/png;base64,{b64encode(block.file()).decode()}"
                image = f'<img alt="{_text(alt)}" src="{source}">'
                return f'<div class="wide">{image}</div>' if wide else f"<p>{image}</p>"
            case Details(summary, blocks):
                inside = "\n".join(map(self.block, blocks))
                head = f"<details>\n<summary>{_text(summary)}</summary>"
                return f"{head}\n{inside}\n</details>"
        raise TypeError(f"no block: {block!r}")

    def table(self, names, rows, left: int, pinned: bool) -> str:
        def cell(tag: str, number: int, inline: Inline) -> str:
            text = self.inline(inline)
            longest = max(map(len, text.split("<br>")))
            marks = ["words"] * (number < left) + ["long"] * (longest > LONG)
            mark = f' class="{" ".join(marks)}"' if marks else ""
            return f"<{tag}{mark}>{text}</{tag}>"

        def line(tag: str, cells) -> str:
            return f"<tr>{''.join(cell(tag, i, c) for i, c in enumerate(cells))}</tr>"

        head = line("th", names)
        body = "\n".join(line("td", row) for row in rows)
        table = f"<table>\n<thead>\n{head}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>"
        kind = "wide pinned" if pinned else "wide"
        return f'<div class="{kind}">\n{table}\n</div>'

    def inline(self, inline: Inline) -> str:
        return "".join(map(self.span, spans(inline)))

    def span(self, span) -> str:
        match span:
            case Code(text):
                return f"<code>{_text(text)}</code>"
            case Strong(text):
                return f"<strong>{_text(text)}</strong>"
            case Link(text, path):
                href = html.escape(relative(path, self.folder))
                return f'<a href="{href}">{_text(text)}</a>'
            case Soft(text):
                return f"<small>{_text(text)}</small>"
            case Badge(text, tone):
                return f'<span class="badge {_text(tone)}">{_text(text)}</span>'
            case Break():
                return "<br>"
        before, after = span[:1] == " ", span[-1:] == " "
        return " " * before + _text(span) + " " * after


def _text(text: str) -> str:
    return html.escape(clean(text))
