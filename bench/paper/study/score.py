"""``scotoma paper study-score``: what people chose, and what it says about the paper's claim."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ....defective.errors import UserError
from ....train.pages import Page, clean, code, strong, write_files
from ....train.settings import Parser, add_picture_format, make_parser
from ..budgets import BUDGETS
from ..judge import LEVEL, NOT_SUPPORTED, SUPPORTED, student

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.console import Console

    from .study import Study

CLAIM = "adversarial examples of defective networks look more like their predicted class"
NOT_DECIDABLE = "not decidable"
PEOPLE, PREFER_A, DIFFERENCE, PAIRS = 13, 13, 14, 50
"""What the paper reports (appendix B): people, how many chose more of the defective source's
images, and how many more of so many pairs on average."""
FORMAT = 1
"""Of pages and results; another one is another study."""
ROLES = ("cifar10", "tiny-imagenet")
"""The data sets of the paper's study."""
MINIMUM = 10
"""Answers from which on a person who stopped early counts."""
FEWEST = 6
"""People from which on the sign test can reach 0.05 at all: 2 / 2^6 = 0.03."""
_LARGEST = 2**20
"""Bytes of a result; one with 1,000 answers has a tenth of it."""
_HEAD = ("title", "groups", "settings", "seed", "per_person")
_TEXT = """\
Evaluate the files that people saved at the end of the page of 'scotoma paper study'. With --page
files of another study are refused."""


# The files that people saved.


class Answer(NamedTuple):
    """Attributes: pair: its number. a_side: where the first image stood. chosen: "a" or "b".
    side: where the chosen one stood. ms: milliseconds from showing to choosing."""

    pair: int
    a_side: str
    chosen: str
    side: str
    ms: float


@dataclass(frozen=True)
class Result:
    """One person's answers.

    Attributes:
        path: of the file. study: digest of the study. head: the study's title, groups, settings,
            seed and per_person. person: the name given, may be empty. person_seed: stands for the
            person. answers: in the order of asking. notes: what a reader should know of the file.
    """

    path: Path
    study: str
    head: dict[str, Any]
    person: str
    person_seed: str
    answers: tuple[Answer, ...]
    notes: tuple[str, ...] = ()


def read_results(paths: Iterable[Path | str], study: Study | str | None = None) -> list[Result]:
    """The results in files, and in folders all ``*.json``, one a person, ordered by seed.

    Of a person whose answers were saved twice, the longer file counts, with a note.

    Args:
        study: or its digest; if given, results must be of it.

    Raises:
        UserError: a file is no result, or results do not fit together.
    """
    results = [_read(path) for path in _files(paths)]
    first = results[0]
    digest = study if study is None or isinstance(study, str) else study.digest
    for other in results:
        if digest is not None and other.study != digest:
            raise UserError(
                f"{other.path} is of study {other.study}, not of this one, {digest}; give the "
                "results of the page that was made from this study"
            )
        if other.study != first.study or other.head != first.head:
            raise UserError(
                f"results of different studies: {first.path} is of {first.study}, {other.path} of "
                f"{other.study}; score each study by itself"
            )
    kept: dict[str, Result] = {}
    for result in sorted(results, key=lambda r: (-len(r.answers), str(r.path))):
        longer = kept.setdefault(result.person_seed, result)
        if longer is result:
            continue
        if result.answers != longer.answers[: len(result.answers)]:
            raise UserError(
                f"{longer.path} and {result.path} are of one person (seed {result.person_seed}) "
                "with different answers; keep the one that counts"
            )
        note = f"{longer.path.name} was saved again as {result.path.name}, which does not count"
        kept[result.person_seed] = replace(longer, notes=(*longer.notes, note))
    return sorted(kept.values(), key=lambda result: result.person_seed)


def _files(paths: Iterable[Path | str]) -> list[Path]:
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        files = [path]
        if path.is_dir():
            files = sorted(file for file in path.glob("*.json") if file.is_file())
            if not files:
                raise UserError(
                    f"{path} holds no results (*.json); put the files there that people saved"
                )
        for file in files:
            found.setdefault(file.resolve(), file)
    if not found:
        raise UserError("no results; give the files that people saved, or their folder")
    return list(found.values())


