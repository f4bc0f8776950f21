"""Time attacks beside those of foolbox, at equal settings and with equal results.

    scotoma bench attacks [options]

A small network learns the sample that comes with scotoma (or --model names a trained one), once for
each of --defects. Every attack then runs on images that the network has right: ours in several
ways, foolbox's (for MI-FGSM torchattacks') with the same settings. First all results are compared,
by pixels and predictions, or by success rate and median perturbation; one that does not agree gets
no time. Then they are timed in turns, by Python's clock. What a time covers is the attack alone: no
side judges its results in it.

Rows of results, with the device, versions, commit and clocks, are appended to a file of JSON lines;
a table of each case follows, and the cases in which a library is faster than we are.

Needs foolbox: pip install 'scotoma[crosscheck]'

Exit status: 0; 1 if a variant failed or found something else; 75 if --resume has
left cases for the next call; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ..defective import Defects
from ..defective.attacks import Attack, Oracle, make_attack
from ..defective.attacks.boundary import Boundary
from ..defective.errors import UserError
from ..defective.layers import use_backend
from ..kernels import backends
from ..train.config import TrainConfig
from ..train.data import DataSet, ResidentBatches
from ..train.distributed import World
from ..train.engine import Engine
from ..train.screen import show
from ..train.setup import build_model, load_data, make_batches, resolve
from . import harness
from .convergence import train_epoch
from .harness import figure
from .options import (
    add_run_options,
    add_variants,
    add_windows,
    check_names,
    check_window_seconds,
    make_parser,
    positive,
)
from .report.rows import grouped

ARCH = "resnet18"
TRAINING_LIMIT = 2000
"""Training images on a CPU."""
AT_ONCE = 250
"""Images of a pass that looks for those that the network has right."""
LONG = 10
"""Stretches: so much longer than one, a first attack is long with or without its preparation."""
INSTALL = "pip install 'scotoma[crosscheck]'"

# Why a time would mean nothing.
EQUAL_PREDICTIONS = {"float32": 0.95, "bfloat16": 0.8}
"""Least share, for attacks in a ball. Signs of gradients near zero differ with the order of sums,
and in bfloat16 many more do."""
SUCCESS = {"float32": 0.02, "bfloat16": 0.05}
"""How much lower the success rate may be; in a ball, how far it may be in either direction."""
LONGER = {"cw-l2": 1.01, "cw-l2-stop": 1.05, "boundary": 1.25}
"""How much longer the median perturbation may be. Where nothing is random and nobody stops early
only rounding excuses; the boundary attack is random, and here it has one seed and few images."""

FOOLBOX, TORCHATTACKS = PEERS = ("foolbox", "torchattacks")
"""Those that the others are compared with."""
EPS, STEP = 8 / 255, 2 / 255


class Setup(NamedTuple):
    """An attack and whom it is compared with.

    Attributes:
        text: for people. name: of the attack in scotoma. settings: its settings, on any device.
        peer: the library whose attack of equal settings runs beside it.
        minimal: the attack looks for the nearest adversarial image, so that success and distance
            count; otherwise for the worst one of a ball, so that pixels and predictions do.
        graph: its passes can be captured in a CUDA graph.
    """

    text: str
    name: str
    settings: dict[str, Any]
    peer: str = FOOLBOX
    minimal: bool = False
    graph: bool = False


SETUPS = {
    "fgsm": Setup("FGSM, eps 8/255", "fgsm", {"eps": EPS}, graph=True),
    "pgd20": Setup(
        "PGD of 20 steps of 2/255, eps 8/255, from the image",
        "pgd",
        {"eps": EPS, "step": STEP, "steps": 20},
        graph=True,
    ),
    "mifgsm": Setup(
        "MI-FGSM of 20 steps, otherwise as pgd20; beside torchattacks, as foolbox's is another",
        "mifgsm",
        {"eps": EPS, "step": STEP, "steps": 20, "decay": 1.0},
        TORCHATTACKS,
        graph=True,
    ),
    "cw-l2": Setup(
        "Carlini-Wagner in L2, confidence 0, all steps on both sides",
        "cw-l2",
        {"confidence": 0.0, "lr": 0.01, "stop_early": False},
        minimal=True,
    ),
    "cw-l2-stop": Setup(
        "the same with early stop: foolbox stops a batch as a whole, ours each image by itself",
        "cw-l2",
        {"confidence": 0.0, "lr": 0.01, "stop_early": True},
        minimal=True,
    ),
    "boundary": Setup(
        "the boundary attack, from images of other classes", "boundary", {}, minimal=True
    ),
}


class Variant(NamedTuple):
    """How an attack is run.

    Attributes:
        text: for people. library: None for this package.
        fused: the network runs its fused kernels, where they run at all; otherwise plain PyTorch.
        graph: gradients from a CUDA graph. dtype: of autocast.
        gpu: needs one.
    """

    text: str
    library: str | None = None
    fused: bool = True
    graph: bool = False
    dtype: torch.dtype | None = None
    gpu: bool = False

    def takes(self, setup: Setup) -> bool:
        """Whether it has something to run for this attack."""
        if self.library is not None:
            return self.library == setup.peer
        return setup.graph or not self.graph


BFLOAT16 = {"dtype": torch.bfloat16, "gpu": True}
VARIANTS = {
    "scotoma": Variant("scotoma's attack, fused kernels where there is a GPU"),
    "scotoma-graph": Variant("the same, gradients from a CUDA graph", graph=True, gpu=True),
    "scotoma-bfloat16": Variant("scotoma, the attack's passes in bfloat16", **BFLOAT16),
    "scotoma-bfloat16-graph": Variant("both of these", graph=True, **BFLOAT16),
    "foolbox": Variant("foolbox on the network in plain PyTorch", FOOLBOX, fused=False),
    "foolbox-fused": Variant("foolbox on the network with fused kernels", FOOLBOX, gpu=True),
    "torchattacks": Variant(
        "torchattacks on the network in plain PyTorch (mifgsm only)", TORCHATTACKS, fused=False
    ),
}


class Case(NamedTuple):
    """One attack on one network and batch.

    Attributes:
        attack: a key of ``SETUPS``. network: which, for people and files. batch_size: images.
        defects: of the network, in the paper's notation.
    """

    attack: str
    network: str
    defects: str
    batch_size: int

    def __str__(self) -> str:
        return f"{self.attack} {self.network} batch {self.batch_size}"

    @property
    def setup(self) -> Setup:
        return SETUPS[self.attack]


def our_attack(case: Case, budgets: dict) -> Attack:
    """The attack of a case with all its settings.

    budgets: steps of the two attacks that search for the nearest image: the number of constants
    that CW-L2 tries (``cw_constants``), the first of them (``cw_initial``), its steps for each
    (``cw_steps``), and the most steps of the boundary attack (``boundary_steps``).
    """
    more: dict[str, Any] = {}
    if case.setup.name == "cw-l2":
        more = {"search_steps": budgets["cw_constants"], "steps": budgets["cw_steps"]}
        more["initial_const"] = budgets["cw_initial"]
    if case.attack == "boundary":
        more = {"steps": budgets["boundary_steps"]}
    return make_attack(case.setup.name, case.setup.settings | more)


@dataclass(frozen=True)
class Target:
    """What is attacked: a network that learned something, twice, and images that it has right.

    The margins of an untrained network mean nothing, and so would the time of an attack that ends
    when it has crossed one.

    Attributes:
        name: the network, for people. dataset: where the images are from.
        fused, eager: the same weights, in evaluation mode on the device, with fused kernels where
            they run, and in plain PyTorch.
        images, labels: [N,C,H,W] in [0,1] and int64 [N], test images that ``eager`` has right,
            then, if these are too few, training images.
        from_test: how many of them are test images. accuracy: of ``eager`` on the test images.
    """

    name: str
    dataset: str
    fused: nn.Module
    eager: nn.Module
    images: Tensor
    labels: Tensor
    from_test: int
    accuracy: float

    def starts(self, count: int) -> Tensor:
        """For each of the first images another one of another class, which is adversarial.

        Raises:
            UserError: all are of one class.
        """
        other = self.labels[:count, None] != self.labels[None, :]
        if not bool(other.any(1).all()):
            raise UserError(
                f"{self.name} has right images of one class only, so that boundary has nowhere to "
                "start from; give a better network, or more images by --batch"
            )
        return self.images[other.int().argmax(1)]


def trained(config: TrainConfig, device: torch.device, count: int) -> Target:
    """A network trained by settings, and ``count`` images for it. Raises UserError."""
    config = resolve(config, device)
    data = load_data(config)
    engine = Engine(build_model(config, data), config, device, World())
    batches = make_batches(config, data, data.train, device, training=True)
    for epoch in range(config.epochs):
        engine.model.train()
        train_epoch(engine, batches, config, epoch)
    model = build_model(config, data)
    model.load_state_dict(engine.model.state_dict())
    return make_target(network_name(config.defects, config.width), model, data, device, count)


def loaded(path: str, dataset: str | None, device: torch.device, count: int) -> Target:
    """A network from a run folder or checkpoint, and images of its data set. Raises UserError."""
    # These need a library that nothing else here does.
    from ..train.robustness.models import load_common_data, load_named

    models = load_named([path], None, device)
    data = load_common_data(models, dataset)
    return make_target(models[0].name, models[0].model, data, device, count)


def make_target(
    name: str, model: nn.Module, data: DataSet, device: torch.device, count: int
) -> Target:
    """A network with ``count`` images that it has right.

    Raises:
        UserError: there are not so many, or the images are not kept in memory.
    """
    if not data.resident:
        raise UserError(f"{data.name} has images over 64 pixels, which are not measured here")
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    eager = model.to(device, memory_format=layout).eval()
    fused = copy.deepcopy(eager)
    use_backend(eager, "eager")
    use_backend(fused, None)
    images, labels, from_test = _right(eager, data, device, count)
    if len(labels) < count:
        raise UserError(
            f"batch is {count}, but {name} has only {len(labels)} images of {data.name} right; "
            "give a smaller --batch or a better network"
        )
    images = images[:count].contiguous(memory_format=layout)
    right = min(count, from_test)
    accuracy = from_test / len(data.test)
    return Target(name, data.name, fused, eager, images, labels[:count], right, accuracy)


@torch.no_grad()
def _right(model: nn.Module, data: DataSet, device, count: int) -> tuple[Tensor, Tensor, int]:
    """Images and labels that the model has right, and how many of them are test images.

    All of the test images; then as many training images as it takes to have ``count``.
    """
    found: list[tuple[Tensor, Tensor]] = []
    total = from_test = 0
    for split in (data.test, data.train):
        for images, labels in ResidentBatches(split, device).in_order(AT_ONCE):
            if split is data.train and total >= count:
                break
            right = model(images).argmax(1) == labels
            found.append((images[right], labels[right]))
            total += len(found[-1][1])
        from_test = from_test or total
    images, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return images, labels, from_test


Run = Callable[[], Tensor]
"""Attacks the target's images once and returns the adversarial ones."""


