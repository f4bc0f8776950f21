"""The time of a plan: of each artefact, in all, and on several devices."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ....train.summary import device_name
from ..graph.artefact import Artefact
from ..graph.plan import Plan
from ..graph.store import Store
from ..graph.training import Training
from .speeds import keep, known_speeds, measured
from .work import Work, work_of


@dataclass(frozen=True)
class PlanEstimate:
    """What a plan costs.

    Attributes:
        plan: of it. there: keys of what is made already. device: the name of what was measured.
        on_gpu: whether that is a GPU. work: {key: passes} of what has to be made.
        seconds: {key: seconds}, or None if nothing was measured. at_most: keys whose time is a
            bound.
    """

    plan: Plan
    there: frozenset[str]
    device: str
    on_gpu: bool
    work: Mapping[str, list[Work]]
    seconds: Mapping[str, float] | None
    at_most: frozenset[str]

    @property
    def total(self) -> float:
        """Seconds on one device, one after the other."""
        return sum((self.seconds or {}).values())

    def makespan(self, devices: int) -> float:
        """Seconds on several devices, where each that is free takes the first artefact that is
        ready; trainings that take longest come first."""
        return schedule(self.plan.to_make(), self.seconds or {}, devices)

    @property
    def longest_chain(self) -> float:
        """Seconds on as many devices as can be used."""
        seconds, ends = self.seconds or {}, {}
        for artefact in self.plan.to_make():
            before = max((ends.get(i.key, 0.0) for i in artefact.inputs()), default=0.0)
            ends[artefact.key] = before + seconds.get(artefact.key, 0.0)
        return max(ends.values(), default=0.0)


def schedule(todo: list[Artefact], seconds: Mapping[str, float], devices: int) -> float:
    """The time at which all is made; ``todo`` has inputs before what needs them."""
    waiting = {a.key: a for a in todo}
    running: list[tuple[float, str]] = []
    now, free = 0.0, devices
    while waiting or running:
        held = set(waiting) | {key for _, key in running}
        ready = [a for a in waiting.values() if not any(i.key in held for i in a.inputs())]
        ready.sort(key=lambda a: (-seconds.get(a.key, 0.0), a.key))
        for artefact in ready[:free]:
            del waiting[artefact.key]
            heapq.heappush(running, (now + seconds.get(artefact.key, 0.0), artefact.key))
            free -= 1
        now, _ = heapq.heappop(running)
        free += 1
    return now


def estimate_plan(
    plan: Plan,
    store: Store,
    device: torch.device,
    say: Callable[[str], None],
    measure: bool = True,
) -> PlanEstimate:
    """What making the missing artefacts takes on ``device``.

    Args:
        say: gets a line for each network that is timed. measure: time what is not known; otherwise
            there are no seconds. Nothing but speeds.json is written to the store.

    Raises:
        UserError: data that is no data set. OSError: speeds.json cannot be written.
    """
    todo = plan.to_make()
    work = {artefact.key: work_of(artefact, store) for artefact in todo}
    bounds = frozenset(key for key, several in work.items() if any(w.at_most for w in several))
    seconds = None
    if measure:
        trainings = [a for a in plan.artefacts if isinstance(a, Training) and a.is_done(store)]
        needed = [(w.network, w.what) for several in work.values() for w in several]
        known = known_speeds(trainings, store, device)
        speeds = known
        try:
            speeds = measured(needed, known, device, say)
        finally:
            keep(speeds, store, device)
        seconds = {
            key: sum(speeds[w.network, w.what] * w.images for w in several)
            for key, several in work.items()
        }
    there = frozenset(a.key for a in plan.artefacts if a.is_done(store))
    on_gpu = device.type == "cuda"
    return PlanEstimate(plan, there, device_name(device), on_gpu, work, seconds, bounds)
