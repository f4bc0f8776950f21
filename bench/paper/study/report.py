"""A study's scores as a page and on a terminal.

The page numbers people in the order of their seeds; names stay on the terminal.
"""

from __future__ import annotations

import json

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from ....train.screen import make_console
from ....train.screen import show as say
from ...report.document import (
    Block,
    Bullets,
    Code,
    Details,
    Document,
    Heading,
    Paragraph,
    Strong,
    Table,
    clean,
)
from .intervals import Interval
from .origin import told
from .people import Person
from .picture import picture
from .score import CLAIM, PAPER, Scores

_LIMITS = (
    "The intervals are of 95 %, Student's over people: they say what other people would choose "
    "from these pairs, not what other networks or images would give. "
)
_HELD = (
    "Each person had pairs and sides of their own, as their seed draws them from the page: of all "
    "pairs each group is on the left as often as on the right, give or take one; who stopped early "
    "saw the first of them."
)
_NOT_HELD = (
    "The files were not held against the page that people answered (study-score --page): which "
    "pairs they saw on which sides is what the files say."
)
MOST_PAIRS = 10
_NONE = "-"


def document(scores: Scores) -> Document:
    """The page, its picture included; equal for equal scores. Render it with
    :mod:`scotoma.bench.report.markdown` or :mod:`scotoma.bench.report.html`."""
    return Document("User study", blocks(scores))


def blocks(scores: Scores) -> list[Block]:
    """What stands below the title."""
    groups = scores.head["groups"]
    found: list[Block] = [
        Paragraph(
            f"{scores.head['title']}. Group a: {groups['a']}; group b: {groups['b']}. "
            f"{told(scores.head['settings'])}"
        ),
        Paragraph((f"The claim that {CLAIM}: ", Strong(scores.verdict), f". {_reason(scores)}")),
        Bullets([f"{name}: {value}" for name, value in summary(scores)]),
        picture(scores),
        Heading(2, "People"),
        _people(scores),
        Paragraph(_LIMITS + (_HELD if scores.held else _NOT_HELD)),
    ]
    if scores.agreement:
        found.append(Details("Pairs about which most people agree", [_pairs(scores)]))
    settings = json.dumps(scores.head["settings"], sort_keys=True)
    details = [f"study {scores.study}", f"seed {scores.head['seed']}"]
    origin = Bullets([*details, ("settings ", Code(settings))])
    return [*found, Details("Where it comes from", [origin])]


def show(scores: Scores, console: Console | None = None) -> None:
    """Print people, figures, verdict and notes."""
    console = console or make_console()
    grid = Grid(box=SIMPLE_HEAD, show_edge=False)
    for name in ("person", "a", "b", "a - b", "left", "s per pair", ""):
        grid.add_column(name, justify="left" if name in ("person", "") else "right")
    for number, person in enumerate(scores.people, 1):
        name = clean(person.name) or f"person {number}"
        grid.add_row(*map(Text, (name, *_figures(person))))
    say(console, grid)
    for name, value in summary(scores):
        console.print(Text(f"  {name}: {value}"))
    console.print(Text(f"  {CLAIM}: ") + Text(scores.verdict, "bold") + Text(f"; {scores.reason}"))
    for note in scores.notes:
        console.print(Text(f"  note: {clean(note)}"))


def summary(scores: Scores) -> list[tuple[str, str]]:
    """(what, figure) of the whole study, as text."""
    more, less, equal = scores.prefer
    count, per_person = len(scores.counted), scores.head["per_person"]
    pooled, choices = scores.pooled
    published = PAPER.difference_of(per_person)
    left = interval(scores.left, percent)
    return [
        (
            "people who chose a more often",
            f"{more} of {count}, b {less}, both equally {equal} "
            f"(paper: {PAPER.prefer_a} of {PAPER.people})",
        ),
        (
            f"mean difference a - b of {per_person} pairs",
            f"{interval(scores.difference, signed)} (paper: {signed(published)})",
        ),
        ("share of a, mean over people", interval(scores.share, percent)),
        ("share of a in all choices", f"{percent(pooled / choices)} of {choices:,}"),
        ("sign test over people, two-sided", f"p = {scores.sign_p:.2g}"),
        ("left image chosen, mean over people", left),
    ]


def interval(value: Interval, text) -> str:
    """``mean [low, high]``, each number written by ``text``."""
    if value.low is None or value.high is None:
        return f"{text(value.mean)} (one person: no interval)"
    return f"{text(value.mean)} [{text(value.low)}, {text(value.high)}]"


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def signed(value: float) -> str:
    # Adding zero turns a rounded -0.0 into 0.0.
    return f"{round(value, 2) + 0:+.2f}"


def _reason(scores: Scores) -> str:
    return scores.reason[:1].upper() + scores.reason[1:] + "."


def _figures(person: Person) -> tuple[str, ...]:
    """a, b, difference, left, seconds, and what is to be known of a person."""
    some = person.answers > 0
    difference = f"{person.difference:+.4g}" if person.difference else "0"
    remark = "" if person.complete else f"{person.answers} of {person.asked} answers"
    remark += "" if person.counts else ", does not count"
    return (
        str(person.a),
        str(person.b),
        difference if person.counts else _NONE,
        percent(person.left / person.answers) if some else _NONE,
        f"{person.median_ms / 1000:.1f}" if some else _NONE,
        remark,
    )


def _people(scores: Scores) -> Table:
    names = ["person", "a", "b", "a - b", "left", "median s per pair", "remark"]
    rows = [[str(n), *_figures(person)] for n, person in enumerate(scores.people, 1)]
    return Table(names, rows)


def _pairs(scores: Scores) -> Table:
    rows = [
        [str(pair.pair), str(pair.a), str(pair.b), percent(pair.share)]
        for pair in scores.agreement[:MOST_PAIRS]
    ]
    return Table(["pair", "chose a", "chose b", "agree"], rows)