def make_run(name: str, case: Case, attack: Attack, target: Target) -> tuple[Run, Oracle | None]:
    """A variant at work on a target.

    Returns:
        What to time; and for this package's variants the oracle, whose counters then hold the
        passes of the last run.
    """
    variant = VARIANTS[name]
    model = target.fused if variant.fused else target.eager
    images, labels = target.images[: case.batch_size], target.labels[: case.batch_size]
    starts = target.starts(case.batch_size) if isinstance(attack, Boundary) else None
    if variant.library == FOOLBOX:
        return foolbox_run(case.attack, attack, model, images, labels, starts), None
    if variant.library == TORCHATTACKS:
        theirs = library(TORCHATTACKS).MIFGSM(
            model, eps=attack.eps, alpha=attack.step, steps=attack.steps, decay=attack.decay
        )
        return lambda: theirs(images, labels).detach(), None
    oracle = Oracle(model, variant.dtype, variant.graph)
    if starts is not None:
        attack = attack.starting_from(starts)
    return lambda: attack.images(oracle, images, labels), oracle


def available(name: str) -> bool:
    """Whether a library can be imported; it is not."""
    return importlib.util.find_spec(name) is not None


def library(name: str) -> ModuleType:
    """Raises UserError if it is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the peer's own imports
            return importlib.import_module(name)
    except ImportError as error:
        problem = f"{name}, to be measured beside, cannot be imported ({error}): {INSTALL}"
        raise UserError(problem) from error


def foolbox_run(
    name: str,
    attack: Attack,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    starts: Tensor | None = None,
) -> Run:
    """foolbox's attack with the settings of ours. It judges its results no more than ours does.

    Args:
        starts: adversarial images for the boundary attack to start from.
    """
    foolbox = library(FOOLBOX)
    # Its own choice would be the first GPU, wherever the model is.
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
    criterion = foolbox.criteria.Misclassification(labels)
    theirs = foolbox_attack(foolbox.attacks, name, attack)
    options = {"epsilon": attack.eps} if hasattr(attack, "eps") else {}
    if starts is not None:
        options = {"starting_points": starts}

    def run() -> Tensor:
        with _seeded(images.device):
            found = theirs.run(wrapped, images, criterion, **options)
        if name.startswith("cw-l2"):  # it returns black where it found nothing
            nothing = (found == 0).flatten(1).all(1)
            found = torch.where(nothing[:, None, None, None], images, found)
        return found.detach()

    return run


def foolbox_attack(attacks: ModuleType, name: str, attack: Attack):
    """The attack of ``foolbox.attacks`` that does what ours does."""
    if name == "fgsm":
        return attacks.LinfFastGradientAttack()
    if name == "pgd20":
        return attacks.LinfProjectedGradientDescentAttack(
            abs_stepsize=attack.step, steps=attack.steps, random_start=False
        )
    if name.startswith("cw-l2"):
        return attacks.L2CarliniWagnerAttack(
            binary_search_steps=attack.search_steps,
            steps=attack.steps,
            stepsize=attack.lr,
            confidence=attack.confidence,
            initial_const=attack.initial_const,
            abort_early=attack.stop_early,
        )
    return attacks.BoundaryAttack(
        steps=attack.steps,
        spherical_step=attack.spherical_step,
        source_step=attack.source_step,
        source_step_convergance=attack.convergence,
        step_adaptation=attack.step_adaptation,
        update_stats_every_k=attack.update_every,
    )


@contextmanager
def _seeded(device: torch.device) -> Iterator[None]:
    """The same random numbers in every run, and the generators as they were afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


