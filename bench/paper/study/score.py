"""``scotoma paper study-score``: what people chose, and what it says about the paper's claim."""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....defective.errors import UserError
from ....train.pages import Page, clean, code, strong, write_files
from ....train.settings import add_picture_format, make_parser
from ..budgets import BUDGETS
from ..judge import LEVEL, NOT_SUPPORTED, SUPPORTED, Estimate
from . import ROLES, Result, read_page, read_results

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.console import Console

CLAIM = "adversarial examples of defective networks look more like their predicted class"
NOT_DECIDABLE = "not decidable"
PEOPLE, PREFER_A, DIFFERENCE, PAIRS = 13, 13, 14, 50
"""What the paper reports (appendix B): people, how many chose more of the defective source's
images, and how many more of so many pairs on average."""
MINIMUM = 10
"""Answers from which on a person who stopped early counts."""
FEWEST = 6
"""People from which on the sign test can reach 0.05 at all: 2 / 2^6 = 0.03."""
_TEXT = """\
Evaluate the files that people saved at the end of the page of 'scotoma paper study'. With --page
files of another study are refused."""


# Counting.


def mean_interval(values: Sequence[float]) -> Estimate:
    """The mean of at least one value, each of another person, with Student's interval of 95 % for
    the mean over people like them; of one person, who tells nothing of how people differ, none."""
    mean, n = statistics.fmean(values), len(values)
    found = Estimate(mean, mean, mean, n, tuple(values))
    low, high = found.interval() if n > 1 else (None, None)
    return replace(found, low=low, high=high)


def sign_test(more: int, less: int) -> float:
    """Two-sided p: how often fair coins split ``more + less`` people as unevenly or more so.

    Exact binomial; whoever chose both equally often is left out beforehand.
    """
    from scipy.stats import binomtest

    return float(binomtest(more, more + less).pvalue) if more + less else 1.0


@dataclass(frozen=True)
class Scores:
    """What the results say.

    Attributes:
        head: of all results.
        people: one a row, ordered by seed: ``name`` as given, ``a`` and ``b``, how often each group
            was chosen, ``left``, how often the left image, ``answers`` of ``asked`` pairs, a - b as
            ``difference`` (of who stopped early, what it would be of all pairs at the same share),
            the median ``seconds`` of an answer, and whether the person ``counts``: for all below.
        difference: a - b of ``per_person`` pairs. share, left: of a, and of left images, among a
            person's choices, people weighing the same whatever they answered.
        prefer: how many people chose a more often, b more often, both equally often.
        agreement: (pair, who chose a, who chose b) of pairs that three people saw, those first
            about which the largest share agrees.
        verdict, reason: on :data:`CLAIM`. notes: what is odd about the results.
    """

    head: dict[str, Any]
    people: pd.DataFrame
    difference: Estimate
    share: Estimate
    left: Estimate
    prefer: tuple[int, int, int]
    agreement: list[tuple[int, int, int]]
    verdict: str
    reason: str
    notes: list[str]

    @property
    def published(self) -> float:
        """The paper's difference, of as many pairs."""
        return DIFFERENCE * self.head["per_person"] / PAIRS


def score(results: Sequence[Result], minimum: int = MINIMUM) -> Scores:
    """Count results as :func:`read_results` gives them.

    Args:
        minimum: answers that a person who stopped early must have given to count.

    Raises:
        UserError: nobody counts.
    """
    import pandas as pd

    head = results[0].head
    minimum = min(minimum, head["per_person"])
    people = pd.DataFrame([_person(result, minimum) for result in results])
    counted = people[people.counts]
    if counted.empty:
        less = ", or count those who stopped earlier with a smaller --minimum" * (minimum > 1)
        raise UserError(
            f"none of {len(people)} people gave {minimum} answers; ask more people{less}"
        )
    more, fewer = int((counted.a > counted.b).sum()), int((counted.a < counted.b).sum())
    votes = Counter(
        (answer.pair, answer.chosen) for n in counted.index for answer in results[n].answers
    )
    pairs = [(pair, votes[pair, "a"], votes[pair, "b"]) for pair in {pair for pair, _ in votes}]
    seen = [(pair, a, b) for pair, a, b in pairs if a + b >= 3]
    difference = mean_interval(counted.difference)
    verdict, reason = judge(difference, more, fewer, DIFFERENCE * head["per_person"] / PAIRS)
    if apart := why_apart(head["settings"]):
        verdict, reason = NOT_DECIDABLE, apart
    return Scores(
        head=head,
        people=people,
        difference=difference,
        share=mean_interval(counted.a / counted.answers),
        left=mean_interval(counted.left / counted.answers),
        prefer=(more, fewer, len(counted) - more - fewer),
        agreement=sorted(seen, key=lambda s: (-max(s[1:]) / sum(s[1:]), -sum(s[1:]), s[0])),
        verdict=verdict,
        reason=reason,
        notes=list(_notes(results, people, minimum)),
    )


