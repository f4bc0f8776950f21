"""Everything that a reproduction needs, in an order in which it can be made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .artefact import Artefact, closure
from .store import Store


@dataclass(frozen=True)
class Plan:
    """Artefacts, each once.

    Attributes:
        artefacts: all of them, inputs before what needs them. missing: keys of those that have to
            be made: what is done already needs no input any more.
    """

    artefacts: tuple[Artefact, ...]
    missing: frozenset[str]

    @classmethod
    def of(cls, wanted: Iterable[Artefact], store: Store) -> Plan:
        """What is not done, and what that needs."""
        wanted = list(wanted)
        missing: dict[str, Artefact] = {}
        seen: set[str] = set()
        left = list(wanted)
        while left:
            artefact = left.pop()
            if artefact.key in seen:
                continue
            seen.add(artefact.key)
            if not artefact.is_done(store):
                missing[artefact.key] = artefact
                left += artefact.inputs()
        return cls(tuple(closure(wanted)), frozenset(missing))

    def to_make(self) -> list[Artefact]:
        """The missing ones, inputs first; those that load the same stand together if they can."""
        left = [a for a in self.artefacts if a.key in self.missing]
        there = {a.key for a in self.artefacts} - self.missing
        found: list[Artefact] = []
        while left:
            ready = [a for a in left if all(i.key in there for i in a.inputs())]
            if not ready:
                raise RuntimeError("artefacts need each other in a circle")
            # Of one affinity, then whatever that has made ready: networks stay in memory.
            affinity = ready[0].affinity
            for artefact in ready:
                if artefact.affinity == affinity:
                    found.append(artefact)
                    there.add(artefact.key)
            left = [a for a in left if a.key not in there]
        return found


@dataclass(frozen=True)
class Failure:
    """An artefact that could not be made, and why."""

    artefact: Artefact
    message: str


def without_failed(artefact: Artefact, failed: dict[str, Failure]) -> Failure | None:
    """A failure that keeps an artefact from being made, among its inputs; None where none does."""
    return next((failed[i.key] for i in artefact.inputs() if i.key in failed), None)