@torch.no_grad()
def predictions(model: nn.Module, images: Tensor) -> Tensor:
    """Classes, in the same batches for every variant."""
    return torch.cat([model(part).argmax(1) for part in images.split(250)])


def judge(
    found: Tensor,
    classes: Tensor,
    images: Tensor,
    labels: Tensor,
    peer: tuple[Tensor, Tensor] | None,
    counts: tuple[Tensor, Tensor] | None,
) -> dict[str, float | None]:
    """What became of a batch.

    Args:
        found, classes: adversarial images, and the plain network's classes for them.
        images, labels: of the target. peer: the peer's ``found`` and ``classes``.
        counts: forward and backward passes of each image.

    Returns:
        success: share of the images that the network gets wrong afterwards.
        median_l2: of the perturbations of those, in units of pixels in [0,1]; None without any.
        equal_pixels, equal_predictions: shares that are the same as the peer's; None for the peer.
        forwards, backwards: passes per image, mean; None where nobody counted.
        most_forwards: of one image.
    """
    fooled = classes != labels
    lengths = torch.linalg.vector_norm((found - images).flatten(1), dim=1)[fooled]
    forwards, backwards = (None, None) if counts is None else counts

    def mean(values: Tensor | None) -> float | None:
        return None if values is None else float(values.double().mean())

    return {
        "success": mean(fooled),
        "median_l2": float(lengths.median()) if len(lengths) else None,
        "equal_pixels": mean(None if peer is None else found == peer[0]),
        "equal_predictions": mean(None if peer is None else classes == peer[1]),
        "forwards": mean(forwards),
        "backwards": mean(backwards),
        "most_forwards": None if forwards is None else int(forwards.max()),
    }