def _person(result: Result, minimum: int) -> dict[str, Any]:
    answers, asked = result.answers, result.head["per_person"]
    a = sum(answer.chosen == "a" for answer in answers)
    b = len(answers) - a
    return {
        "name": result.person,
        "a": a,
        "b": b,
        "left": sum(answer.side == "left" for answer in answers),
        "answers": len(answers),
        "asked": asked,
        "difference": (a - b) * (asked / len(answers)) if answers else 0.0,
        "seconds": statistics.median([answer.ms for answer in answers] or [0]) / 1000,
        "counts": len(answers) >= max(1, minimum),
    }


def judge(difference: Estimate, more: int, less: int, published: float) -> tuple[str, str]:
    """(verdict on :data:`CLAIM`, why).

    Supported, if the interval of the mean difference lies above zero and the sign test agrees. Not
    supported, if the interval lies below zero; or if it holds zero and leaves out a difference as
    large as the paper's. All else needs more people.

    Args:
        difference: a - b over people. more, less: how many people chose a, b more often.
        published: the paper's difference, of as many pairs.
    """
    if difference.n < FEWEST:
        return NOT_DECIDABLE, (
            f"fewer than {FEWEST} people: even if all agreed, it might be chance; ask more"
        )
    sign = (difference.low > 0) - (difference.high < 0)
    significant = sign_test(more, less) < 1 - LEVEL
    of_people = ((more > less) - (more < less)) * significant
    if sign > 0 and of_people > 0:
        return SUPPORTED, "the interval lies above zero, and the sign test agrees"
    if sign < 0 and of_people <= 0:
        return NOT_SUPPORTED, "the interval lies below zero: people choose the other group"
    if sign == 0 and of_people <= 0 and difference.high < published:
        return NOT_SUPPORTED, (
            f"the interval holds zero, but not the {published:.3g} that the paper found"
        )
    if sign == 0 and of_people == 0:
        return NOT_DECIDABLE, "the interval holds zero and is wide; ask more people"
    return NOT_DECIDABLE, "the interval and the sign test do not agree; ask more people"


def why_apart(settings: Mapping[str, Any]) -> str:
    """Why the study decides nothing about the paper's; "" where it may.

    What settings do not name is not held against them: studies may be made in Python.
    """
    name = settings.get("budget", "full")
    budget = BUDGETS.get(name) if isinstance(name, str) else None
    if budget is None:
        return f"the budget {_word(name)} is none that this version knows"
    if not budget.decides:
        return (
            f"the budget {budget.name} trains small networks on other images: what people see in "
            "those says nothing about the paper's"
        )
    # A folder may hold the paper's images; another named data set does not.
    others = [
        f"{_word(label)} in place of {_word(role)}"
        for role, label in _data(settings).items()
        if role not in ROLES or label not in (role, "folder")
    ]
    if others:
        return f"the images are other ones than the paper's ({', '.join(others[:4])})"
    return ""


