"""One person's answers: the file that the page saves, read as from a stranger."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ....defective.errors import UserError
from . import limits, strict
from .draw import SIDES
from .pairs import FORMAT, GROUPS

LARGEST = 2**20
"""Bytes of a file; a result with 1,000 answers has a tenth of it."""
HEAD = ("title", "groups", "settings", "seed", "per_person")
_KEYS = {"format", "study", *HEAD, "person", "person_seed", "started", "finished", "answers"}
_ANSWER = {"pair", "a_side", "chosen", "side", "ms"}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)


@dataclass(frozen=True)
class Answer:
    """Attributes: pair: its number. a_side: where the first image stood. chosen: "a" or "b".
    side: where the chosen one stood. ms: milliseconds from showing to choosing."""

    pair: int
    a_side: str
    chosen: str
    side: str
    ms: int


@dataclass(frozen=True)
class Result:
    """One person's answers.

    Attributes:
        path: of the file. study: digest of the study. head: the study's title, groups, settings,
            seed and per_person. person: the name given, may be empty. person_seed: what the pairs
            were drawn with. finished: None if pairs are left. answers: in the order of asking.
        notes: what a reader should know of the file. held: whether pairs and sides are what the
            seed draws from the study; otherwise they are what the file says.
    """

    path: Path
    study: str
    head: dict[str, Any]
    person: str
    person_seed: str
    started: str
    finished: str | None
    answers: tuple[Answer, ...]
    notes: tuple[str, ...] = ()
    held: bool = False

    @property
    def complete(self) -> bool:
        return len(self.answers) == self.head["per_person"]


def read_result(path: Path) -> Result:
    """Raises UserError, naming the file and what is wrong with it."""
    try:
        return _checked(path, strict.parse(strict.read(path, LARGEST)))
    except UserError as error:
        raise UserError(
            f"{path}: {error}; expected a file study-*.json as the page saved it"
        ) from None


def _checked(path: Path, found: Any) -> Result:
    _keys("the file", found, _KEYS)
    if found["format"] != FORMAT or isinstance(found["format"], bool):
        raise UserError(f"format is {limits.shown(found['format'])}; this version reads {FORMAT}")
    head = {key: found[key] for key in HEAD}
    limits.head(head)
    limits.words("person", found["person"], limits.LONGEST_NAME, least=0)
    _pattern("study", found["study"], "[0-9a-f]{64}", "64 hex digits")
    _pattern("person_seed", found["person_seed"], "[0-9a-f]{16}", "16 hex digits")
    _time("started", found["started"])
    if not isinstance(found["answers"], list) or len(found["answers"]) > head["per_person"]:
        raise UserError(f"answers is no list of {head['per_person']} answers at most")
    answers = tuple(_answer(f"answers[{i}]", each) for i, each in enumerate(found["answers"]))
    numbers = [answer.pair for answer in answers]
    if len(set(numbers)) < len(numbers):
        raise UserError("answers has two of one pair")
    _sides(answers, head["per_person"])
    if len(answers) == head["per_person"]:
        _time("finished", found["finished"])
    elif found["finished"] is not None:
        raise UserError(f"finished, with {len(answers)} of {head['per_person']} answers")
    names = ("study", "person", "person_seed", "started", "finished")
    return Result(path, head=head, answers=answers, **{name: found[name] for name in names})


def _sides(answers: tuple[Answer, ...], asked: int) -> None:
    """What can be told without the study: each group has half of the sides, as ``draw`` gives."""
    most = (asked + 1) // 2
    for side in SIDES:
        count = sum(answer.a_side == side for answer in answers)
        if count > most:
            raise UserError(
                f"a was on the {side} {count} times; of {asked} pairs the page puts it there "
                f"{most} times at most, so that the file was edited"
            )


def _answer(what: str, found: Any) -> Answer:
    _keys(what, found, _ANSWER)
    limits.whole(f"{what}.pair", found["pair"], 0, limits.GREATEST)
    limits.whole(f"{what}.ms", found["ms"], 0, limits.EXACT)
    for key, choices in (("a_side", SIDES), ("side", SIDES), ("chosen", GROUPS)):
        if found[key] not in choices:
            given = limits.shown(found[key])
            raise UserError(f"{what}.{key} is {given}; expected {' or '.join(choices)}")
    if (found["chosen"] == "a") != (found["side"] == found["a_side"]):
        raise UserError(
            f"{what} chose {found['chosen']} on the {found['side']}, but a was on the "
            f"{found['a_side']}"
        )
    return Answer(**found)


def _keys(what: str, found: Any, keys: set[str]) -> None:
    if not isinstance(found, dict):
        raise UserError(f"{what} is no object with names")
    for key in sorted(keys - found.keys()):
        raise UserError(f"{what} lacks {key!r}")
    for key in sorted(found.keys() - keys):
        raise UserError(f"{what} has {limits.shown(key)}, which no result has")


def _pattern(what: str, found: Any, pattern: str, expected: str) -> None:
    if not isinstance(found, str) or not re.fullmatch(pattern, found, re.ASCII):
        raise UserError(f"{what} is {limits.shown(found)}; expected {expected}")


def _time(what: str, found: Any) -> None:
    try:
        if not _TIME.fullmatch(found):
            raise ValueError
        datetime.fromisoformat(found)
    except (ValueError, TypeError):
        given = limits.shown(found)
        raise UserError(
            f"{what} is {given}; expected a time such as 2026-01-02T03:04:05.678Z"
        ) from None