def disagreement(own: dict, peer: dict, case: Case, dtype: str) -> list[str]:
    """Why a time of these results would mean nothing beside the peer's; empty if it means
    something.

    Success rates are rates of a batch: one image more or less never counts.
    """
    problems = []
    allowed = max(SUCCESS[dtype], 1.5 / case.batch_size)
    gap = own["success"] - peer["success"]
    if gap < -allowed or (gap > allowed and not case.setup.minimal):
        problems.append(
            f"success rate {own['success']:.4f} beside {peer['success']:.4f}, allowed difference "
            f"{allowed:.4f}"
        )
    if not case.setup.minimal:
        least = min(EQUAL_PREDICTIONS[dtype], 1 - 1.5 / case.batch_size)
        if own["equal_predictions"] < least:
            problems.append(
                f"{own['equal_predictions']:.4f} of the predictions are equal, least {least:.4f}"
            )
    elif own["median_l2"] is not None and peer["median_l2"] is not None:
        most = peer["median_l2"] * LONGER[case.attack]
        if own["median_l2"] > most:
            problems.append(f"median L2 {own['median_l2']:.5g}, allowed {most:.5g}")
    return problems


class Plan(NamedTuple):
    """How every case of a run is measured.

    Attributes:
        names: variants. device: where. budgets: of the longer attacks.
        windows: timed stretches of each. window_seconds: length of one, about, at least one attack.
    """

    names: tuple[str, ...]
    device: torch.device
    budgets: dict
    windows: int
    window_seconds: float


