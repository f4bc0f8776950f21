"""The user study of the paper's appendix B: a page to ask people with, and what they answered.

Here is what both have in common: the files that people save at the end of the page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ....defective.errors import UserError

if TYPE_CHECKING:
    from .study import Study

FORMAT = 1
"""Of pages and results; another one is another study."""
ROLES = ("cifar10", "tiny-imagenet")
"""The data sets of the paper's study."""
_LARGEST = 2**20
"""Bytes of a result; one with 1,000 answers has a tenth of it."""
_HEAD = ("study", "title", "groups", "settings", "seed", "per_person")


class Answer(NamedTuple):
    """Attributes: pair: its number. a_side: where the first image stood. chosen: "a" or "b".
    side: where the chosen one stood. ms: milliseconds from showing to choosing."""

    pair: int
    a_side: str
    chosen: str
    side: str
    ms: float


@dataclass
class Result:
    """One person's answers.

    Attributes:
        path: of the file. head: of the study its digest ("study"), title, groups, settings, seed
            and per_person. person: the name given, may be empty. person_seed: stands for the
            person. answers: in the order of asking. notes: what a reader should know of the file.
    """

    path: Path
    head: dict[str, Any]
    person: str
    person_seed: str
    answers: list[Answer]
    notes: list[str] = field(default_factory=list)


def read_results(paths: Iterable[Path | str], study: Study | str | None = None) -> list[Result]:
    """The results in files, and in folders all ``*.json``, one a person, ordered by seed.

    Of a person whose answers were saved twice, the longer file counts, with a note.

    Args:
        study: or its digest; if given, results must be of it.

    Raises:
        UserError: a file is no result, or results do not fit together.
    """
    first, *others = results = [_read(path) for path in _files(paths)]
    asked, digest = first.head["study"], getattr(study, "digest", study)
    if digest not in (None, asked):
        raise UserError(
            f"{first.path} is of study {asked}, not of this one, {digest}; give the results of the "
            "page that was made from this study"
        )
    for other in others:
        if other.head != first.head:
            raise UserError(
                f"results of different studies: {first.path} is of {asked}, {other.path} of "
                f"{other.head['study']}; score each study by itself"
            )
    kept: dict[str, Result] = {}
    for result in sorted(results, key=lambda r: (r.person_seed, -len(r.answers), str(r.path))):
        longer = kept.setdefault(result.person_seed, result)
        if longer is result:
            continue
        if result.answers != longer.answers[: len(result.answers)]:
            raise UserError(
                f"{longer.path} and {result.path} are of one person (seed {result.person_seed}) "
                "with different answers; keep the one that counts"
            )
        longer.notes.append(
            f"{longer.path.name} was saved again as {result.path.name}, which does not count"
        )
    return list(kept.values())


def _files(paths: Iterable[Path | str]) -> list[Path]:
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not files:
            raise UserError(
                f"{path} holds no results (*.json); put the files there that people saved"
            )
        found |= {file.resolve(): file for file in files}
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
    words = [head["study"], head["title"], head["groups"]["a"], head["groups"]["b"]]
    words += [found["person"], found["person_seed"]]
    if not all(isinstance(each, str) for each in words) or not isinstance(head["settings"], dict):
        raise ValueError("names, title, groups or settings are none")
    asked, answers = head["per_person"], [_answer(each) for each in found["answers"]]
    if type(asked) is not int or not max(1, len(answers)) <= asked <= 10**6:
        raise ValueError(f"{len(answers)} answers of {asked!r}")
    if len({answer.pair for answer in answers}) < len(answers):
        raise ValueError("two answers to one pair")
    return Result(path, head, found["person"], found["person_seed"], answers)


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
