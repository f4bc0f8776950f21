"""The results of an evaluation as a page of Markdown tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...defective.serialization import atomic_path
from .arranged import Arranged, Cell, Column
from .console import console_tables
from .labels import flat
from .markdown import ABSENT, by_target, code, escape, number, rate, settings, table
from .wording import (
    DEFINITIONS,
    INTERVALS,
    chosen_text,
    grid_text,
    levels,
    rate_text,
    verdict,
)

__all__ = ["console_tables", "markdown", "write_tables"]


def write_tables(cells: list[Cell], folder: Path) -> str:
    """:func:`markdown` of cells, also written to table.md in the folder (made if need be).

    Raises:
        UserError: a cell without a result that its kind must have. OSError: it cannot be written.
    """
    text = markdown(cells)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "table.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


def markdown(cells: list[Cell]) -> str:
    """A page with a section for each kind of result that there is; equal for equal cells.

    Args:
        cells: as :meth:`scotoma.train.robustness.cells.Cells.all` gives them, in any order.

    Raises:
        UserError: a cell without a result that its kind must have.
    """
    found = Arranged(cells)
    sections = [_clean, _transfer, _white_box, _boundary, _noise, _shuffle, _stylized]
    blocks = ["# Robustness"]
    for section in sections:
        blocks += section(found)
    blocks.append(INTERVALS if len(blocks) > 1 else "No results.")
    return "\n\n".join(blocks) + "\n"


def _clean(found: Arranged) -> list[str]:
    columns = found.columns("clean")
    if not columns or found.columns("transfer"):
        return []
    return ["## Clean accuracy", by_target(found, columns, rate("accuracy")), settings(columns)]


def _transfer(found: Arranged) -> list[str]:
    columns, clean = found.columns("transfer"), found.columns("clean")
    if not columns:
        return []

    def first(cell: Cell) -> str:
        if cell["kind"] == "clean":
            return rate_text(cell["results"]["accuracy"])
        known = cell["results"]["relation"]
        mark = "" if known == "transfer" else f", {escape(known)}"
        return rate_text(cell["results"]["defence"]) + mark

    further = {
        "P1 with fooling judged before the rounding to 8 bit": "defence_unrounded",
        "Share of the images of P1 to which the target gives the source's wrong class": (
            "same_wrong_class"
        ),
    }
    blocks = ["## Transfer", "\n".join(f"- {line}" for line in DEFINITIONS)]
    blocks += [
        f"{'Clean accuracy (of all test images) and s' if clean else 'S'}uccess defence rate (P1):",
        by_target(found, clean + columns, first),
    ]
    blocks.append("\n".join(f"- {escape(c.label)}: {_defends(c)}." for c in columns))
    blocks += ["All images (P2):", by_target(found, columns, rate("defence_all"))]
    for names, part in found.common():
        who = ", ".join(map(escape, names))
        blocks += [
            f"P1 on the images that all of {who} classify correctly:",
            by_target(found, part, rate("defence_common")),
        ]
    for words, name in further.items():
        if text := by_target(found, columns, rate(name)):
            blocks += [f"{words}:", text]
    fooled = [(c, c.results["fooled_source"]) for c in columns if "fooled_source" in c.results]
    if fooled:
        heads = ["attack", "source fooled"]
        rows = [[escape(column.label), rate_text(share)] for column, share in fooled]
        blocks += [
            "Of the images that the source classifies correctly, the share on which it is fooled:",
            table(heads, rows),
        ]
    return [*blocks, settings(clean + columns)]


def _defends(column: Column) -> str:
    results = {name: cell["results"] for name, cell in column.cells.items()}
    return escape(
        verdict(
            {name: each["defence"] for name, each in results.items()},
            {name: each["relation"] for name, each in results.items()},
        )
    )


def _white_box(found: Arranged) -> list[str]:
    columns = found.columns("white-box")
    if not columns:
        return []
    heads = ["target", "attack", "robust accuracy", "of those correct before"]
    heads += ["forward passes", "backward passes", "median L2", "median Linf / 255"]
    rows, verdicts = [], []
    for column in columns:
        for name, cell in column.cells.items():
            each = cell["results"]
            rates = rate_text(each["robust_accuracy"]), rate_text(each["defence"])
            passes = (number(each.get(f"{way}_mean"), ".1f") for way in ("forwards", "backwards"))
            sizes = number(each["median_l2"], ".4f"), number(each["median_linf"], ".2f", 255)
            rows.append([escape(name), escape(column.attack), *rates, *passes, *sizes])
        robust = {n: c["results"]["robust_accuracy"] for n, c in column.cells.items()}
        verdicts.append(f"- {escape(column.label)}: {escape(verdict(robust, verb='is best'))}.")
    return [
        "## White-box",
        "Robust accuracy is the share of all images that the target classifies correctly after "
        "the attack on itself; passes are means over all images, distances medians over those that "
        "the attack turns.",
        table(heads, rows, left=2),
        "\n".join(verdicts),
        settings(columns),
    ]


def _boundary(found: Arranged) -> list[str]:
    columns = found.columns("boundary")
    if not columns:
        return []
    heads = ["target", "attack", "median score", "mean score", "N", "images by status"]
    heads.append("forward passes")
    tables = []
    for column in columns:
        rows = []
        for name, cell in column.cells.items():
            each = cell["results"]
            scores = (number(each[f"score_{way}"], ".3g") for way in ("median", "mean"))
            statuses = ", ".join(
                f"{status.replace('_', ' ')} {n}" for status, n in sorted(each["statuses"].items())
            )
            row = [escape(name), escape(column.attack), *scores, str(each["n"]), escape(statuses)]
            rows.append([*row, number(each.get("forwards_mean"), ".1f")])
        tables += [escape(chosen_text(column.cells.values())), table(heads, rows, left=2)]
    return [
        "## Decision-based score",
        "The squared Euclidean distance of the adversarial image divided by the number of its "
        "values, pixels in [0,1] (Brendel et al., 2018); higher is more robust. A score is of the "
        "N images that the attack turned.",
        *tables,
        settings(columns),
    ]


def _noise(found: Arranged) -> list[str]:
    return _series(
        found,
        "## Gaussian noise",
        "Accuracy; each column is an epsilon = 2 sigma, in levels of 255. N counts images, each "
        "with the mean of its draws of the noise.",
        found.by("noise", "epsilon", "sigma"),
        levels,
    )


def _shuffle(found: Arranged) -> list[str]:
    words = "Accuracy on images whose patches, a grid of k x k, are put in a random order."
    groups = found.by("shuffle", "grid", "k")
    return _series(found, "## Shuffled patches", words, groups, grid_text)


def _series(
    found: Arranged,
    title: str,
    words: str,
    groups: list[tuple[dict, dict[Any, Column]]],
    text: Callable[[Any], str],
) -> list[str]:
    """Accuracies against a setting, a table for each group of otherwise equal settings."""
    blocks = [title, words] if groups else []
    for fixed, columns in groups:
        names = [n for n in found.targets if any(n in c.cells for c in columns.values())]
        rows = [[escape(n), *(_accuracy(column, n) for column in columns.values())] for n in names]
        cells = [cell for column in columns.values() for cell in column.cells.values()]
        blocks.append(escape(chosen_text(cells)))
        blocks.append(table(["target", *map(text, columns)], rows))
        shown = (f"{escape(key)} {code(value)}" for key, value in flat(fixed).items())
        blocks.append(f"Settings: {', '.join(shown) or 'none'}")
    return blocks


def _accuracy(column: Column, name: str) -> str:
    cell = column.cells.get(name)
    return rate_text(cell["results"]["accuracy"]) if cell else ABSENT


def _stylized(found: Arranged) -> list[str]:
    columns = found.columns("stylized")
    if not columns:
        return []
    blocks = ["## Stylised images"]
    for column in columns:
        blocks.append(escape(chosen_text(column.cells.values())))
        blocks.append(by_target(found, [column], rate("accuracy")))
    return [*blocks, settings(columns)]
