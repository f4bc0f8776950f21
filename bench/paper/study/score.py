"""Counting what people chose, and what it says about the paper's claim."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....defective.errors import UserError
from .intervals import Interval, mean_interval, sign_test
from .origin import why_apart
from .people import Agreement, Person, agreement_of, person_of
from .results import Result, read_results
from .verdict import CLAIM, NOT_DECIDABLE, PAPER, judge

__all__ = ["CLAIM", "PAPER", "Person", "Result", "Scores", "read_results", "score"]

MINIMUM = 10
"""Answers from which on a person who stopped early counts."""


@dataclass(frozen=True)
class Scores:
    """What the results say.

    Attributes:
        study, head: of all results. people: all, ordered by seed; means are over those that count.
        difference: a - b of ``per_person`` pairs. share: a's share of a person's choices, people
            weighing the same whatever they answered. pooled: (choices of a, choices). left: share
            of left images. sign_p: of the sign test over people. agreement: pairs of at least three
            people, those first about which most agree. verdict, reason: on :data:`CLAIM`.
        held: whether all results were held against the study. notes: what is odd about them.
    """

    study: str
    head: dict[str, Any]
    people: tuple[Person, ...]
    difference: Interval
    share: Interval
    pooled: tuple[int, int]
    left: Interval
    sign_p: float
    agreement: tuple[Agreement, ...]
    verdict: str
    reason: str
    held: bool
    notes: tuple[str, ...]

    @property
    def counted(self) -> list[Person]:
        return [person for person in self.people if person.counts]

    @property
    def prefer(self) -> tuple[int, int, int]:
        """How many people chose a more often, b more often, both equally often."""
        signs = Counter((p.a > p.b) - (p.a < p.b) for p in self.counted)
        return signs[1], signs[-1], signs[0]


def score(results: Sequence[Result], minimum: int = MINIMUM) -> Scores:
    """Count results as :func:`read_results` gives them.

    Args:
        minimum: answers that a person who stopped early must have given to count.

    Raises:
        UserError: nobody counts.
    """
    results = sorted(results, key=lambda result: result.person_seed)
    head = results[0].head
    minimum = min(minimum, head["per_person"])
    people = tuple(person_of(result, minimum) for result in results)
    counting = [(r, p) for r, p in zip(results, people, strict=True) if p.counts]
    if not counting:
        less = ", or count those who stopped earlier with a smaller --minimum" * (minimum > 1)
        raise UserError(
            f"none of {len(people)} people gave {minimum} answers; ask more people{less}"
        )
    counted = [person for _, person in counting]
    difference = mean_interval([person.difference for person in counted])
    more = sum(person.a > person.b for person in counted)
    less = sum(person.a < person.b for person in counted)
    sign_p = sign_test(more, less)
    published = PAPER.difference_of(head["per_person"])
    apart = why_apart(head["settings"])
    verdict, reason = judge(difference, more, less, published)
    if apart:
        verdict, reason = NOT_DECIDABLE, apart
    return Scores(
        study=results[0].study,
        head=head,
        people=people,
        difference=difference,
        share=mean_interval([person.a / person.answers for person in counted]),
        pooled=(sum(p.a for p in counted), sum(p.answers for p in counted)),
        left=mean_interval([person.left / person.answers for person in counted]),
        sign_p=sign_p,
        agreement=agreement_of([result for result, _ in counting]),
        verdict=verdict,
        reason=reason,
        held=all(result.held for result in results),
        notes=_notes(results, people, minimum),
    )


def _notes(results: Sequence[Result], people: Sequence[Person], minimum: int) -> tuple[str, ...]:
    notes = [note for result in results for note in result.notes]
    for result, person in zip(results, people, strict=True):
        if not person.counts:
            notes.append(
                f"{result.path.name}: {person.answers} of {person.asked} answers, fewer than "
                f"{minimum}; does not count"
            )
        elif not person.complete:
            notes.append(
                f"{result.path.name}: {person.answers} of {person.asked} answers; the difference "
                f"is scaled to {person.asked}"
            )
    names = Counter(result.person for result in results if result.person)
    for name, count in sorted(names.items()):
        if count > 1:
            notes.append(
                f"{count} results carry the name {name!r}; if they are of one person, "
                "leave all but one out"
            )
    same: dict[tuple, list[str]] = defaultdict(list)
    for result, person in zip(results, people, strict=True):
        if person.counts:
            # Not the times, which are changed as easily as the seed.
            answers = tuple((a.pair, a.a_side, a.chosen) for a in result.answers)
            same[answers].append(result.path.name)
    for names in same.values():
        if len(names) > 1:
            notes.append(
                f"{len(names)} results have the same answers to the same pairs in one order, "
                f"{names[0]} and {names[1]} among them; if they are copies, leave all but one out"
            )
    return tuple(notes)
