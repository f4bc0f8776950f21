"""What every verb shows: lines and tables that fit the terminal, and live bars.

A pipe or a file is as wide as ``$COLUMNS`` says, or 80 columns.
"""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from itertools import takewhile
from typing import Any, Self

import rich.progress
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table


class _Wrapper(textwrap.TextWrapper):
    """Breaks lines at spaces, and after the commas of an attack's settings; nowhere else."""

    wordsep_simple_re = re.compile(r"([\t\n\x0b\x0c\r ]+|(?<=,)(?=[a-z_]+=))")


def wrapped(text: str, width: int, indent: int | None = None) -> str:
    """A line as several that fit, but for words that are longer: what is copied stays whole.

    ``indent`` is that of the lines after the first; None for the column of what follows an indented
    word.
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


def paragraphs(text: str, width: int) -> str:
    """Text filled to a width; lines of a paragraph of which one is indented stay apart."""
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        lines = block.splitlines()
        whole = not any(line.startswith(" ") for line in lines)
        filled = [" ".join(lines)] if whole else lines
        blocks.append("\n".join(wrapped(line, width, 0 if whole else None) for line in filled))
    return "\n\n".join(blocks)


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


PLAIN_SECONDS = 30.0
"""Least time between two lines of progress where there is no terminal for a bar."""


class _Live:
    """A bar on a terminal, for as long as one is inside."""

    def __init__(self, console: Console, *columns: rich.progress.ProgressColumn):
        self.console, self.live = console, console.is_terminal and not console.quiet
        self._bar = rich.progress.Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            *columns,
            TimeRemainingColumn(),
            console=console,
            disable=not self.live,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        self._bar.stop()


class Progress(_Live):
    """Lines for people, and a bar on a terminal; a pipe gets a line of progress now and then."""

    def __init__(self):
        of_images = TextColumn("images  {task.fields[speed]}")
        super().__init__(make_console(), MofNCompleteColumn(), of_images)
        self._task, self._text = None, ""

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No bar for a while: a terminal has room for one, and training has its own."""
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()

    def line(self, text: str) -> None:
        show(self.console, text)

    def begin(self, text: str) -> None:
        """The bar starts again, for something else."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task, self._text = self._bar.add_task(text, total=None, speed=""), text
        self._start = self._told = time.monotonic()
        self._first: int | None = None

    def advance(self, done: int, total: int, text: str = "") -> None:
        """``done`` of ``total`` images; another text than before begins anew."""
        if text and text != self._text:
            self.begin(text)
        now = time.monotonic()
        if self._first is None:  # how many were there before is not known until now
            self._first, self._start = done, now
        seconds = now - self._start
        speed = f"{(done - self._first) / seconds:.1f} images/s" if done > self._first else ""
        self._bar.update(self._task, completed=done, total=total, speed=speed)
        if not self.live and now - self._told >= PLAIN_SECONDS and done < total:
            self._told = now
            self.line(f"  {done:,} of {total:,} images  {speed}")


class Report(_Live):
    """Of a training: prints on rank 0 and is silent on the others.

    The bar shows images/s, the loss and the time left, and only on a terminal; a pipe or a log
    file gets the header and one plain line an epoch.
    """

    def __init__(self, total_epochs: int, total_steps: int, enabled: bool = True):
        super().__init__(make_console(quiet=not enabled), TextColumn("{task.fields[status]}"))
        self.total_epochs = total_epochs
        self._task = self._bar.add_task("", total=total_steps, status="")
        self._widths: list[int] = []

    def line(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def step(self, epoch: int, step: int, speed: float, loss: float) -> None:
        """``step`` counts from the start of the run, ``speed`` is in images/s."""
        self._bar.update(
            self._task,
            completed=step,
            description=f"epoch {epoch + 1}/{self.total_epochs}",
            status=f"{speed:.0f} img/s  loss {loss:.3f}",
        )

    def epoch(self, record: Mapping[str, Any], evaluated: str) -> None:
        total = str(self.total_epochs)
        cells = {
            "epoch": f"{record['epoch']:>{len(total)}}/{total}",
            "lr": f"{record['lr']:.4f}",
            "train loss": f"{record['train/loss']:.4f}",
            "train %": f"{100 * record['train/acc1']:.2f}",
            f"{evaluated} loss": f"{record[f'{evaluated}/loss']:.4f}",
            f"{evaluated} %": f"{100 * record[f'{evaluated}/acc1']:.2f}",
        }
        if (accuracy := record.get(f"{evaluated}/robust_acc1")) is not None:
            cells["robust %"] = f"{100 * accuracy:.2f}"
        if "skipped_steps" in record:
            cells["skipped"] = f"{record['skipped_steps']}"
        cells |= {"img/s": f"{record['img_per_s']:.0f}", "sec": f"{record['epoch_s']:.1f}"}
        rows = [cells.values()]
        if not self._widths:
            self._widths = [max(len(name), len(cell)) for name, cell in cells.items()]
            rows.insert(0, cells.keys())
        for row in rows:
            self.line("  ".join(f"{c:>{w}}" for c, w in zip(row, self._widths, strict=True)))
