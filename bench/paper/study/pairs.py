"""What a study asks: pairs of adversarial images, each with the class that its source saw in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ....defective.errors import UserError
from ...report.document import clean
from . import limits

GROUPS = ("a", "b")
"""How pages and results call the two sources, in the order of a pair's images."""
QUESTION = "Which of the two looks more like what its label says?"
"""The paper: "which one of the pair is better aligned with the predicted label" (appendix B)."""
FORMAT = 1
"""Of pages and results; another one is another study."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Two adversarial images of the same original.

    Attributes:
        number: of the pair in its study, from 0 to 2^31 - 1.
        dataset, true_class: where the original is from, and what it shows.
        images: two uint8 arrays [H,W,C] of one shape, C 1 or 3: first the defective source's, then
            the standard source's.
        predicted: what each source takes its own image for; neither is the true class.

    Raises:
        UserError: an attribute is none of that.
    """

    number: int
    dataset: str
    true_class: str
    images: tuple[np.ndarray, np.ndarray]
    predicted: tuple[str, str]

    def __post_init__(self) -> None:
        limits.whole("a pair's number", self.number, 0, limits.GREATEST)
        where = f"pair {self.number}"
        _couple(f"{where}, images", self.images)
        _couple(f"{where}, predicted", self.predicted)
        for image in self.images:
            _check_image(where, image)
        shapes = [image.shape for image in self.images]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{where}: images of shapes {list(shapes[0])} and {list(shapes[1])}; both must "
                "have one shape, else their size tells them apart"
            )
        names = {"dataset": self.dataset, "true_class": self.true_class}
        names |= {f"predicted[{i}]": name for i, name in enumerate(self.predicted)}
        for what, name in names.items():
            limits.words(f"{where}, {what}", name)
            limits.words(f"{where}, what can be seen of {what}", clean(name))
        if self.true_class in self.predicted:
            raise UserError(
                f"{where}: a source takes its image for the true class, {self.true_class!r}; keep "
                "only originals whose adversarial images fool both sources"
            )

    @property
    def labels(self) -> tuple[str, str]:
        """The predicted classes as a page shows them: one line, no invisible characters."""
        first, second = map(clean, self.predicted)
        return first, second


@dataclass(frozen=True, eq=False)
class Study:
    """What is asked.

    Attributes:
        title: stands above every page; it must not tell which source is which.
        pairs: of which each person gets ``per_person``, drawn without replacement.
        groups: what "a" and "b" are, for the report; people do not see it.
        settings: JSON values that say how the images were made.
        seed: that the pairs were drawn with, 0 to 2^53 - 1.

    Raises:
        UserError: an attribute is none of that, two pairs share a number, there are fewer pairs
            than a person gets.
    """

    title: str
    pairs: Sequence[Pair]
    groups: Mapping[str, str]
    settings: Mapping[str, Any]
    seed: int
    per_person: int = 50
    numbers: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", tuple(self.pairs))
        object.__setattr__(self, "groups", dict(self.groups))
        object.__setattr__(self, "numbers", tuple(pair.number for pair in self.pairs))
        limits.head(
            {"title": self.title, "groups": self.groups, "settings": self.settings}
            | {"seed": self.seed, "per_person": self.per_person}
        )
        # As a file gives them back: lists for tuples, words for keys.
        settings = json.loads(json.dumps(dict(self.settings)))
        object.__setattr__(self, "settings", settings)
        twice = sorted({n for n in self.numbers if self.numbers.count(n) > 1})
        if twice:
            raise UserError(f"several pairs have the number {twice[0]}; number them differently")
        if len(self.pairs) < self.per_person:
            raise UserError(
                f"{len(self.pairs)} pairs for {self.per_person} a person; give more pairs, or a "
                "smaller per_person"
            )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that people see and all that results say of the study, 64 hex digits."""
        head = {
            "format": FORMAT,
            "question": QUESTION,
            "title": self.title,
            "groups": self.groups,
            "settings": self.settings,
            "seed": self.seed,
            "per_person": self.per_person,
            "pairs": [
                [p.number, p.dataset, p.true_class, *p.predicted, *p.images[0].shape]
                for p in self.pairs
            ],
        }
        hashed = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
        for pair in self.pairs:
            for image in pair.images:
                hashed.update(np.ascontiguousarray(image).tobytes())
        return hashed.hexdigest()


def _couple(what: str, values: object) -> None:
    if not isinstance(values, tuple | list) or len(values) != 2:
        raise UserError(f"{what}: expected two, the defective source's and the standard one's")


def _check_image(where: str, image: object) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        given = getattr(image, "dtype", type(image).__name__)
        raise UserError(f"{where}: an image of {given}; expected a uint8 array [H,W,C]")
    shape, longest = image.shape, limits.LONGEST_SIDE
    fits = len(shape) == 3 and shape[2] in (1, 3) and min(shape[:2]) >= 1
    if not fits or max(shape[:2]) > longest:
        raise UserError(
            f"{where}: an image of shape {list(shape)}; expected [H,W,1] or [H,W,3] with sides "
            f"of 1 to {longest} pixels"
        )
