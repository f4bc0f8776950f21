"""What can be sent to a cluster now, what of it together, and how much of a GPU it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ....defective.models import ARCHITECTURES
from .artefact import Artefact
from .attacking import AdversarialImages
from .plan import Plan
from .results import WhiteBox
from .training import Training

WHOLE, SMALL = 1.0, 0.25
"""Shares of a GPU."""
MOST = 16
"""Artefacts in a batch, at most: what a worker that dies has to look at again."""


def gpu_share(artefact: Artefact) -> float:
    """How much of a GPU an artefact keeps busy, by rule of thumb.

    1 for training and for attacking networks of the paper's width, since those fill a GPU's
    arithmetic and up to all of its memory; 0.25 for narrower ones and for evaluations, which wait
    for the host more than the GPU works; 0 for image folders, which are made on the CPU.
    """
    if artefact.kind == "data":
        return 0.0
    worked: tuple[Training, ...] = ()
    if isinstance(artefact, Training):
        worked = (artefact,)
    elif isinstance(artefact, AdversarialImages):
        worked = artefact.source.members
    elif isinstance(artefact, WhiteBox):
        worked = artefact.target.members
    return WHOLE if any(_has_full_width(training) for training in worked) else SMALL


def _has_full_width(training: Training) -> bool:
    config = training.config
    return config.width is None or config.width >= ARCHITECTURES[config.arch].default_width


@dataclass(frozen=True)
class Batch:
    """Artefacts of one affinity, for one worker one after the other; ``cost`` of each of them."""

    artefacts: tuple[Artefact, ...]
    cost: float


class Queue:
    """The artefacts of a plan that are missing, and what each still waits for.

    What most others wait for goes first, so that a cluster does not run dry.

    Args:
        cost: GPUs that an artefact takes, or CPUs where there are no GPUs.
    """

    def __init__(self, plan: Plan, cost: Callable[[Artefact], float]):
        todo = plan.to_make()
        self.total, self.cost = len(todo), cost
        self._waits = {a.key: {i.key for i in a.inputs()} & plan.missing for a in todo}
        self._artefacts = {a.key: a for a in todo}
        self._direct: dict[str, list[str]] = {a.key: [] for a in todo}
        for artefact in todo:
            for key in sorted(self._waits[artefact.key]):
                self._direct[key].append(artefact.key)
        below: dict[str, set[str]] = {}
        for artefact in reversed(todo):  # inputs come first in a plan, so dependants here
            direct = self._direct[artefact.key]
            below[artefact.key] = set(direct).union(*(below[key] for key in direct))
        self._rank = {a.key: (-len(below[a.key]), place) for place, a in enumerate(todo)}
        self._ready = [a for a in todo if not self._waits[a.key]]
        self._alone: set[str] = set()

    def take(self, free: float, capacity: float, idle: bool) -> list[Batch]:
        """What to send now, until ``free`` of the cluster's ``capacity`` is used up.

        Batches grow with what is ready: as long as something of the cluster would be idle, each
        artefact goes alone.

        Args:
            idle: nothing is on its way: then at least one batch is sent.
        """
        demand = sum(self.cost(artefact) for artefact in self._ready)
        size = max(1, min(MOST, int(demand / capacity))) if capacity > 0 else 1
        found: list[Batch] = []
        self._ready.sort(key=lambda artefact: self._rank[artefact.key])
        while self._ready:
            cost = self.cost(self._ready[0])
            if cost > free + 1e-6 and (found or not idle):
                break
            found.append(Batch(self._group(size), cost))
            free -= cost
        return found

    def _group(self, size: int) -> tuple[Artefact, ...]:
        """Takes the first that is ready, and those that go with it."""
        first = self._ready[0]
        group = [first]
        if first.key not in self._alone:
            group += [
                other
                for other in self._ready[1:]
                if other.affinity == first.affinity
                and self.cost(other) == self.cost(first)
                and other.key not in self._alone
            ]
        group = group[:size]
        taken = {artefact.key for artefact in group}
        self._ready = [artefact for artefact in self._ready if artefact.key not in taken]
        return tuple(group)

    def again(self, artefact: Artefact) -> None:
        """Send it once more, and in a batch of its own."""
        self._alone.add(artefact.key)
        self._ready.append(artefact)

    def finished(self, key: str) -> None:
        """An artefact is there: what waited for it alone is ready."""
        for other in self._direct[key]:
            if other in self._waits:
                self._waits[other].discard(key)
                if not self._waits[other]:
                    self._ready.append(self._artefacts[other])
        del self._waits[key]

    def failed(self, key: str) -> list[Artefact]:
        """An artefact cannot be made: all that needs it is left out, and returned in order."""
        del self._waits[key]
        lost: list[Artefact] = []
        left = [key]
        while left:
            for other in self._direct[left.pop(0)]:
                if other in self._waits:
                    del self._waits[other]
                    lost.append(self._artefacts[other])
                    left.append(other)
        return lost

    def __len__(self) -> int:
        """How many are neither made, failed nor left out."""
        return len(self._waits)
