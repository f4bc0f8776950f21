"""The pictures of a page, each under a name of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..document import Picture
from ..plots.style import source


@dataclass
class Album:
    """Attributes: taken: names of files so far."""

    taken: set[str] = field(default_factory=set)

    def draw(self, draw: Callable, rows: Sequence[dict], alt: str, *words: str) -> Picture:
        """The picture that ``draw(rows)`` makes, its file named after device and words."""
        words = rows[0]["machine"]["device"], *words
        stem = "-".join(filter(None, map(_slug, words)))[:90] or "picture"
        name, number = f"{stem}.png", 1
        while name in self.taken:
            number += 1
            name = f"{stem}-{number}.png"
        self.taken.add(name)
        return Picture(name, alt, draw(rows), source=source(rows))


def _slug(word: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-")