def measure_case(case: Case, target: Target, plan: Plan) -> list[dict]:
    """Rows of all variants that have this attack, the peer first: each runs once, what comes out is
    compared, and those that agree are timed in turns."""
    peer = case.setup.peer
    names = sorted(
        (name for name in plan.names if VARIANTS[name].takes(case.setup)),
        key=lambda name: name != peer,
    )
    attack = our_attack(case, plan.budgets)
    rows = {name: _empty_row(case, name, target, attack.parameters()) for name in names}
    runs: dict[str, Run] = {}
    first: dict[str, float] = {}
    theirs: tuple[Tensor, Tensor] | None = None
    images, labels = target.images[: case.batch_size], target.labels[: case.batch_size]
    for name, row in rows.items():
        with harness.noting(row):
            run, oracle = make_run(name, case, attack, target)
            outputs: list[Tensor] = []
            first[name] = harness.wall_seconds(lambda: outputs.append(run()), plan.device)  # noqa: B023
            (found,) = outputs
            if not bool(found.isfinite().all()):
                raise ValueError("the adversarial images are not finite")
            classes = predictions(target.eager, found)
        if row["problems"]:
            continue
        counts = None if oracle is None else (oracle.forwards.clone(), oracle.backwards.clone())
        row["results"] = judge(found, classes, images, labels, theirs, counts)
        if name == peer:
            theirs = found, classes
        elif theirs is None:
            row["problems"].append("nothing to compare with: the peer failed")
        else:
            own, other = row["results"], rows[peer]["results"]
            row["problems"] += disagreement(own, other, case, row["dtype"])
        if not row["problems"]:
            runs[name] = run
    calls = {
        # A first one that took long says enough, and is not repeated.
        name: 1
        if first[name] > LONG * plan.window_seconds
        else harness.calls_in(run, plan.device, plan.window_seconds)
        for name, run in runs.items()
    }
    for name, seconds in harness.time_in_turns(runs, calls, plan.device, plan.windows).items():
        row = rows[name]
        row["times"] = harness.spread(seconds, calls[name])
        row["images_per_s"] = round(row["batch_size"] / row["times"]["median_us"] * 1e6, 2)
    base = rows[peer]["times"].get("median_us") if peer in rows else None
    for row in rows.values():
        if base and row["times"]:
            row["times_faster"] = round(base / row["times"]["median_us"], 3)
    runs.clear()
    gc.collect()
    return list(rows.values())


def _empty_row(case: Case, name: str, target: Target, parameters: dict) -> dict:
    spec, dtype = target.eager.spec, VARIANTS[name].dtype
    return {
        "attack": case.attack,
        "parameters": parameters,
        "arch": spec.name,
        "defects": str(spec.defects),
        "width": spec.width,
        "image_size": target.images.shape[-1],
        "dataset": target.dataset,
        "accuracy": target.accuracy,
        "test_images": min(case.batch_size, target.from_test),
        "batch_size": case.batch_size,
        "contestant": name,
        "peer": case.setup.peer,
        "dtype": "float32" if dtype is None else str(dtype).removeprefix("torch."),
        "results": {},
        "times": {},
        "images_per_s": None,
        "times_faster": None,
        "problems": [],
    }


