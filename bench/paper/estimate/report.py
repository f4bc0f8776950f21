"""A plan and its time, for people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ....defective.attacks import parse_attack
from ....defective.errors import counted
from ....train.screen import show
from ..graph.artefact import Artefact
from ..graph.attacking import AdversarialImages
from ..graph.protocol_results import BoundaryScore
from ..graph.results import Result, WhiteBox
from ..graph.training import Training
from .plan import PlanEstimate

DEVICES = 8
WORDS = {
    "data": "image folders",
    "train": "trainings",
    "sample": "choices of images",
    "set": "adversarial sets",
    "result": "evaluations",
}


def show_plan(found: PlanEstimate, console: Console) -> None:
    """Print what has to be made, and how long it takes."""
    plan = found.plan
    kinds = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("artefacts", "in all", "there already", "to make", "passes of images", "time"):
        kinds.add_column(name, justify="left" if name == "artefacts" else "right")
    for kind, words in WORDS.items():
        of_kind = [a for a in plan.artefacts if a.kind == kind]
        todo = [a for a in of_kind if a.key in plan.missing]
        if of_kind:
            # What is neither was removed, and nothing that is left to make needs it.
            there = sum(a.key in found.there for a in of_kind)
            numbers = [len(of_kind), there, len(todo)]
            kinds.add_row(words, *map(str, numbers), _passes(found, todo), _time(found, todo))
    show(console, kinds, _groups(found))
    if found.seconds is None:
        show(console, "Not timed; without --no-measure a few steps of each network are.")
        return
    where = "GPU hours" if found.on_gpu else "hours of this CPU"
    sign = "at most " if found.at_most else ""
    lines = [
        f"in all {sign}{found.total / 3600:.2f} {where} ({found.device}), one after the other, by "
        "steps timed here or by trainings that are finished; reading data comes on top",
        f"on {DEVICES} such devices {sign}{hours(found.makespan(DEVICES))}; the longest chain is "
        f"{hours(found.longest_chain)}",
    ]
    show(console, *lines)


def _groups(found: PlanEstimate) -> Table:
    """What has to be made, by what it is; the longest first."""
    groups: dict[str, list[Artefact]] = defaultdict(list)
    for artefact in found.plan.to_make():
        groups[_group(artefact)].append(artefact)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("to make", "number", "passes of images", "time"):
        table.add_column(name, justify="left" if name == "to make" else "right", overflow="fold")
    seconds = found.seconds or {}
    order = sorted(groups, key=lambda g: (-sum(seconds.get(a.key, 0) for a in groups[g]), g))
    for group in order:
        several = groups[group]
        table.add_row(group, str(len(several)), _passes(found, several), _time(found, several))
    return table


def _group(artefact: Artefact) -> str:
    match artefact:
        case Training():
            config = artefact.config
            extra = [config.regularizer] if config.regularizer != "none" else []
            extra += ["adversarial"] if config.adversarial_eps else []
            what = " ".join([config.arch, config.defects, *extra])
            return f"train {what}, {counted(config.epochs, 'epoch')}"
        case AdversarialImages():
            return f"set {parse_attack(artefact.attack).name} from {_archs(artefact)}"
        case WhiteBox() | BoundaryScore():
            return f"attack targets with {parse_attack(artefact.attack).name}"
        case Result():
            return f"evaluate: {type(artefact).__name__.lower()}"
    return WORDS[artefact.kind]


def _archs(artefact: AdversarialImages) -> str:
    return " + ".join(dict.fromkeys(m.config.arch for m in artefact.source.members))


def _passes(found: PlanEstimate, artefacts: Iterable[Artefact]) -> str:
    keys = [a.key for a in artefacts]
    count = sum(w.images for key in keys for w in found.work.get(key, ()))
    return _at_most(found, keys) + f"{count:,.0f}" if count else "-"


def _time(found: PlanEstimate, artefacts: Iterable[Artefact]) -> str:
    keys = [a.key for a in artefacts]
    if found.seconds is None or not keys:
        return "-"
    return _at_most(found, keys) + hours(sum(found.seconds.get(key, 0.0) for key in keys))


def _at_most(found: PlanEstimate, keys: list[str]) -> str:
    return "<= " if any(key in found.at_most for key in keys) else ""


def hours(seconds: float) -> str:
    """A time in the unit that people would choose."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