def _data(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    data = settings.get("data") or {}
    return data if isinstance(data, Mapping) else {"data": data}


def _word(value: object) -> str:
    return clean(str(value))[:60]


def _notes(results: Sequence[Result], people: pd.DataFrame, minimum: int) -> Iterable[str]:
    yield from (note for result in results for note in result.notes)
    same: dict[tuple, list[str]] = defaultdict(list)
    for result, person in zip(results, people.itertuples(), strict=True):
        told = f"{result.path.name}: {person.answers} of {person.asked} answers"
        if not person.counts:
            yield f"{told}, fewer than {minimum}; does not count"
            continue
        if person.answers < person.asked:
            yield f"{told}; the difference is scaled to {person.asked}"
        same[tuple(answer[:3] for answer in result.answers)].append(result.path.name)
    names = Counter(result.person for result in results if result.person)
    for name, count in sorted(names.items()):
        if count > 1:
            yield (
                f"{count} results carry the name {name!r}; if they are of one person, "
                "leave all but one out"
            )
    for files in same.values():
        if len(files) > 1:
            yield (
                f"{len(files)} results have the same answers to the same pairs in one order, "
                f"{files[0]} and {files[1]} among them; if they are copies, leave all but one out"
            )


# The report. It numbers people in the order of their seeds; names stay on the terminal.


def show(scores: Scores, console: Console | None = None) -> None:
    """Print people, figures, verdict and notes."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from ....train.screen import make_console
    from ....train.screen import show as say

    console = console or make_console()
    grid = Table(box=SIMPLE_HEAD, show_edge=False)
    for name in _FIGURES:
        grid.add_column(name, justify="left" if name in ("person", "remark") else "right")
    for name, (number, *figures) in zip(scores.people.name, _figures(scores), strict=True):
        grid.add_row(*map(Text, (clean(name) or f"person {number}", *figures)))
    say(console, grid)
    for line in summary(scores):
        console.print(Text(f"  {line}"))
    console.print(Text(f"  {CLAIM}: ") + Text(scores.verdict, "bold") + Text(f"; {scores.reason}"))
    for note in scores.notes:
        console.print(Text(f"  note: {clean(note)}"))


def page_of(scores: Scores, compared: bool, folder: Path = Path()) -> Page:
    """The page, its picture included; equal for equal scores.

    Args:
        compared: whether the results were compared with the page that people answered.
        folder: of the page.
    """
    head, settings = scores.head, scores.head["settings"]
    page = Page("User study", folder, "images/score")
    data = ", ".join(f"{_word(label)} as {_word(role)}" for role, label in _data(settings).items())
    page.paragraph(
        f"{head['title']}. Group a: {head['groups']['a']}; group b: {head['groups']['b']}. "
        f"Budget: {_word(settings.get('budget', 'not named'))}. Data: {data or 'not named'}."
    )
    reason = scores.reason[:1].upper() + scores.reason[1:]
    page.paragraph(f"The claim that {CLAIM}: ", strong(scores.verdict), f". {reason}.")
    page.bullets(summary(scores))
    alt = (
        f"Difference between choices of a and of b for each of {scores.difference.n} people; their "
        f"mean is {scores.difference.value:.1f}, the paper's {scores.published:.3g}"
    )
    page.picture("user-study", draw(scores), alt)
    page.heading("People")
    page.table((_FIGURES, _figures(scores)))
    page.paragraph(
        "The intervals are of 95 %, Student's over people: they say what other people would choose "
        "from these pairs, not what other networks or images would give. Each person had pairs and "
        "sides at random: of all pairs each group is on the left as often as on the right, give or "
        "take one; who stopped early saw the first of them."
    )
    if not compared:
        page.paragraph(
            "The files were not compared with the page that people answered (study-score --page)."
        )
    if scores.agreement:
        most = scores.agreement[:10]
        lines = ((*map(str, (pair, a, b)), _percent(max(a, b) / (a + b))) for pair, a, b in most)
        with page.folded("Pairs about which most people agree"):
            page.table((["pair", "chose a", "chose b", "agree"], lines))
    with page.folded("Where it comes from"):
        made = ("settings ", code(json.dumps(settings, sort_keys=True)))
        page.bullets([f"study {head['study']}", f"seed {head['seed']}", made])
    return page


def summary(scores: Scores) -> list[str]:
    """Figures of the whole study."""
    more, less, equal = scores.prefer
    counted = scores.people[scores.people.counts]
    choices = counted.answers.sum()
    of_people = f"{more} of {more + less + equal}, b {less}, both equally {equal}"
    difference = _between(scores.difference, _signed)
    return [
        f"people who chose a more often: {of_people} (paper: {PREFER_A} of {PEOPLE})",
        f"mean difference a - b of {scores.head['per_person']} pairs: {difference} "
        f"(paper: {_signed(scores.published)})",
        f"share of a, mean over people: {_between(scores.share, _percent)}",
        f"share of a in all choices: {_percent(counted.a.sum() / choices)} of {choices:,}",
        f"sign test over people, two-sided: p = {sign_test(more, less):.2g}",
        f"left image chosen, mean over people: {_between(scores.left, _percent)}",
    ]


def _between(value: Estimate, text: Callable[[float], str]) -> str:
    """``mean [low, high]``, each number written by ``text``."""
    if value.low is None or value.high is None:
        return f"{text(value.value)} (one person: no interval)"
    return f"{text(value.value)} [{text(value.low)}, {text(value.high)}]"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _signed(value: float) -> str:
    # Adding zero turns a rounded -0.0 into 0.0.
    return f"{round(value, 2) + 0:+.2f}"


_FIGURES = ("person", "a", "b", "a - b", "left", "median s per pair", "remark")


def _figures(scores: Scores) -> Iterable[tuple[str, ...]]:
    """What is told of each person, numbered from 1."""
    for number, person in enumerate(scores.people.itertuples(), 1):
        difference = f"{person.difference:+.4g}" if person.difference else "0"
        remark = f"{person.answers} of {person.asked} answers" * (person.answers < person.asked)
        yield (
            *map(str, (number, person.a, person.b)),
            difference if person.counts else "-",
            _percent(person.left / person.answers) if person.answers else "-",
            f"{person.seconds:.1f}" if person.answers else "-",
            remark + ("" if person.counts else ", does not count"),
        )


def draw(scores: Scores) -> Figure:
    """A dot for each person that counts: a - b, with mean and interval, zero, the paper's mean."""
    from ....train import plots

    people = scores.people[scores.people.counts].sort_values("difference", kind="stable")
    people = people.reset_index(drop=True)
    of, published = scores.difference, scores.published
    figure = plots.new((7.0, 1.9 + 0.17 * len(people)))
    axes = figure.subplots()
    if of.low is not None:
        axes.axvspan(of.low, of.high, color="#cfcfcf", alpha=0.7, lw=0, label="95 % interval")
    axes.axvline(0, color="#777777", linewidth=1)
    axes.axvline(of.value, color="#000000", linewidth=2, label=f"mean {of.value:+.1f}")
    look = {"color": "#b84a00", "linewidth": 2, "linestyle": "--"}
    axes.axvline(published, label=f"paper's mean {published:+.3g}", **look)
    complete = people.answers == people.asked
    for part, label, fill in (
        (people[complete], "a person", plots.RIGHT),
        (people[~complete], "a person who stopped early", "white"),
    ):
        if len(part):
            look = {"color": plots.RIGHT, "markerfacecolor": fill}
            axes.plot(part.difference, part.index, "o", label=label, **look)
    axes.set_yticks([])
    axes.set_ylim(-0.8, len(people) - 0.2)
    largest = max(published, people.difference.abs().max())
    axes.set_xlim(-1.12 * largest, 1.12 * largest)
    words = f"chosen from a, less chosen from b, of {scores.head['per_person']} pairs"
    axes.set_xlabel(words, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return figure


# The verb.


def main(argv: list[str]) -> int:
    """Print statistics and write a page.

    Raises:
        UserError: a file that is no result, results of different studies, a page that is none,
            nobody who counts, or no place to write to.
    """
    parser = make_parser("paper study-score", _TEXT)
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="result files, or folders of them")
    told = "that people answered, as 'scotoma paper study' wrote it"
    add("--page", type=Path, metavar="index.html", help=told)
    told = "answers from which on a person who stopped early counts"
    add("--minimum", type=int, default=MINIMUM, metavar="N", help=told)
    add("--out", default="study-score", help="folder for the page, as Markdown and HTML")
    add_picture_format(parser, "also write the picture in this format")
    arguments = parser.parse_args(argv)
    out = Path(arguments.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; give a folder")
    if arguments.minimum < 1:
        raise UserError(f"--minimum is {arguments.minimum}; expected 1 or more")
    asked = None if arguments.page is None else read_page(arguments.page)
    scores = score(read_results(arguments.files, asked), arguments.minimum)
    show(scores)
    page = page_of(scores, compared=asked is not None, folder=out)
    web = out / "score.html"
    write_files(page.files(out / "score.md", web, arguments.picture_format))
    print(f"page {web}")
    return 0
