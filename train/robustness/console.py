"""The results of an evaluation as tables of a terminal, as ``messages.show`` prints them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .arranged import Arranged, Cell, Column
from .wording import chosen_text, grid_text, interval, levels, short_rate, verdict

_ABSENT = "-"
_NAME = 28
# Widths of columns: of whole rates, and of accuracies above their intervals.
_RATES, _CURVE, _SCORE = 30, 14, 14


def console_tables(cells: Iterable[Cell]) -> list[RenderableType]:
    """Compact tables, with the verdicts below.

    Rates are in percent, with their 95 % intervals and N. Long names are folded, never cut.

    Raises:
        UserError: a cell without a result that its kind must have.
    """
    found = Arranged(cells)
    clean = [(column, "accuracy") for column in found.columns("clean")]
    transfer = found.columns("transfer")
    tables = []
    for title, pairs in (
        (
            "Clean accuracy (of all test images) and success defence rate (P1), %"
            if transfer and clean
            else "Success defence rate (P1), %"
            if transfer
            else "Clean accuracy, %",
            clean + [(column, "defence") for column in transfer],
        ),
        ("All images (P2), %", [(column, "defence_all") for column in transfer]),
        (
            "White-box robust accuracy, % of all images that were attacked",
            [(column, "robust_accuracy") for column in found.columns("white-box")],
        ),
        *(
            ("Stylised images, accuracy in %", [(column, "accuracy")])
            for column in found.columns("stylized")
        ),
    ):
        if pairs:
            tables.append(_rates(found, title, pairs))
    tables += [_scores(column) for column in found.columns("boundary")]
    noise, shuffle = found.by("noise", "epsilon", "sigma"), found.by("shuffle", "grid", "k")
    noisy = "Gaussian noise, accuracy in %; epsilon = 2 sigma in levels of 255"
    for title, groups, text in (
        (noisy, noise, lambda value: f"epsilon {levels(value)}"),
        ("Shuffled patches, accuracy in %", shuffle, grid_text),
    ):
        for _, columns in groups:
            tables.append(_curve(found, title, {text(v): c for v, c in columns.items()}))
    return tables


def _table(title: str, heads: Sequence[str], width: int) -> Table:
    made = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    made.add_column("target", overflow="fold", max_width=_NAME)
    for head in heads:
        made.add_column(Text(head), justify="right", overflow="fold", max_width=width)
    return made


def _fill(made: Table, found: Arranged, entries: dict[str, list[str]]) -> Table:
    """A row a target that has any entry, in order."""
    for name in found.targets:
        if any(entry != _ABSENT for entry in entries[name]):
            made.add_row(Text(name), *map(Text, entries[name]))
    return made


def _rates(found: Arranged, title: str, pairs: list[tuple[Column, str]]) -> RenderableType:
    """One column an attack, with a sentence for each below."""
    sentences = []
    for column, rate in pairs:
        if rate in ("defence", "robust_accuracy"):
            results = {name: cell["results"] for name, cell in column.cells.items()}
            rates = {name: each[rate] for name, each in results.items()}
            known = {name: each.get("relation", "") for name, each in results.items()}
            verb = "defends best" if rate == "defence" else "is best"
            sentences.append(f"{column.label}: {verdict(rates, known, verb)}.")
        if column.cells and column.results["shown"].get("right_for"):
            sentences.append(chosen_text(column.cells.values()))
    made = _table(title, [column.label for column, _ in pairs], _RATES)
    entries = {n: [_entry(c.cells.get(n), rate) for c, rate in pairs] for n in found.targets}
    return Group(_fill(made, found, entries), *(Text(sentence + "\n") for sentence in sentences))


def _entry(cell: Cell | None, rate: str) -> str:
    if cell is None:
        return _ABSENT
    relation = cell["results"].get("relation", "transfer")
    mark = f"\n{relation}" if rate == "defence" and relation != "transfer" else ""
    return short_rate(cell["results"][rate]) + mark


def _scores(column: Column) -> RenderableType:
    heads = ["median score", "mean score", "N", "forwards"]
    made = _table(f"Decision-based score: {column.label}", heads, _SCORE)
    for name, cell in column.cells.items():
        each = cell["results"]
        values = each["score_median"], each["score_mean"], each["n"], each.get("forwards_mean")
        made.add_row(Text(name), *(_value(v) for v in values))
    return Group(made, Text(chosen_text(column.cells.values()) + "\n"))


def _value(value: float | None) -> str:
    if value is None:
        return _ABSENT
    return f"{value:.3g}" if value < 1 else f"{value:,.0f}"


def _curve(found: Arranged, title: str, columns: dict[str, Column]) -> RenderableType:
    """Accuracies above their intervals; N below the table where it is the same for all."""
    cells = [cell for column in columns.values() for cell in column.cells.values()]
    rates = [cell["results"]["accuracy"] for cell in cells]
    counts = sorted({rate["n"] for rate in rates})
    several = len(counts) > 1
    made = _table(title, list(columns), _CURVE)
    note = ("" if several else f"N {counts[0]} each. ") + chosen_text(cells) + "\n"
    entries = {
        name: [_stacked(column.cells.get(name), several) for column in columns.values()]
        for name in found.targets
    }
    return Group(_fill(made, found, entries), Text(note))


def _stacked(cell: Cell | None, with_count: bool) -> str:
    if cell is None:
        return _ABSENT
    rate = cell["results"]["accuracy"]
    if rate["rate"] is None:
        return "no image\nleft N 0"
    count = f"\nN {rate['n']}" if with_count else ""
    return f"{100 * rate['rate']:.2f}\n{interval(rate)}{count}"