def table(case: str, rows: Sequence[dict]) -> Table:
    """Speed and results side by side, a line for each variant."""
    first = rows[0]

    def result(name: str, form: str, factor: float = 1.0) -> Callable[[dict], str]:
        return lambda row: figure(row["results"].get(name), form, factor)

    def seconds(row: dict, *names: str) -> str:
        return "-".join(f"{row['times'][name] / 1e6:.4g}" for name in names)

    columns = {
        "variant": lambda row: row["contestant"],
        "median s": lambda row: seconds(row, "median_us") if row["times"] else "failed",
        "p10-p90 s": lambda row: seconds(row, "p10_us", "p90_us") if row["times"] else "",
        "images/s": lambda row: figure(row["images_per_s"], ",.1f"),
        f"x {first['peer']}": lambda row: figure(row["times_faster"], ".2f"),
        "fooled %": result("success", ".2f", 100),
    }
    if SETUPS[first["attack"]].minimal:
        columns["median L2"] = result("median_l2", ".4f")
    else:
        columns["equal pixels %"] = result("equal_pixels", ".2f", 100)
        columns["equal classes %"] = result("equal_predictions", ".2f", 100)
    columns["passes an image"] = passes
    return harness.console_table(f"{case}, {first['machine']['device']}", rows, columns)


def passes(row: dict) -> str:
    """Forward and backward passes per image."""
    counts = [row["results"].get(name) for name in ("forwards", "backwards")]
    return "-" if None in counts else " + ".join(f"{count:.1f}" for count in counts)


