"""What commands say: parsers' messages, and lines and tables that fit the terminal.

A pipe or a file is as wide as ``$COLUMNS`` says, or 80 columns.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterator
from copy import copy
from itertools import takewhile

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Column, Table

from ..defective.errors import nearest

_KINDS = {"int": "a whole number", "float": "a finite number", "str": "text", "list": "a list"}


def tidy(message: str, parser: argparse.ArgumentParser) -> str:
    """One line of an argument parser's message, with the option that was perhaps meant."""
    line = " ".join(str(message).split())
    if "nrecognized arguments:" in line:
        word = line.split("nrecognized arguments:")[1].split()[0].split("=")[0]
        if not word.startswith("-"):
            several = parser._get_positional_actions()
            what = "that is one too many" if several else "takes options only, no arguments"
            return f"unexpected argument {word!r}: {what}"
        options = parser._option_string_actions
        known = [option for option in options if option.startswith("--") and "+" not in option]
        return f"unknown option {word!r}.{nearest(word, known)}"
    # What jsonargparse says of a value names Python's types.
    found = re.match(r'Parser key "(\w+)":.*?(?:Got value|Given value):(.*)', line)
    if not found:
        yes_no = re.match(r"argument (\S+)/\S+: invalid _boolean_type value: (.*)", line)
        return f"{yes_no[1]} is {yes_no[2]}; expected yes or no" if yes_no else line
    option, value = "--" + found[1].replace("_", "-"), found[2].strip()
    for choices in re.findall(r"Literal\[(.*?)\]", line):
        names = re.findall(r"'(.*?)'", choices)
        return f"{option} is {value!r}; expected one of {', '.join(names)}.{nearest(value, names)}"
    kinds = re.findall(r"Expected a <class '(\w+)'>", line)
    expected = " or ".join(_KINDS.get(kind, kind) for kind in kinds if kind != "NoneType")
    return f"{option} is {value!r}; expected {expected}"


class _Wrapper(textwrap.TextWrapper):
    """Breaks lines at spaces, and after the commas of an attack's settings; nowhere else."""

    wordsep_simple_re = re.compile(r"([\t\n\x0b\x0c\r ]+|(?<=,)(?=[a-z_]+=))")


def wrapped(text: str, width: int, indent: int | None = None) -> str:
    """A line as several that fit, but for words that are longer: what is copied stays whole.

    Args:
        indent: of the lines after the first; None for the column of what follows an indented word.
    """
    found = re.match(r" +\S+ +(?=\S)", text)
    # A long path stays beside its label.
    label = found[0] if found and len(found[0]) < 26 else ""
    if indent is None:
        indent = len(label or text[: -len(text.lstrip()) or None]) + 2 * (not label)
    wrapper = _Wrapper(
        width,
        initial_indent=label,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return wrapper.fill(text[len(label) :])


def make_console(**settings) -> Console:
    """For what people read. Text in brackets is text."""
    return Console(highlight=False, markup=False, emoji=False, **settings)


def show(console: Console, *views: RenderableType) -> None:
    """Print views; a table that is too wide in several parts, each with its first columns.

    No number is ever cut or broken. Columns without an entry are left out.
    """
    for view in views:
        if isinstance(view, Group):
            show(console, *view.renderables)
        elif isinstance(view, Table):
            for part in _parts(console, view):
                console.print(part)
        elif isinstance(view, str):
            console.print(wrapped(view, console.width), soft_wrap=True)
        else:
            console.print(view)


def _parts(console: Console, view: Table) -> Iterator[Table]:
    """The first columns of text are in each part; long texts are folded, numbers stay whole."""
    room = console.options.update_width(10_000)

    def size(column: Column) -> list[int]:
        """Its width, and the least one: names are folded at 24 columns, shorter words never."""
        cells = [Measurement.get(console, room, cell) for cell in (column.header, *column.cells)]
        natural = max(cell.maximum for cell in cells)
        return [min(natural, column.max_width or natural), min(24, max(c.minimum for c in cells))]

    columns = [c for c in view.columns if any(map(str, c.cells)) or not view.rows]
    keys = list(takewhile(lambda column: column.justify == "left", columns))
    if len(keys) == len(columns):
        yield _part(view, columns, [column.max_width for column in columns])
        return
    sizes, least = map(list, zip(*map(size, keys), strict=True)) if keys else ([], [])
    while sum(sizes) > console.width // 2 and any(map(int.__gt__, sizes, least)):
        widest = max(range(len(sizes)), key=lambda i: sizes[i] * (sizes[i] > least[i]))
        sizes[widest] -= 1
    rest = columns[len(keys) :]
    while rest:
        for count in range(len(rest), 0, -1):
            chosen = rest[:count]
            part = _part(view, keys + chosen, sizes + [c.max_width for c in chosen])
            if count == 1 or Measurement.get(console, room, part).maximum <= console.width:
                break
        rest = rest[count:]
        part.caption = None if rest else part.caption
        yield part


def _part(view: Table, columns: list[Column], sizes: list[int | None]) -> Table:
    part = copy(view)
    part.columns, part.rows = [], []
    for column, size in zip(columns, sizes, strict=True):
        part.add_column(column.header, justify=column.justify, overflow="fold", max_width=size)
    for row, cells in zip(view.rows, zip(*(c.cells for c in columns), strict=True), strict=True):
        part.add_row(*cells, style=row.style, end_section=row.end_section)
    return part


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Fills paragraphs, and keeps lines that are indented apart."""

    def _fill_text(self, text, width, indent):
        blocks = []
        for block in re.split(r"\n\s*\n", text.strip("\n")):
            lines = block.splitlines()
            whole = not any(line.startswith(" ") for line in lines)
            filled = [" ".join(lines)] if whole else lines
            blocks.append("\n".join(wrapped(line, width, 0 if whole else None) for line in filled))
        return "\n\n".join(blocks)
