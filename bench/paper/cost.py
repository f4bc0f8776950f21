"""How long a plan takes, before it is begun: passes of networks, counted, and steps, timed."""

from __future__ import annotations

import itertools
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ...defective import Defects, create_model, graph
from ...defective.attacks import Attack, parse_attack
from ...defective.attacks.boundary import Boundary
from ...defective.attacks.carlini_wagner import CWL2
from ...defective.attacks.fgsm import FGSM
from ...defective.attacks.oracle import loss_gradient
from ...defective.attacks.pgd import PGD
from ...defective.errors import counted
from ...defective.serialization import atomic_path
from ...train.config import TrainConfig
from ...train.distributed import World, device_name
from ...train.engine import Engine
from ...train.robustness.models import full_precision
from ...train.runfolder import SUMMARY
from ...train.screen import show
from ...train.setup import resolve
from .artefacts import AdversarialImages, Model, Result, Sample, Training
from .data import info_of
from .work import Artefact, Plan, Store

What = Literal["train", "gradient", "forward"]

FEW = 8
"""Images at once on a CPU if more take longer than ``PATIENCE`` seconds; it is hardly slower so."""
PATIENCE = 1.0
ATTACKED = 250
WARM_UP, REPEATS = 2, 3
CAPTURED = graph.WARM_UP + 1
"""Steps until all the others are replayed."""
WORDS = {
    "data": "image folders",
    "train": "trainings",
    "sample": "choices of images",
    "set": "adversarial sets",
    "result": "evaluations",
}


class Network(NamedTuple):
    """What the speed of a network depends on.

    ``defects`` has one keep probability for all masks of neurons: they cost the same.
    """

    arch: str
    defects: str
    width: int | None
    side: int
    channels: int
    classes: int
    regularizer: str
    thermometer: int
    batch_size: int
    precision: str
    channels_last: bool | None


class Work(NamedTuple):
    """Passes of one network.

    ``what`` is "train", forward, backward and update; "gradient", forward, and backward to the
    image; or "forward". ``images`` is how many pass, an image that passes again included;
    ``at_most`` whether that is a bound, because images leave early.
    """

    network: Network
    what: What
    images: float
    at_most: bool = False


def network_of(training: Training) -> Network:
    """Raises UserError as :func:`scotoma.bench.paper.data.info_of`."""
    config, info = training.config, info_of(training.data)
    defects = Defects.parse(config.defects)
    terms = tuple(
        replace(t, keep_probability=0.5) if t.kind in ("neuron", "SM") else t for t in defects.terms
    )
    return Network(
        config.arch,
        str(replace(defects, terms=terms)),
        config.width,
        *(info.side, info.channels, info.classes),
        *(config.regularizer, config.thermometer, config.batch_size, config.precision),
        config.channels_last,
    )


def attack_passes(attack: Attack) -> tuple[float, float, bool]:
    """(gradients, forwards, whether they are bounds) of one image."""
    match attack:
        case FGSM():
            return 1, 2, False
        case CWL2():
            return attack.search_steps * attack.steps, 2, True
        case PGD():
            return attack.steps * attack.restarts, 2, attack.stop_when_fooled
        case Boundary():
            steps = attack.steps * (1 + 1 / attack.update_every)
            most = steps + attack.start_draws + attack.start_steps
            return 0, min(most, attack.max_queries or most), True
    return getattr(attack, "steps", 1), 2, True


def work_of(artefact: Artefact, store: Store) -> list[Work]:
    """The passes that making it takes; none for what costs next to nothing.

    Raises:
        UserError: data that is no data set.
    """

    def passes(model: Model, what: What, images: float, at_most: bool = False) -> list[Work]:
        """Of every member of an ensemble."""
        return [Work(network_of(member), what, images, at_most) for member in model.members]

    def count(sample: Sample, most: int | None = None) -> int:
        """Images, at most: a small test set has fewer than are asked for."""
        found = min(sample.count, info_of(sample.data).test)
        return found if most is None else min(found, most)

    def attacked(model: Model, text: str, images: int) -> list[Work]:
        gradients, forwards, at_most = attack_passes(parse_attack(text))
        found = passes(model, "forward", images * forwards, at_most and not gradients)
        if gradients:
            found += passes(model, "gradient", images * gradients, at_most)
        return found

    match artefact:
        case Training(config=config):
            epochs, data = artefact.epochs_left(store), info_of(artefact.data)
            test = min(data.test, config.test_limit or data.test)
            network, images = network_of(artefact), epochs * data.train
            found = [
                Work(network, "train", images * (2 if config.logit_pairing else 1)),
                Work(network, "forward", epochs * test),
            ]
            if config.adversarial_eps:
                images += epochs * min(config.adversarial_test_images, test)
                found.append(Work(network, "gradient", images * config.adversarial_steps))
            return found
        case Sample():
            test = info_of(artefact.data).test
            return [w for model in artefact.models for w in passes(model, "forward", test, True)]
        case AdversarialImages():
            return attacked(artefact.source, artefact.attack, count(artefact.sample, artefact.most))
        case Result(protocol="clean"):
            return passes(artefact.target, "forward", info_of(artefact.data).test)
        case Result(protocol="stylized"):
            test = info_of(artefact.data).test
            return [w for t in artefact.targets for w in passes(t, "forward", 2 * test, True)]
        case Result(protocol="transfer"):
            images = count(artefact.sample, artefact.images.most)
            return passes(artefact.target, "forward", 2 * images)
        case Result(protocol="white-box" | "boundary"):
            return attacked(artefact.target, artefact.attack, count(artefact.sample))
        case Result(protocol="noise" | "shuffle"):
            options = dict(artefact.options)
            times = len(options.get("epsilons") or options["grids"]) * options.get("draws", 1)
            return passes(artefact.target, "forward", count(artefact.sample) * times)
    return []


