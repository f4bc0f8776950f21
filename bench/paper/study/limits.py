"""What a study and its results may hold: the same bounds for what is written and what is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ....defective.errors import UserError

GREATEST = 2**31 - 1
EXACT = 2**53 - 1
"""The greatest integer that a browser keeps exactly."""
LONGEST_SIDE = 512
"""Pixels of an image."""
LONGEST_WORDS = 300
"""Characters of a title, a class name, what a group is."""
LONGEST_NAME = 40
"""Characters of a person's name."""
LONGEST_SETTINGS = 2**15
"""Characters of the settings as JSON."""
MOST_ANSWERS = 1000


def whole(what: str, value: object, least: int, greatest: int) -> int:
    """``value`` if it is such an integer. Raises UserError."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= greatest:
        raise UserError(f"{what} is {shown(value)}; expected an integer, {least} to {greatest}")
    return value


def words(what: str, value: object, longest: int = LONGEST_WORDS, least: int = 1) -> str:
    """``value`` if it is text of such a length. Raises UserError."""
    if not isinstance(value, str) or not least <= len(value.strip()) <= len(value) <= longest:
        raise UserError(
            f"{what} is {shown(value)}; expected text of {least} to {longest} characters"
        )
    return value


def head(values: Mapping[str, Any]) -> None:
    """Check title, groups, settings, seed and per_person. Raises UserError."""
    words("title", values["title"])
    groups = values["groups"]
    if not isinstance(groups, dict) or set(groups) != {"a", "b"}:
        raise UserError(f"groups is {shown(groups)}; expected what 'a' and what 'b' is")
    for name in ("a", "b"):
        words(f"groups[{name!r}]", groups[name])
    settings = values["settings"]
    if not isinstance(settings, Mapping) or not _plain(settings):
        raise UserError(
            f"settings is {shown(settings)}; expected names and JSON values, {LONGEST_SETTINGS:,} "
            "characters at most, without NaN, infinity and integers beyond 2^53"
        )
    whole("seed", values["seed"], 0, EXACT)
    whole("per_person", values["per_person"], 1, MOST_ANSWERS)


def _plain(settings: Mapping[str, Any]) -> bool:
    """Whether settings pass through a browser unchanged."""
    integers: list[int] = []
    try:
        text = json.dumps(dict(settings), allow_nan=False)
        json.loads(text, parse_int=lambda digits: integers.append(int(digits)))
    except (TypeError, ValueError, RecursionError):
        return False
    return len(text) <= LONGEST_SETTINGS and all(abs(n) <= EXACT for n in integers)


def shown(value: object) -> str:
    """A value in a message: one line that is not long."""
    try:
        text = ascii(value)
    except RecursionError:
        text = type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."