def _read(path: Path) -> Result:
    """Raises UserError, naming the file and what is wrong with it."""
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"larger than {_LARGEST:,} bytes")
        # With or without the mark that some editors put before a text.
        return _result(path, json.loads(path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
    except KeyError as error:
        reason = f"lacks {error}"
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = f"no result, or damaged ({' '.join(str(error).split())[:200]})"
    raise UserError(f"{path}: {reason}; expected a file study-*.json as the page saved it")


def _result(path: Path, found: Mapping[str, Any]) -> Result:
    if found["format"] != FORMAT:
        raise ValueError(f"format is {found['format']!r}; this version reads {FORMAT}")
    head = {key: found[key] for key in _HEAD}
    words = [found["study"], found["person"], found["person_seed"], head["title"]]
    words += [head["groups"]["a"], head["groups"]["b"]]
    if not all(isinstance(each, str) for each in words) or not isinstance(head["settings"], dict):
        raise ValueError("names, title, groups or settings are none")
    asked, answers = head["per_person"], [_answer(each) for each in found["answers"]]
    if type(asked) is not int or not max(1, len(answers)) <= asked <= 10**6:
        raise ValueError(f"{len(answers)} answers of {asked!r}")
    if len({answer.pair for answer in answers}) < len(answers):
        raise ValueError("two answers to one pair")
    return Result(path, found["study"], head, found["person"], found["person_seed"], tuple(answers))


def _answer(found: Mapping[str, Any]) -> Answer:
    answer = Answer(**found)
    fits = {answer.a_side, answer.side} <= {"left", "right"} and answer.chosen in ("a", "b")
    numbers = type(answer.pair) is int and isinstance(answer.ms, int | float)
    numbers = numbers and 0 <= answer.ms <= 2**53
    if not fits or not numbers or (answer.chosen == "a") != (answer.side == answer.a_side):
        raise ValueError(f"an answer is {dict(found)}")
    return answer


def read_page(path: str | Path) -> str:
    """The digest of the study that a page asks. Raises UserError: the file is no such page."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        data = re.search(r'<script type="application/json" id="study">(.*?)</script>', text)
        digest = json.loads(data[1])["digest"]
        if not isinstance(digest, str):
            raise ValueError("no digest")
        return digest
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
    except (ValueError, TypeError, KeyError, RecursionError):
        reason = "no page of a study"
    raise UserError(f"{path}: {reason}; expected the page as 'scotoma paper study' wrote it")


# Counting.


class Interval(NamedTuple):
    """A mean over n people, with Student's interval of 95 % for the mean over people like them.

    Attributes:
        low, high: None for fewer than two people, who tell nothing of how people differ.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def sign(self) -> int:
        """1 or -1 if the interval lies above or below zero, 0 if it does not or there is none."""
        if self.low is None or self.high is None:
            return 0
        return (self.low > 0) - (self.high < 0)


def mean_interval(values: Sequence[float]) -> Interval:
    """Of at least one value, each of another person."""
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return Interval(mean, None, None, n)
    half = student(LEVEL, n - 1) * statistics.stdev(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


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
        study, head: of all results.
        people: one a row, ordered by seed: ``name`` as given, ``a`` and ``b``, how often each group
            was chosen, ``left``, how often the left image, ``answers`` of ``asked`` pairs, a - b as
            ``difference`` (of who stopped early, what it would be of all pairs at the same share),
            the median ``seconds`` of an answer, and whether the person ``counts``: for means.
        difference: a - b of ``per_person`` pairs. share: a's share of a person's choices, people
            weighing the same whatever they answered. pooled: (choices of a, choices). left: share
            of left images. prefer: how many people chose a more often, b more often, both equally
            often. sign_p: of the sign test over them.
        agreement: (pair, who chose a, who chose b) of pairs that three people saw, those first
            about which the largest share agrees.
        verdict, reason: on :data:`CLAIM`. notes: what is odd about the results.
    """

    study: str
    head: dict[str, Any]
    people: pd.DataFrame
    difference: Interval
    share: Interval
    pooled: tuple[int, int]
    left: Interval
    prefer: tuple[int, int, int]
    sign_p: float
    agreement: list[tuple[int, int, int]]
    verdict: str
    reason: str
    notes: tuple[str, ...]

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

    results = sorted(results, key=lambda result: result.person_seed)
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
    votes: dict[int, Counter[str]] = defaultdict(Counter)
    for result, counts in zip(results, people.counts, strict=True):
        for answer in result.answers if counts else ():
            votes[answer.pair][answer.chosen] += 1
    seen = [(pair, v["a"], v["b"]) for pair, v in votes.items() if v.total() >= 3]
    difference = mean_interval(counted.difference)
    verdict, reason = judge(difference, more, fewer, DIFFERENCE * head["per_person"] / PAIRS)
    if apart := why_apart(head["settings"]):
        verdict, reason = NOT_DECIDABLE, apart
    return Scores(
        study=results[0].study,
        head=head,
        people=people,
        difference=difference,
        share=mean_interval(counted.a / counted.answers),
        pooled=(int(counted.a.sum()), int(counted.answers.sum())),
        left=mean_interval(counted.left / counted.answers),
        prefer=(more, fewer, len(counted) - more - fewer),
        sign_p=sign_test(more, fewer),
        agreement=sorted(seen, key=lambda s: (-max(s[1:]) / sum(s[1:]), -sum(s[1:]), s[0])),
        verdict=verdict,
        reason=reason,
        notes=tuple(_notes(results, people, minimum)),
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


def judge(difference: Interval, more: int, less: int, published: float) -> tuple[str, str]:
    """(verdict on :data:`CLAIM`, why).

    Supported, if the interval of the mean difference lies above zero and the sign test agrees. Not
    supported, if the interval lies below zero; or if it holds zero and leaves out a difference as
    large as the paper's. All else needs more people.

    Args:
        difference: a - b over people. more, less: how many people chose a, b more often.
        published: the paper's difference, of as many pairs.
    """
    significant = sign_test(more, less) < 1 - LEVEL
    signs = ((more > less) - (more < less)) * significant
    if difference.n < FEWEST:
        return NOT_DECIDABLE, (
            f"fewer than {FEWEST} people: even if all agreed, it might be chance; ask more"
        )
    if difference.sign > 0 and signs > 0:
        return SUPPORTED, "the interval lies above zero, and the sign test agrees"
    if difference.sign < 0 and signs <= 0:
        return NOT_SUPPORTED, "the interval lies below zero: people choose the other group"
    if difference.sign == 0 and signs <= 0 and difference.high < published:
        return NOT_SUPPORTED, (
            f"the interval holds zero, but not the {published:.3g} that the paper found"
        )
    if difference.sign == 0 and signs == 0:
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
    for name in ("person", "a", "b", "a - b", "left", "s per pair", ""):
        grid.add_column(name, justify="left" if name in ("person", "") else "right")
    for number, person in enumerate(scores.people.itertuples(), 1):
        name = clean(person.name) or f"person {number}"
        grid.add_row(*map(Text, (name, *_figures(person))))
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
    import pandas as pd

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
        f"mean is {scores.difference.mean:.1f}, the paper's {scores.published:.3g}"
    )
    page.picture("user-study", draw(scores), alt)
    page.heading("People")
    people = [[str(n), *_figures(p)] for n, p in enumerate(scores.people.itertuples(), 1)]
    names = ["person", "a", "b", "a - b", "left", "median s per pair", "remark"]
    page.table(pd.DataFrame(people, columns=names))
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
        rows = [
            (str(pair), str(a), str(b), _percent(max(a, b) / (a + b)))
            for pair, a, b in scores.agreement[:10]
        ]
        with page.folded("Pairs about which most people agree"):
            page.table(pd.DataFrame(rows, columns=["pair", "chose a", "chose b", "agree"]))
    with page.folded("Where it comes from"):
        made = ("settings ", code(json.dumps(settings, sort_keys=True)))
        page.bullets([f"study {scores.study}", f"seed {head['seed']}", made])
    return page


def summary(scores: Scores) -> list[str]:
    """Figures of the whole study."""
    more, less, equal = scores.prefer
    pooled, choices = scores.pooled
    of_people = f"{more} of {more + less + equal}, b {less}, both equally {equal}"
    difference = _between(scores.difference, _signed)
    return [
        f"people who chose a more often: {of_people} (paper: {PREFER_A} of {PEOPLE})",
        f"mean difference a - b of {scores.head['per_person']} pairs: {difference} "
        f"(paper: {_signed(scores.published)})",
        f"share of a, mean over people: {_between(scores.share, _percent)}",
        f"share of a in all choices: {_percent(pooled / choices)} of {choices:,}",
        f"sign test over people, two-sided: p = {scores.sign_p:.2g}",
        f"left image chosen, mean over people: {_between(scores.left, _percent)}",
    ]


def _between(value: Interval, text) -> str:
    """``mean [low, high]``, each number written by ``text``."""
    if value.low is None or value.high is None:
        return f"{text(value.mean)} (one person: no interval)"
    return f"{text(value.mean)} [{text(value.low)}, {text(value.high)}]"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _signed(value: float) -> str:
    # Adding zero turns a rounded -0.0 into 0.0.
    return f"{round(value, 2) + 0:+.2f}"


def _figures(person) -> tuple[str, ...]:
    """a, b, difference, left, seconds, and what is to be known of a row of people."""
    difference = f"{person.difference:+.4g}" if person.difference else "0"
    remark = f"{person.answers} of {person.asked} answers" * (person.answers < person.asked)
    return (
        str(person.a),
        str(person.b),
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
    if of.low is not None and of.high is not None:
        axes.axvspan(of.low, of.high, color="#cfcfcf", alpha=0.7, lw=0, label="95 % interval")
    axes.axvline(0, color="#777777", linewidth=1)
    axes.axvline(of.mean, color="#000000", linewidth=2, label=f"mean {of.mean:+.1f}")
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


def make_score_parser() -> Parser:
    parser = make_parser("paper study-score", _TEXT)
    parser.add_argument("files", nargs="+", metavar="FILE", help="result files, or folders of them")
    parser.add_argument(
        "--page",
        type=Path,
        metavar="index.html",
        help="that people answered, as 'scotoma paper study' wrote it",
    )
    parser.add_argument(
        "--minimum",
        type=int,
        default=MINIMUM,
        metavar="N",
        help="answers from which on a person who stopped early counts",
    )
    parser.add_argument(
        "--out", default="study-score", help="folder for the page, as Markdown and HTML"
    )
    add_picture_format(parser, "also write the picture in this format")
    return parser


def main(argv: list[str]) -> int:
    """Print statistics and write a page.

    Raises:
        UserError: a file that is no result, results of different studies, a page that is none,
            nobody who counts, or no place to write to.
    """
    arguments = make_score_parser().parse_args(argv)
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
