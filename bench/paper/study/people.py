"""One person's choices, counted; and one pair's."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from .results import Result


@dataclass(frozen=True)
class Person:
    """One person's choices.

    Attributes:
        name: as given, may be empty. seed: of the pairs. a, b: how often each group was chosen.
        left: how often the left image. asked: of how many pairs. median_ms: of an answer.
        counts: whether there are answers enough.
    """

    name: str
    seed: str
    a: int
    b: int
    left: int
    asked: int
    median_ms: float
    counts: bool

    @property
    def answers(self) -> int:
        return self.a + self.b

    @property
    def complete(self) -> bool:
        return self.answers == self.asked

    @property
    def difference(self) -> float:
        """a - b; of who stopped early, what it would be of all pairs at the same share."""
        if not self.answers:
            return 0.0
        return (self.a - self.b) * (self.asked / self.answers)


@dataclass(frozen=True)
class Agreement:
    """A pair that several people saw. Attributes: a, b: how many of them chose which."""

    pair: int
    a: int
    b: int

    @property
    def share(self) -> float:
        """Of those on the side of the majority."""
        return max(self.a, self.b) / (self.a + self.b)


def person_of(result: Result, minimum: int) -> Person:
    """Args: minimum: answers that who stopped early must have given to count."""
    answers, asked = result.answers, result.head["per_person"]
    a = sum(answer.chosen == "a" for answer in answers)
    return Person(
        name=result.person,
        seed=result.person_seed,
        a=a,
        b=len(answers) - a,
        left=sum(answer.side == "left" for answer in answers),
        asked=asked,
        median_ms=statistics.median([answer.ms for answer in answers] or [0]),
        counts=len(answers) > 0 and len(answers) >= min(minimum, asked),
    )


def agreement_of(results: Sequence[Result], least: int = 3) -> tuple[Agreement, ...]:
    """Pairs that ``least`` people saw, those first about which the largest share agrees."""
    votes: dict[int, Counter] = defaultdict(Counter)
    for result in results:
        for answer in result.answers:
            votes[answer.pair][answer.chosen] += 1
    seen = [Agreement(n, v["a"], v["b"]) for n, v in votes.items() if v.total() >= least]
    return tuple(sorted(seen, key=lambda s: (-s.share, -(s.a + s.b), s.pair)))
