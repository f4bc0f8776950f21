"""What a study's page says of the study: enough to hold results against it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....defective.errors import UserError
from . import limits, strict
from .pairs import FORMAT

LARGEST = 2**28
"""Bytes of a page; one with 200 pairs of 64x64 pixels has 5 million."""
_BEFORE, _AFTER = '<script type="application/json" id="study">', "</script>"
_KEYS = ("format", "digest", "title", "groups", "settings", "seed", "perPerson", "pairs")


@dataclass(frozen=True)
class PageData:
    """Attributes: as of a study; the images stay in the page, so that its word is taken for the
    digest."""

    digest: str
    title: str
    groups: Mapping[str, str]
    settings: Mapping[str, Any]
    seed: int
    per_person: int
    numbers: tuple[int, ...]


def read_page(path: str | os.PathLike) -> PageData:
    """Read what :func:`.page.write_page` wrote.

    Raises:
        UserError: no such page, or a damaged one; it names the file and what is wrong with it.
    """
    try:
        _, _, rest = strict.read(Path(path), LARGEST).partition(_BEFORE)
        data, after, _ = rest.partition(_AFTER)
        if not after:
            raise UserError("no page of a study")
        return _checked(strict.parse(data))
    except UserError as error:
        raise UserError(
            f"{path}: {error}; expected the page as 'scotoma paper study' wrote it"
        ) from None


def _checked(found: Any) -> PageData:
    if not isinstance(found, dict):
        raise UserError("its study is no object with names")
    for key in _KEYS:
        if key not in found:
            raise UserError(f"its study lacks {key!r}")
    if found["format"] != FORMAT or isinstance(found["format"], bool):
        raise UserError(f"format is {limits.shown(found['format'])}; this version reads {FORMAT}")
    digest, pairs = found["digest"], found["pairs"]
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest, re.ASCII):
        raise UserError(f"digest is {limits.shown(digest)}; expected 64 hex digits")
    head = {key: found[key] for key in ("title", "groups", "settings", "seed")}
    head["per_person"] = found["perPerson"]
    limits.head(head)
    if not isinstance(pairs, list) or not all(isinstance(pair, dict) for pair in pairs):
        raise UserError("pairs is no list of objects with names")
    numbers = tuple(pair.get("number") for pair in pairs)
    for number in numbers:
        limits.whole("a pair's number", number, 0, limits.GREATEST)
    if len(set(numbers)) < len(numbers) or len(numbers) < head["per_person"]:
        raise UserError("pairs that are too few, or one that is there twice")
    return PageData(digest, **head, numbers=numbers)
