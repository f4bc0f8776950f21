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
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from types import ModuleType
from typing import Any, NamedTuple

import torch
from rich.table import Table
from torch import Tensor, nn

from ..defective import Defects
from ..defective.attacks import Attack, Boundary, Oracle, make_attack
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
    Names,
    add_run_options,
    add_variants,
    add_windows,
    fill_in,
    make_parser,
    positive,
)
from .report.rows import grouped
from .variants import refuse_backend_for_all

ARCH = "resnet18"
TRAINING_LIMIT = 2000
"""Training images on a CPU."""
AT_ONCE = 250
"""Images of a pass that judges."""
LONG = 10
"""Stretches: so much longer than one, a first attack is long with or without its preparation."""

# Why a time would mean nothing.
EQUAL_PREDICTIONS = {"float32": 0.95, "bfloat16": 0.8}
"""Least share, for attacks in a ball. Signs of gradients near zero differ with the order of sums,
and in bfloat16 many more do."""
SUCCESS = {"float32": 0.02, "bfloat16": 0.05}
"""How much lower the success rate may be; in a ball, how far it may be in either direction."""

FOOLBOX, TORCHATTACKS = PEERS = ("foolbox", "torchattacks")
"""Those that the others are compared with."""
BUDGETS = {
    "cw_constants": (4, 6),
    "cw_steps": (40, 200),
    "cw_initial": (1.0, 0.01),
    "boundary_steps": (200, 2000),
}
"""Of the searches for the nearest image, on a CPU and on a GPU: how many constants CW-L2 tries, its
steps for each, the first of them; the most steps of the boundary attack."""


class Setup(NamedTuple):
    """An attack with its settings.

    Attributes:
        text: for people. name: of the attack in scotoma. settings: its settings; a word is the
            name of one of ``BUDGETS``.
        longer: of an attack that looks for the nearest adversarial image, so that success and
            distance count, how much longer than the peer's the median perturbation may be. None for
            one that looks for the worst image of a ball: pixels and predictions count, and its
            passes can be captured in a CUDA graph.
    """

    text: str
    name: str
    settings: dict[str, Any]
    longer: float | None = None

    @property
    def peer(self) -> str:
        """The library whose attack of equal settings runs beside it."""
        return THEIRS[self.name][0]