def main(argv: list[str]) -> int:
    """Measure, print, and return the exit status. Raises UserError for bad options."""
    options = parse(argv)
    if options.list:
        for case in chosen_cases(options, named(options)):
            print(f"{case}: {our_attack(case, budgets(options))}")
        return 0
    device = harness.chosen_device(options.cpu)
    names = variants(options, device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    plan = Plan(names, device, budgets(options), options.windows, options.window_seconds)
    settings = {
        "windows": options.windows,
        "window_seconds": options.window_seconds,
        "contestants": list(names),
        "budgets": plan.budgets,
        "training_epochs": None if options.model else options.epochs,
        "foolbox": harness.version("foolbox"),
        "torchattacks": harness.version("torchattacks"),
        "cudnn_tf32": backends.convolutions_may_use_tf32(),
    }
    run = harness.Run("attacks", options, device, settings)
    run.announce(", ".join(names))
    targets = {}
    for target in chosen_targets(options, device, run.console):
        targets[target.name] = target
        run.console.print(
            f"{target.name}: {target.accuracy:.2%} of the test images of {target.dataset}"
        )
    rows = run.measure(
        chosen_cases(options, [(t.name, str(t.eager.spec.defects)) for t in targets.values()]),
        lambda case: measure_case(case, targets[case.network], plan),
        brief,
    )
    for (case,), found in grouped(rows, "case").items():
        show(run.console, table(case, found))
    slower = harness.slower_cases(rows, "scotoma")
    return run.finish(
        lambda row: f"{row['case']}: {row['contestant']}", slower, "slower than a library"
    )


def network_name(defects: str, width: int | None) -> str:
    return f"{ARCH} {defects}" + ("" if width is None else f" width {width}")


def named(options) -> list[tuple[str, str]]:
    """Networks (name, defects) before there are any."""
    if options.model:
        return [(options.model, "")]
    return [(network_name(defects, options.width), defects) for defects in options.defects]


def chosen_targets(options, device: torch.device, console: Console) -> list[Target]:
    """The network that was named, or one of each of --defects, trained now."""
    count = max(options.batch)
    if options.model:
        return [loaded(options.model, options.dataset, device, count)]
    found = []
    for defects in options.defects:
        config = TrainConfig(
            arch=ARCH,
            defects=defects,
            width=options.width,
            epochs=options.epochs,
            train_limit=TRAINING_LIMIT if device.type == "cpu" else None,
        )
        with console.status(f"training {ARCH} {defects}"):
            found.append(trained(config, device, count))
    return found


def brief(rows: list[dict]) -> str:
    """Seconds of each variant."""

    def text(row: dict) -> str:
        median = row["times"].get("median_us")
        return "failed" if median is None else f"{median / 1e6:.4g} s"

    return ", ".join(f"{row['contestant']} {text(row)}" for row in rows)


def chosen_cases(options, networks: list[tuple[str, str]]) -> list[Case]:
    """Cases of networks (name, defects), the short attacks first."""
    return [
        Case(attack, name, defects, batch)
        for attack in options.attacks
        for batch in options.batch
        for name, defects in networks
    ]


def budgets(options) -> dict:
    constants, first = (4, 1.0) if options.cpu else (6, 0.01)
    return {
        "cw_constants": constants,
        "cw_steps": options.cw_steps,
        "cw_initial": first,
        "boundary_steps": options.boundary_steps,
    }


def variants(options, device: torch.device) -> tuple[str, ...]:
    """The names asked for, or all that can run here. Raises UserError."""
    on_gpu = device.type == "cuda"
    usual = [name for name, variant in VARIANTS.items() if on_gpu or not variant.gpu]
    names = check_names("variants", options.variants or usual, VARIANTS)
    if os.environ.get(backends.VARIABLE):
        raise UserError(
            f"{backends.VARIABLE} is set, which would decide for the variants; unset it"
        )
    for name in names:
        if VARIANTS[name].gpu and not on_gpu:
            raise UserError(f"variants has {name!r}, which needs a GPU; leave it out")
    for attack in options.attacks:
        peer = SETUPS[attack].peer
        if peer not in names:
            raise UserError(
                f"variants lacks {peer!r}, which {attack} is compared with: no speed is shown "
                "without the proof that results agree"
            )
        library(peer)
    wanted = {SETUPS[attack].peer for attack in options.attacks}
    return tuple(name for name in names if name not in PEERS or name in wanted)


def parse(argv: list[str]) -> argparse.Namespace:
    lists = {"attacks": SETUPS, "variants": VARIANTS}
    epilog = "\n\n".join(
        f"{title}:\n" + "\n".join(f"  {name:24} {each.text}" for name, each in found.items())
        for title, found in lists.items()
    )
    parser = make_parser("bench attacks", __doc__, epilog)
    add = parser.add_argument
    add("--attacks", nargs="+", metavar="NAME", help=f"some of {', '.join(SETUPS)} (all)")
    add("--defects", nargs="+", metavar="SPEC", help="of the networks (standard 0.3-Bottom)")
    add("--batch", nargs="+", type=positive, metavar="N", help="batch sizes (128 1000; 32 on CPU)")
    add_variants(parser, "default: all that can run here")
    add("--width", type=positive, help=f"base width of {ARCH} (the paper's; 8 with --cpu)")
    add("--epochs", type=positive, help="of the training before (4; 3 on 2000 images with --cpu)")
    add("--model", metavar="RUN", help="attack this run folder or checkpoint; nothing is trained")
    add("--dataset", metavar="NAME", help="with --model: its data set, where no run folder says it")
    add(
        "--cw-steps",
        type=positive,
        metavar="N",
        help="of cw-l2, cw-l2-stop for a constant (200; 40 on CPU)",
    )
    add("--boundary-steps", type=positive, metavar="N", help="of boundary (2000; 200 on CPU)")
    add_windows(parser, "5; 3 with --cpu")
    add_run_options(parser, "attacks", 1800)
    options = parser.parse_args(argv)
    check_window_seconds(options)
    if options.dataset and not options.model:
        raise UserError("dataset is for --model; without one the network learns the sample")
    if options.model:
        for name in ("defects", "width", "epochs"):
            if getattr(options, name) is not None:
                raise UserError(f"{name} is what the network of --model decides; leave it out")
    usual = [name for name, s in SETUPS.items() if s.peer != TORCHATTACKS or available(s.peer)]
    options.attacks = check_names("attacks", options.attacks or usual, SETUPS)
    check_names("variants", options.variants or (), VARIANTS)
    for name, on_cpu, on_gpu in (
        ("batch", [32], [128, 1000]),
        ("width", 8, None),
        ("epochs", 3, 4),
        ("cw_steps", 40, 200),
        ("boundary_steps", 200, 2000),
        ("windows", 3, 5),
    ):
        given = getattr(options, name)
        setattr(options, name, given or (on_cpu if options.cpu else on_gpu))
    defects = options.defects or ["standard", "0.3-Bottom"]
    options.defects = tuple(dict.fromkeys(str(Defects.parse(text)) for text in defects))
    return options