# Speeds.


def seconds_an_image(network: Network, what: What, device: torch.device) -> float:
    """The median over a few steps, after a warm-up that compiles what has to be compiled.

    Training is in the run's own precision, attacks and verdicts in float32, all as they are made;
    in the run's batch size, or on a CPU in batches of 8 where that takes long.
    """
    size = max(2, network.batch_size) if what == "train" else ATTACKED
    if device.type == "cpu" and size > FEW:
        few = _measured(network, what, device, FEW)
        if few * size > PATIENCE:
            return few
    return _measured(network, what, device, size)


def _measured(network: Network, what: What, device: torch.device, size: int) -> float:
    """Seconds an image, in batches of ``size``."""
    config = TrainConfig(
        batch_size=size,
        precision=network.precision,
        channels_last=network.channels_last if what == "train" else None,
        name="timed",
    )
    model = create_model(
        network.arch,
        network.defects,
        num_classes=network.classes,
        in_channels=network.channels,
        image_size=network.side,
        width=network.width,
        regularizer=network.regularizer,
        thermometer=network.thermometer,
    )
    engine = Engine(model, resolve(config, device), device, World())
    images = torch.rand(size, network.channels, network.side, network.side, device=device)
    labels = torch.zeros(size, dtype=torch.int64, device=device)
    numbers = itertools.count()

    def step() -> None:
        if what == "train":
            engine.step((images, labels), next(numbers), 1e-3, size)
        elif what == "gradient":
            loss_gradient(model, images, labels)
        else:
            with torch.no_grad():
                model(images)

    if what == "train":
        model.train()
        # Most steps of a run are replayed from a graph, where it has one.
        return _timed(step, device, WARM_UP if engine.graph is None else CAPTURED) / size
    model.eval().requires_grad_(False)
    with full_precision():
        return _timed(step, device, WARM_UP) / size


def _timed(step: Callable[[], None], device: torch.device, warm_up: int) -> float:
    """Seconds of a step, after some that do not count."""
    found = []
    for _ in range(warm_up + REPEATS):
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - start)
    return median(found[warm_up:])


def _name(network: Network, what: What) -> str:
    """In ``speeds.json`` of a store: {device: {name: seconds an image}}, kept for the next time."""
    return json.dumps([network._asdict(), what], sort_keys=True)