BALL = {"eps": 8 / 255, "step": 2 / 255, "steps": 20}
CW = {"confidence": 0.0, "lr": 0.01, "search_steps": "cw_constants", "steps": "cw_steps"}
CW["initial_const"] = "cw_initial"
STOPPING = "the same with early stop: foolbox stops a batch as a whole, ours each image by itself"
MOMENTUM = "MI-FGSM of 20 steps, otherwise as pgd20; beside torchattacks, as foolbox's is another"
# Where nothing is random and nobody stops early, only rounding excuses a longer way. The boundary
# attack is random, and here it has one seed and few images.
SETUPS = {
    "fgsm": Setup("FGSM, eps 8/255", "fgsm", {"eps": 8 / 255}),
    "pgd20": Setup("PGD of 20 steps of 2/255, eps 8/255, from the image", "pgd", BALL),
    "mifgsm": Setup(MOMENTUM, "mifgsm", BALL | {"decay": 1.0}),
    "cw-l2": Setup(
        "Carlini-Wagner in L2, confidence 0, all steps on both sides",
        "cw-l2",
        CW | {"stop_early": False},
        longer=1.01,
    ),
    "cw-l2-stop": Setup(STOPPING, "cw-l2", CW | {"stop_early": True}, longer=1.05),
    "boundary": Setup(
        "the boundary attack, from images of other classes",
        "boundary",
        {"steps": "boundary_steps"},
        longer=1.25,
    ),
}
# Of our attack: the peer, its attack, and which of its settings is which of ours.
THEIRS = {
    "fgsm": (FOOLBOX, "LinfFastGradientAttack", ""),
    "pgd": (
        FOOLBOX,
        "LinfProjectedGradientDescentAttack",
        "abs_stepsize=step steps=steps random_start=random_start",
    ),
    "mifgsm": (TORCHATTACKS, "MIFGSM", "eps=eps alpha=step steps=steps decay=decay"),
    "cw-l2": (
        FOOLBOX,
        "L2CarliniWagnerAttack",
        "binary_search_steps=search_steps steps=steps stepsize=lr confidence=confidence "
        "initial_const=initial_const abort_early=stop_early",
    ),
    "boundary": (
        FOOLBOX,
        "BoundaryAttack",
        "steps=steps spherical_step=spherical_step source_step=source_step "
        "source_step_convergance=convergence step_adaptation=step_adaptation "
        "update_stats_every_k=update_every",
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
        return setup.longer is None or not self.graph


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
        key: of ``SETUPS``. attack: ours, with all its settings. network: which, for people and
            files. batch_size: images.
    """

    key: str
    attack: Attack
    network: str
    batch_size: int

    @property
    def setup(self) -> Setup:
        return SETUPS[self.key]

    def __str__(self) -> str:
        return f"{self.key} {self.network} batch {self.batch_size}"


def make_case(key: str, network: str, batch_size: int, budgets: dict) -> Case:
    """budgets: values for the names of ``BUDGETS``."""
    setup = SETUPS[key]
    settings = {
        name: budgets[value] if isinstance(value, str) else value
        for name, value in setup.settings.items()
    }
    return Case(key, make_attack(setup.name, settings), network, batch_size)


# Whom the attacks attack


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
        """For each of the first images another one of another class, which is adversarial. Raises
        UserError if all are of one class."""
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


@torch.no_grad()
def make_target(
    name: str, model: nn.Module, data: DataSet, device: torch.device, count: int
) -> Target:
    """A network with ``count`` images that it has right, of the test images, then of training's.

    Raises UserError if there are not so many, or the images are not kept in memory.
    """
    if not data.resident:
        raise UserError(f"{data.name} has images over 64 pixels, which are not measured here")
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    eager = model.to(device, memory_format=layout).eval()
    fused = copy.deepcopy(eager)
    use_backend(eager, "eager")
    use_backend(fused, None)
    found: list[tuple[Tensor, Tensor]] = []
    total = from_test = 0
    for split in (data.test, data.train):
        for images, labels in ResidentBatches(split, device).in_order(AT_ONCE):
            if split is data.train and total >= count:
                break
            right = eager(images).argmax(1) == labels
            found.append((images[right], labels[right]))
            total += len(found[-1][1])
        from_test = from_test or total
    if total < count:
        raise UserError(
            f"batch is {count}, but {name} has only {total} images of {data.name} right; "
            "give a smaller --batch or a better network"
        )
    images, labels = (torch.cat(parts)[:count] for parts in zip(*found, strict=True))
    images = images.contiguous(memory_format=layout)
    accuracy = from_test / len(data.test)
    return Target(name, data.name, fused, eager, images, labels, min(count, from_test), accuracy)


# The two sides

Run = Callable[[], Tensor]
"""Attacks the target's images once and returns the adversarial ones."""


def make_run(name: str, case: Case, target: Target) -> tuple[Run, Oracle | None]:
    """What to time; for this package's variants also the oracle, which counts the last run's
    passes."""
    variant, attack = VARIANTS[name], case.attack
    model = target.fused if variant.fused else target.eager
    images, labels = target.images[: case.batch_size], target.labels[: case.batch_size]
    starts = target.starts(case.batch_size) if isinstance(attack, Boundary) else None
    if variant.library == FOOLBOX:
        return foolbox_run(attack, model, images, labels, starts), None
    if variant.library == TORCHATTACKS:
        theirs = peers_attack(library(TORCHATTACKS), attack, model)
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
        raise UserError(
            f"{name}, to be measured beside, cannot be imported ({error}): "
            "pip install 'scotoma[crosscheck]'"
        ) from error


def peers_attack(module: ModuleType, attack: Attack, *arguments: Any):
    """The attack of a peer's module that does what ours does."""
    _, name, same = THEIRS[attack.name]
    pairs = [pair.split("=") for pair in same.split()]
    settings = {theirs: getattr(attack, ours) for theirs, ours in pairs}
    return getattr(module, name)(*arguments, **settings)


def foolbox_run(
    attack: Attack, model: nn.Module, images: Tensor, labels: Tensor, starts: Tensor | None = None
) -> Run:
    """foolbox's attack with the settings of ours, the boundary attack from adversarial ``starts``.
    It judges its results no more than ours does."""
    foolbox = library(FOOLBOX)
    # Its own choice would be the first GPU, wherever the model is.
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
    criterion = foolbox.criteria.Misclassification(labels)
    theirs = peers_attack(foolbox.attacks, attack)
    options = {"epsilon": attack.eps} if hasattr(attack, "eps") else {}
    if starts is not None:
        options = {"starting_points": starts}
    devices = [images.device] if images.is_cuda else []

    def run() -> Tensor:
        # The same random numbers in every run, and the generators as they were afterwards.
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            found = theirs.run(wrapped, images, criterion, **options)
        if attack.name == "cw-l2":  # it returns black where it found nothing
            nothing = (found == 0).flatten(1).all(1)
            found = torch.where(nothing[:, None, None, None], images, found)
        return found.detach()

    return run


# Results, compared before anything is timed


def judge(
    found: Tensor,
    classes: Tensor,
    images: Tensor,
    labels: Tensor,
    peer: tuple[Tensor, Tensor] | None = None,
    counts: tuple[Tensor, Tensor] | None = None,
) -> dict:
    """What an attack found, and how it compares with what its peer did.

    Args:
        found: adversarial images. classes: the network's for them. images, labels: attacked.
        peer: the peer's images and classes; None for the peer itself.
        counts: forward and backward passes of each image; None where nobody counted.

    Returns:
        success: share of the images that are wrong now. median_l2: of these, L2 distance to the
            original; None if there are none.
        equal_pixels, equal_predictions: shares that are the same as the peer's.
        forwards, backwards: mean passes per image. most_forwards: of one image.
    """
    fooled = classes != labels
    lengths = torch.linalg.vector_norm((found - images).flatten(1), dim=1)[fooled]
    forwards, backwards = counts or (None, None)

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
    """Why a time of these results would mean nothing beside the peer's; empty if they agree."""
    # Rates are of a batch: one image more or less never counts.
    few = 1.5 / case.batch_size
    allowed = max(SUCCESS[dtype], few)
    least, most = {"success": peer["success"] - allowed}, {}
    if case.setup.longer is None:
        most["success"] = peer["success"] + allowed
        least["equal_predictions"] = min(EQUAL_PREDICTIONS[dtype], 1 - few)
    elif own["median_l2"] is not None and peer["median_l2"] is not None:
        most["median_l2"] = peer["median_l2"] * case.setup.longer
    return [
        f"{name} is {own[name]:.5g}, allowed at {word} {bound:.5g}"
        for word, bounds, sign in (("least", least, 1), ("most", most, -1))
        for name, bound in bounds.items()
        if not sign * own[name] >= sign * bound
    ]


def measure_case(
    case: Case, target: Target, names: Sequence[str], device: torch.device, options
) -> list[dict]:
    """Rows of all variants that have this attack, the peer first: each runs once, what comes out is
    compared, and those that agree are timed in turns.

    options: ``windows``, timed stretches of each; ``window_seconds``, length of one, about, at
    least one attack.
    """
    peer = case.setup.peer
    names = [name for name in names if VARIANTS[name].takes(case.setup)]
    names.sort(key=lambda name: name != peer)
    rows = {name: _empty_row(case, name, target) for name in names}
    runs: dict[str, Run] = {}
    calls: dict[str, int] = {}
    theirs: tuple[Tensor, Tensor] | None = None
    images, labels = target.images[: case.batch_size], target.labels[: case.batch_size]
    for name, row in rows.items():
        with harness.noting(row):
            run, oracle = make_run(name, case, target)
            outputs: list[Tensor] = []
            first = harness.wall_seconds(lambda: outputs.append(run()), device)  # noqa: B023
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
            both = row["results"], rows[peer]["results"]
            row["problems"] += disagreement(*both, case, row["dtype"])
        if not row["problems"]:
            # A first one that took long says enough, and is not repeated.
            calls[name] = int(first > LONG * options.window_seconds)
            runs[name] = run
    for name, run in runs.items():
        calls[name] = calls[name] or harness.calls_in(run, device, options.window_seconds)
    for name, seconds in harness.time_in_turns(runs, calls, device, options.windows).items():
        times, base = harness.spread(seconds, calls[name]), rows[peer]["times"]
        median = times["median_us"]
        rows[name] |= {"times": times, "images_per_s": round(case.batch_size / median * 1e6, 2)}
        # The peer comes first.
        rows[name]["times_faster"] = round((base or times)["median_us"] / median, 3)
    runs.clear()
    gc.collect()
    return list(rows.values())


@torch.no_grad()
def predictions(model: nn.Module, images: Tensor) -> Tensor:
    """Classes, in the same batches for every variant."""
    return torch.cat([model(part).argmax(1) for part in images.split(AT_ONCE)])


def _empty_row(case: Case, name: str, target: Target) -> dict:
    spec, dtype = target.eager.spec, VARIANTS[name].dtype
    return {
        "attack": case.key,
        "parameters": case.attack.parameters(),
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


# For people


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
    if SETUPS[first["attack"]].longer is None:
        columns["equal pixels %"] = result("equal_pixels", ".2f", 100)
        columns["equal classes %"] = result("equal_predictions", ".2f", 100)
    else:
        columns["median L2"] = result("median_l2", ".4f")
    columns["passes an image"] = passes
    return harness.console_table(f"{case}, {first['machine']['device']}", rows, columns)


def passes(row: dict) -> str:
    """Forward and backward passes per image."""
    counts = [row["results"].get(name) for name in ("forwards", "backwards")]
    return "-" if None in counts else " + ".join(f"{count:.1f}" for count in counts)


def brief(rows: list[dict]) -> str:
    """Seconds of each variant."""

    def text(row: dict) -> str:
        median = row["times"].get("median_us")
        return "failed" if median is None else f"{median / 1e6:.4g} s"

    return ", ".join(f"{row['contestant']} {text(row)}" for row in rows)


# The command line


def main(argv: list[str]) -> int:
    """Measure, print, and return the exit status. Raises UserError for bad options."""
    options = parse(argv)
    if options.list:
        named = [network_name(defects, options.width) for defects in options.defects]
        for case in chosen_cases(options, [options.model] if options.model else named):
            print(f"{case}: {case.attack}")
        return 0
    device = harness.chosen_device(options.cpu)
    names = variants(options, device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    settings = {
        "windows": options.windows,
        "window_seconds": options.window_seconds,
        "contestants": list(names),
        "budgets": {name: getattr(options, name) for name in BUDGETS},
        "training_epochs": None if options.model else options.epochs,
        "foolbox": harness.version("foolbox"),
        "torchattacks": harness.version("torchattacks"),
        "cudnn_tf32": backends.convolutions_may_use_tf32(),
    }
    run = harness.Run("attacks", options, device, settings)
    run.announce(", ".join(names))
    targets = chosen_targets(options, device, run)
    rows = run.measure(
        chosen_cases(options, targets),
        lambda case: measure_case(case, targets[case.network], names, device, options),
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


def chosen_targets(options, device: torch.device, run: harness.Run) -> dict[str, Target]:
    """The network that was named, or one of each of --defects, trained now; by name."""
    count, found = max(options.batch), []
    if options.model:
        found.append(loaded(options.model, options.dataset, device, count))
    for defects in () if options.model else options.defects:
        config = TrainConfig(
            arch=ARCH,
            defects=defects,
            width=options.width,
            epochs=options.epochs,
            train_limit=TRAINING_LIMIT if device.type == "cpu" else None,
        )
        with run.console.status(f"training {ARCH} {defects}"):
            found.append(trained(config, device, count))
    for target in found:
        share = f"{target.accuracy:.2%} of the test images of {target.dataset}"
        run.console.print(f"{target.name}: {share}")
    return {target.name: target for target in found}


def chosen_cases(options, networks: Iterable[str]) -> list[Case]:
    """The short attacks first."""
    return [
        make_case(key, network, batch, vars(options))
        for key, batch, network in product(options.attacks, options.batch, networks)
    ]


def variants(options, device: torch.device) -> tuple[str, ...]:
    """The names asked for, or all that can run here, without peers of other attacks alone. Raises
    UserError."""
    on_gpu = device.type == "cuda"
    usual = [name for name, variant in VARIANTS.items() if on_gpu or not variant.gpu]
    names = options.variants or usual
    refuse_backend_for_all()
    for name in names:
        if VARIANTS[name].gpu and not on_gpu:
            raise UserError(f"variants has {name!r}, which needs a GPU; leave it out")
    wanted = {SETUPS[key].peer: key for key in reversed(options.attacks)}
    for peer, key in wanted.items():
        if peer not in names:
            raise UserError(
                f"variants lacks {peer!r}, which {key} is compared with: no speed is shown "
                "without the proof that results agree"
            )
        library(peer)
    return tuple(name for name in names if name not in PEERS or name in wanted)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = make_parser("bench attacks", __doc__, {"attacks": SETUPS, "variants": VARIANTS})
    add = parser.add_argument
    text = f"some of {', '.join(SETUPS)} (all)"
    add("--attacks", action=Names, known=SETUPS, nargs="+", help=text)
    add("--defects", nargs="+", metavar="SPEC", help="of the networks (standard 0.3-Bottom)")
    add("--batch", nargs="+", type=positive, metavar="N", help="batch sizes (128 1000; 32 on CPU)")
    add_variants(parser, VARIANTS, "default: all that can run here")
    add("--width", type=positive, help=f"base width of {ARCH} (the paper's; 8 with --cpu)")
    add("--epochs", type=positive, help="of the training before (4; 3 on 2000 images with --cpu)")
    add("--model", metavar="RUN", help="attack this run folder or checkpoint; nothing is trained")
    add("--dataset", metavar="NAME", help="with --model: its data set, where no run folder says it")
    for flag, text in (
        ("--cw-steps", "of cw-l2, cw-l2-stop for a constant (200; 40 on CPU)"),
        ("--boundary-steps", "of boundary (2000; 200 on CPU)"),
    ):
        add(flag, type=positive, metavar="N", help=text)
    add_windows(parser, "5; 3 with --cpu")
    add_run_options(parser, "attacks", 1800)
    parser.set_defaults(cw_constants=None, cw_initial=None)
    options = parser.parse_args(argv)
    if options.dataset and not options.model:
        raise UserError("dataset is for --model; without one the network learns the sample")
    for name in ("defects", "width", "epochs") if options.model else ():
        if getattr(options, name) is not None:
            raise UserError(f"{name} is what the network of --model decides; leave it out")
    usual = [name for name, s in SETUPS.items() if s.peer != TORCHATTACKS or available(s.peer)]
    options.attacks = options.attacks or tuple(usual)
    fill_in(options, batch=([32], [128, 1000]), width=(8, None), epochs=(3, 4), windows=(3, 5))
    fill_in(options, **BUDGETS)
    defects = options.defects or ["standard", "0.3-Bottom"]
    options.defects = tuple(dict.fromkeys(str(Defects.parse(text)) for text in defects))
    return options
