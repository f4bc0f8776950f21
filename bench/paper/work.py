"""Artefacts, named by what determines them, and how the missing ones of a plan are made: each once,
by whichever of the processes and machines over one folder comes first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...defective.errors import UserError
from ...train import store as keyed
from ...train.robustness.models import memory_advice

if TYPE_CHECKING:
    from .artefacts import Context

WAIT_SECONDS = 0.2
"""Between two looks at artefacts that other processes are making."""


class Store(keyed.Store):
    """A folder of artefacts, which several commands and machines may use at the same time; machines
    have to see it under the same path.

    Attributes:
        told: {key: what a results file tells} of artefacts whose own files may be gone.
    """

    def __init__(self, folder: Path):
        super().__init__(folder.absolute())
        self.told: Mapping[str, Mapping[str, Any]] = {}

    def prepare(self) -> None:
        """Make the folder. Raises UserError if it cannot be written to."""
        keyed.writable(self.folder, "locks")


class Artefact:
    """A trained network, a choice of images, a set, a result.

    A subclass is a frozen dataclass. Its key is a hash of its kind, its settings and the keys of
    its inputs, so that it is known before anything is made: two tables that ask for the same thing
    find one file, and a reproduction that was stopped finds what it had.

    Attributes:
        kind: names the folder of its files. suffix: of its file; "" for a folder.
    """

    kind: ClassVar[str]
    suffix: ClassVar[str] = ""

    @property
    def label(self) -> str:
        """For people: a part of the file's name. Made of what determines the artefact, and of
        nothing else: the same key has the same file."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Plain values that determine the artefact beside its inputs; no places, no devices."""
        raise NotImplementedError

    def inputs(self) -> tuple[Artefact, ...]:
        """What has to be there before."""
        raise NotImplementedError

    def make(self, context: Context) -> None:
        """Make the file, or go on with what an earlier call began.

        Raises:
            UserError: it cannot be made. KeyboardInterrupt: it was stopped; the next call goes on.
        """
        raise NotImplementedError

    def is_done(self, store: Store) -> bool:
        return self.path(store).is_file()

    @property
    def affinity(self) -> str:
        """Artefacts of one affinity are made one after the other, since they load the same."""
        return self.key

    @property
    def share(self) -> float:
        """How much of a GPU it keeps busy, by rule of thumb: 1 where a GPU's arithmetic is the
        limit, a quarter where it waits for the host, 0 for what is made on the CPU."""
        return 0.25

    @cached_property
    def key(self) -> str:
        return keyed.key_of(self.kind, self.settings(), [each.key for each in self.inputs()])

    def path(self, store: Store) -> Path:
        return store.folder / self.kind / f"{keyed.slug(self.label, 60)}-{self.key}{self.suffix}"


def closure(wanted: Iterable[Artefact]) -> list[Artefact]:
    """All artefacts that ``wanted`` need, themselves included: each once, inputs first."""
    found: dict[str, Artefact] = {}

    def visit(artefact: Artefact) -> None:
        if artefact.key not in found:
            for each in artefact.inputs():
                visit(each)
            found[artefact.key] = artefact

    for artefact in wanted:
        visit(artefact)
    return list(found.values())


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
        artefacts, needed = closure(wanted), {artefact.key for artefact in wanted}
        missing: set[str] = set()
        for artefact in reversed(artefacts):
            if artefact.key in needed and not artefact.is_done(store):
                missing.add(artefact.key)
                needed |= {each.key for each in artefact.inputs()}
        return cls(tuple(artefacts), frozenset(missing))

    def to_make(self) -> list[Artefact]:
        """The missing ones, inputs first; those that load the same stand together if they can."""
        left = [a for a in self.artefacts if a.key in self.missing]
        there = {a.key for a in self.artefacts} - self.missing
        found: list[Artefact] = []
        while left:
            ready = [a for a in left if all(i.key in there for i in a.inputs())]
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


class Queue:
    """What is left of a plan, what failed, and a line about what is left out.

    Args:
        todo: missing artefacts, inputs first. say: gets the lines.

    Attributes:
        left: {key: artefact}. own: failures, without what was left out because of them.
    """

    def __init__(self, todo: list[Artefact], say: Callable[[str], None]):
        self.left = {artefact.key: artefact for artefact in todo}
        self.total, self.say = len(todo), say
        self.own: list[Failure] = []
        self._failed: dict[str, Failure] = {}

    def head(self, artefact: Artefact) -> str:
        """The number of an artefact that ends next, of how many, and what it is."""
        number = self.total - len(self.left) + 1
        return f"[{number}/{self.total}] {artefact.kind} {artefact.label}"

    def ready(self) -> Iterator[Artefact]:
        """Those whose inputs are there, as of when each is asked for. What needs something that
        failed is left out on the way, and said."""
        for artefact in list(self.left.values()):
            reasons = [self._failed[i.key] for i in artefact.inputs() if i.key in self._failed]
            if reasons:
                self.say(f"{self.head(artefact)}: left out, {reasons[0].artefact.label} failed")
                self._failed[self.left.pop(artefact.key).key] = reasons[0]
            elif not any(i.key in self.left for i in artefact.inputs()):
                yield artefact

    def finished(self, artefact: Artefact) -> None:
        del self.left[artefact.key]

    def fails(self, artefact: Artefact, message: str) -> None:
        """What needs it is left out later; the others are made."""
        failure = Failure(artefact, message)
        self.own.append(failure)
        self._failed[self.left.pop(artefact.key).key] = failure


def make_here(plan: Plan, context: Context) -> list[Failure]:
    """Make what is missing, one after the other in this process. What cannot be made ends nothing
    but what needs it. The same call elsewhere, over the same folder, makes other artefacts of the
    plan at the same time.

    Returns:
        Failures, without what was left out because of them.

    Raises:
        KeyboardInterrupt: stopped; what is finished is kept, and the same call goes on.
    """
    line = context.screen.line
    queue, waits = Queue(plan.to_make(), line), False
    while queue.left:
        before = len(queue.left)
        for artefact in queue.ready():
            head = queue.head(artefact)
            with context.store.alone(artefact.key, wait=False) as mine:
                if not mine:
                    continue
                if artefact.is_done(context.store):
                    line(f"{head}: made elsewhere")
                    queue.finished(artefact)
                    continue
                line(head)
                context.screen.begin(head)
                start = time.perf_counter()
                try:
                    make_alone(artefact, context)
                except UserError as error:
                    queue.fails(artefact, str(error))
                    line(f"  failed: {error}")
                else:
                    queue.finished(artefact)
                    line(f"  {time.perf_counter() - start:.1f} s")
        if len(queue.left) < before:
            waits = False
        else:
            if not waits:
                line(f"waiting for another process: {next(iter(queue.ready())).label}")
            waits = True
            time.sleep(WAIT_SECONDS)
    return queue.own


def make_alone(artefact: Artefact, context: Context) -> None:
    """Make an artefact that is locked. Raises as :meth:`Artefact.make`."""
    with memory_advice(context.device, context.batch_size, "; what is finished is kept"):
        artefact.make(context)