def _kept_speeds(path: Path) -> dict[str, dict[str, float]]:
    """A damaged file is a lost cache, no more."""
    try:
        content = json.loads(path.read_text())
        return {
            machine: {name: float(seconds) for name, seconds in speeds.items()}
            for machine, speeds in content.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def finished_speeds(
    trainings: Iterable[Training], store: Store, device: torch.device
) -> dict[str, float]:
    """What finished trainings took on this device: evaluation after each epoch and all that the
    loop does included."""
    found = {}
    for training in trainings:
        if training.config.adversarial_eps:
            continue  # most of its time is the attack's
        try:
            summary = json.loads((training.path(store) / SUMMARY).read_text())
            images = int(summary["train_images"]) * int(summary["epochs"])
            if summary["device"] == device_name(device):
                speed = float(summary["train_s"]) / images
                found[_name(network_of(training), "train")] = speed
        except (OSError, ValueError, TypeError, KeyError, ZeroDivisionError):
            continue
    return found


# Of a whole plan.


@dataclass(frozen=True)
class Cost:
    """What a plan costs.

    Attributes:
        plan: of it. there: keys of what is made already. device: what was measured.
        work: {key: passes} of what has to be made. seconds: {key: seconds}, or None if nothing was
            measured.
    """

    plan: Plan
    there: frozenset[str]
    device: torch.device
    work: Mapping[str, list[Work]]
    seconds: Mapping[str, float] | None

    @property
    def total(self) -> float:
        """Seconds on one device, one after the other."""
        return sum((self.seconds or {}).values())


def cost_of(
    plan: Plan,
    store: Store,
    device: torch.device,
    say: Callable[[str], None],
    measure: bool = True,
) -> Cost:
    """What making the missing artefacts takes on ``device``.

    Args:
        say: gets a line for each network that is timed. measure: time what is not known; otherwise
            there are no seconds. Nothing but speeds.json is written to the store.

    Raises:
        UserError: data that is no data set. OSError: speeds.json cannot be written.
    """
    work = {artefact.key: work_of(artefact, store) for artefact in plan.to_make()}
    seconds = None
    if measure:
        trainings = [a for a in plan.artefacts if isinstance(a, Training) and a.is_done(store)]
        machine = f"{device_name(device)}, torch {torch.__version__}"
        path = store.folder / "speeds.json"
        kept = _kept_speeds(path)
        speeds = kept.get(machine, {}) | finished_speeds(trainings, store, device)
        needed = {_name(w.network, w.what): w for several in work.values() for w in several}
        missing = [name for name in needed if name not in speeds]
        try:
            for number, name in enumerate(missing, 1):
                network, what, *_ = needed[name]
                say(
                    f"timing [{number}/{len(missing)}] {network.arch} {network.defects}, {what}, "
                    f"{network.side} pixels"
                )
                speeds[name] = seconds_an_image(network, what, device)
        finally:
            with atomic_path(path) as temporary:
                content = json.dumps(kept | {machine: speeds}, indent=1, sort_keys=True)
                temporary.write_text(content + "\n")
        seconds = {
            key: sum(speeds[_name(w.network, w.what)] * w.images for w in several)
            for key, several in work.items()
        }
    there = frozenset(a.key for a in plan.artefacts if a.is_done(store))
    return Cost(plan, there, device, work, seconds)


def show_cost(found: Cost, console: Console) -> None:
    """Print what has to be made, and how long it takes."""
    plan = found.plan
    kinds = _table("artefacts", "in all", "there already", "to make")
    for kind, words in WORDS.items():
        of_kind = [a for a in plan.artefacts if a.kind == kind]
        todo = [a for a in of_kind if a.key in plan.missing]
        if of_kind:
            # What is neither was removed, and nothing that is left to make needs it.
            there = sum(a.key in found.there for a in of_kind)
            numbers = [len(of_kind), there, len(todo)]
            kinds.add_row(words, *map(str, numbers), *_totals(found, todo))
    groups: dict[str, list[Artefact]] = defaultdict(list)
    for artefact in plan.to_make():
        groups[_group(artefact)].append(artefact)
    table, seconds = _table("to make", "number"), found.seconds or {}
    for group in sorted(groups, key=lambda g: (-sum(seconds.get(a.key, 0) for a in groups[g]), g)):
        table.add_row(group, str(len(groups[group])), *_totals(found, groups[group]))
    show(console, kinds, table)
    if found.seconds is None:
        show(console, "Not timed; without --no-measure a few steps of each network are.")
        return
    where = "GPU hours" if found.device.type == "cuda" else "hours of this CPU"
    sign = "at most " if any(w.at_most for several in found.work.values() for w in several) else ""
    show(
        console,
        f"in all {sign}{found.total / 3600:.2f} {where} ({device_name(found.device)}), one after "
        "the other, by steps timed here or by trainings that are finished; reading data comes on "
        "top",
    )


def _table(first: str, *others: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, justify="left", overflow="fold")
    for name in (*others, "passes of images", "time"):
        table.add_column(name, justify="right", overflow="fold")
    return table


def _group(artefact: Artefact) -> str:
    """What an artefact is, for people: alike ones are one row."""
    match artefact:
        case Training(config=config):
            extra = [config.regularizer] if config.regularizer != "none" else []
            extra += ["adversarial"] if config.adversarial_eps else []
            what = " ".join([config.arch, config.defects, *extra])
            return f"train {what}, {counted(config.epochs, 'epoch')}"
        case AdversarialImages(source=source):
            archs = " + ".join(dict.fromkeys(m.config.arch for m in source.members))
            return f"set {parse_attack(artefact.attack).name} from {archs}"
        case Result(attack="", protocol=protocol):
            return f"evaluate: {'shuffled' if protocol == 'shuffle' else protocol}"
        case Result():
            return f"attack targets with {parse_attack(artefact.attack).name}"
    return WORDS[artefact.kind]


def _totals(found: Cost, artefacts: list[Artefact]) -> tuple[str, str]:
    """(passes of images, time)"""
    work = [w for a in artefacts for w in found.work.get(a.key, ())]
    sign = "<= " if any(w.at_most for w in work) else ""
    count = sum(w.images for w in work)
    passes = f"{sign}{count:,.0f}" if count else "-"
    if found.seconds is None or not artefacts:
        return passes, "-"
    return passes, sign + hours(sum(found.seconds.get(a.key, 0.0) for a in artefacts))


def hours(seconds: float) -> str:
    """A time in the unit that people would choose."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
