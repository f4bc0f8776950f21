"""The settings of a training run: typed and checked, and what follows from them alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..defective.errors import UserError
from ..defective.spec import Regularizer, Sites, Stem

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Augmentation = Literal["none", "flip", "crop-flip", "imagenet"]
Schedule = Literal["step", "one-cycle", "cosine", "constant"]
CompileMode = Literal[
    "none", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"
]
Backend = Literal["auto", "eager", "triton"]
PictureFormat = Literal["png", "pdf", "svg"]


FLOAT32_MAX = 3.4028234663852886e38


def setting(default: Any, group: str | None, help: str, metavar: str | None = None, **form: Any):
    """A field of settings, and the option of the same name that it is on the command line.

    Args:
        default: of the field. group: of options in the help; None for those of no group. help,
            metavar: of the option. form: what else ``add_argument`` gets, ``nargs`` and the like;
            ``positional=True`` for an argument that is no option, ``flags`` for other names.
    """
    metadata = {"group": group, "help": help, "metavar": metavar, "form": form}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def _of_group(group: str) -> Callable[..., Any]:
    """:func:`setting` for the settings of a group."""
    return lambda default, help, metavar=None, **form: setting(
        default, group, help, metavar, **form
    )


_run, _network, _data, _optimisation, _speed = map(
    _of_group, ("run", "network", "data", "optimisation", "speed")
)
_POSITIVE = (lambda v: v > 0, "a positive number")
_NOT_NEGATIVE = (lambda v: v >= 0, "0 or more")
_VALID: dict[str, tuple[Callable[[Any], bool], str]] = {
    "milestones": (lambda v: min(v, default=1) >= 1, "numbers of epochs, each 1 or more"),
    "epochs": (lambda v: v >= 1, "at least 1"),
    "batch_size": (lambda v: v >= 2, "at least 2 (batch norm)"),
    "adversarial_steps": (lambda v: v >= 1, "1 or more"),
    "adversarial_step": (lambda v: 0 < v <= 1, "0 to 1, in units of pixels in [0,1]"),
    "momentum": (lambda v: 0 <= v < 1, "0 <= momentum < 1"),
    "warmup": (lambda v: 0 <= v < 1, "0 <= warmup < 1"),
    "label_smoothing": (lambda v: 0 <= v < 1, "0 <= eps < 1"),
    "validation_fraction": (lambda v: 0 < v < 1, "a share between 0 and 1"),
    "adversarial_eps": (
        lambda v: 0 <= v <= 1,
        "0 to 1, in units of pixels in [0,1] (eight levels of 255 are 0.0314)",
    ),
    "logit_pairing": (lambda v: 0 <= v < math.inf, "a finite number, 0 or more"),
    "thermometer": (lambda v: v == 0 or v >= 2, "0 for none, or 2 levels or more"),
    "ema": (lambda v: 0 < v < 1, "0 < decay < 1"),
    "save_seconds": _NOT_NEGATIVE,
    "mask_seed": _NOT_NEGATIVE,
    "workers": _NOT_NEGATIVE,
    "adversarial_test_images": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "lr": _POSITIVE,
    "clip_norm": _POSITIVE,
    "train_limit": _POSITIVE,
    "test_limit": _POSITIVE,
    "image_size": _POSITIVE,
    "width": _POSITIVE,
}
"""Of settings that are not None: what they have to be, and how that is said."""


@dataclass
class TrainConfig:
    """Every setting of ``scotoma train``. The help texts are the documentation."""

    recipe: str = _run("auto", "preset of settings; auto: the data set's own")
    out: str = _run("runs", "folder that holds run folders")
    name: str | None = _run(
        None, "name of this run's folder; default: made from data, network and seed"
    )
    overwrite: bool = _run(
        False, "replace the run in the folder of this name, if it is not running"
    )
    seed: int = _run(0, "seed of initial weights, batches and augmentation")
    device: str = _run("auto", "auto, cpu, cuda or cuda:N; auto takes a GPU if there is one")
    save_seconds: float = _run(
        30.0, "least time between checkpoints, which are written at the ends of epochs"
    )
    picture_format: PictureFormat = _run("png", "of the curves: png, pdf or svg")

    arch: str = _network(
        "resnet18",
        "architecture; see 'scotoma models'; or another library's, as torchvision:resnet50 or "
        "timm:regnety_016",
        flags=["--arch", "--model"],
    )
    defects: str = _network(
        "standard", "the paper's notation: standard, 0.3-Bottom, 0.7-Bottom,0.3-Top, ..."
    )
    where: list[str] | None = _network(
        None,
        "with another library's network: modules in which the defects are, such as layer1, in "
        "place of Bottom or Top",
        "MODULE",
        nargs="+",
    )
    sites: Sites = _network("release", "mask placement of the release or the paper's text")
    width: int | None = _network(None, "base width; default: the paper's")
    mask_seed: int | None = _network(None, "seed of the masks; default: the run's seed")
    mask_sampling: Literal["exact", "bernoulli"] = _network(
        "exact", "exact share of zeros in each mask, or independent draws"
    )
    regularizer: Regularizer = _network(
        "none", "drop layers to compare with (resnet18, resnet50, wrn32_4)"
    )
    stem: Stem = _network("3x3", "first convolution; 7x7 for large images only")
    thermometer: int = _network(
        0, "levels of thermometer encoding (16 or 32 in the paper); 0 for pixels as such"
    )

    dataset: str = _data(
        "sample",
        "sample (ships with scotoma), cifar10, mnist, fashion-mnist, tiny-imagenet, imagenet, or "
        "the path of an image folder: train/<class>/* and test/<class>/*, or <class>/* alone",
    )
    data_root: str | None = _data(
        None, "where data sets live; default: $SCOTOMA_DATA or ~/.cache/scotoma/data"
    )
    download: bool = _data(False, "fetch the data set if it is not there")
    image_size: int | None = _data(
        None,
        "side of the images in pixels: the shorter side is resized and the middle cut out; "
        "default: as stored, which has to be square",
    )
    augment: Augmentation = _data("crop-flip", "training augmentation")
    evaluate_on: Literal["test", "validation"] = _data(
        "test", "what is measured every epoch; validation holds out training images"
    )
    validation_fraction: float = _data(
        0.1,
        "share held out with evaluate-on validation, and for testing from a folder without test/",
    )
    train_limit: int | None = _data(None, "use only so many training images")
    test_limit: int | None = _data(None, "use only so many test images")
    workers: int = _data(4, "loader processes, for images over 64 pixels only")

    epochs: int = _optimisation(30, "passes over the training images")
    batch_size: int = _optimisation(128, "images in a step, over all processes")
    lr: float = _optimisation(
        0.1,
        "peak learning rate of SGD; that of a recipe which was not named shrinks with batch-size",
    )
    momentum: float = _optimisation(0.9, "SGD momentum")
    nesterov: bool = _optimisation(False, "Nesterov momentum")
    weight_decay: float = _optimisation(5e-4, "on all parameters")
    schedule: Schedule = _optimisation("one-cycle", "course of the learning rate")
    milestones: list[int] = _optimisation(
        [150, 250], "completed epochs after which 'step' divides by 10"
    )
    warmup: float = _optimisation(0.2, "share of the run in which 'one-cycle' rises")
    label_smoothing: float = _optimisation(0.0, "share of the label spread over others")
    clip_norm: float | None = _optimisation(None, "clip gradients to this norm")
    ema: float | None = _optimisation(
        None, "decay of averaged weights, per step; evaluated and saved if set"
    )
    adversarial_eps: float = _optimisation(
        0.0,
        "train on PGD images (LS-PGA with thermometer) of this radius, pixels in [0,1] "
        "(8/255 = 0.0314)",
    )
    adversarial_step: float = _optimisation(
        2 / 255, "PGD's step size, same unit; LS-PGA takes its own, of logits"
    )
    adversarial_steps: int = _optimisation(7, "the attack's number of steps")
    adversarial_test_images: int = _optimisation(
        500,
        "with adversarial-eps: held-out images that are attacked after each epoch, for the robust "
        "accuracy; 0 for none",
    )
    logit_pairing: float = _optimisation(
        0.0,
        "with adversarial-eps: train on clean and adversarial images, half the loss each, and add "
        "so much of the mean squared difference of their logits; 0 for adversarial images alone",
    )

    precision: Precision = _speed(
        "auto", "auto: bfloat16 on a GPU that has it, float16 on an older, float32 on a CPU"
    )
    channels_last: bool | None = _speed(None, "memory format; default: yes on a GPU")
    tf32: bool = _speed(True, "TF32 for float32 matrix products on a GPU")
    compile: CompileMode = _speed(
        "none", f"torch.compile mode: {', '.join(get_args(CompileMode))}", "MODE"
    )
    cuda_graph: bool | None = _speed(
        None,
        "launch a whole training step at once; default: yes on a GPU, unless something forbids it "
        "(several processes, a compile mode with graphs of its own)",
    )
    backend: Backend = _speed(
        "auto",
        "auto: the fused kernels where they run, unless $SCOTOMA_BACKEND names another; eager: "
        "plain PyTorch; triton: the fused kernels or an error",
    )
    sync_stats: bool = _speed(
        True, "several processes: batch statistics over all of them, or local ones"
    )

    def __post_init__(self):
        for item in fields(self):
            value, name = getattr(self, item.name), item.name.replace("_", "-")
            _check(value is not None or "None" in str(item.type), name, value, "a value")
            if isinstance(value, float):
                _check(abs(value) <= FLOAT32_MAX, name, value, "a finite number of float32")
        check_seed("seed", self.seed)
        for item, (valid, expected) in _VALID.items():
            value = getattr(self, item)
            _check(value is None or valid(value), item.replace("_", "-"), value, expected)
        _check(
            not self.nesterov or self.momentum > 0, "nesterov", True, "a momentum above 0 with it"
        )

    def check_together(self) -> None:
        """Refuse settings that need each other.

        Not a part of the constructor's checks, since settings come in layers (recipe, files,
        command line) of which one alone may lack what the next one brings.

        Raises:
            UserError: says which is missing.
        """
        if self.logit_pairing > 0 and self.adversarial_eps == 0:
            raise UserError(
                f"--logit-pairing is {self.logit_pairing:g} without --adversarial-eps: it pairs "
                "the logits of clean and adversarial images; give a radius, 0.0314 for 8/255"
            )

    def save(self, path: Path) -> None:
        import yaml

        path.write_text(yaml.safe_dump(asdict(self), sort_keys=False))


def check_seed(name: str, seed: int) -> None:
    """Raises UserError if torch's generators do not take a seed; ``name`` is the option's."""
    _check(0 <= seed < 2**64, name, seed, "0 or more, and less than 2**64")


def _check(good: bool, name: str, value: Any, expected: str) -> None:
    if not good:
        raise UserError(f"--{name} is {value!r}; expected {expected}")


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The learning rate of one step.

    - "step": ``lr`` divided by 10 after each of ``milestones`` completed epochs (paper,
      appendix D).
    - "one-cycle": linear from 0 up to ``lr`` in the share ``warmup`` of the run, then linear
      down to 0 (Smith and Topin, 2018, without the momentum cycle).
    - "cosine": half a cosine from ``lr`` to 0.
    - "constant": ``lr``.

    Args:
        step: counted from 0 over the whole run. steps_per_epoch: of the run.
    """
    total = config.epochs * steps_per_epoch
    if config.schedule == "step":
        passed = sum(step // steps_per_epoch >= m for m in config.milestones)
        return config.lr * 0.1**passed
    if config.schedule == "one-cycle":
        peak = config.warmup * total
        # The middle of the step stands for it, so that neither end is a step of length zero.
        now = step + 0.5
        return config.lr * (now / peak if now < peak else (total - now) / (total - peak))
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * step / total))
    return config.lr


def graph_refusal(
    config: TrainConfig, device: torch.device, processes: int
) -> tuple[str, str] | None:
    """Why a step of these settings cannot be a CUDA graph, and what to do; None if it can."""
    if device.type != "cuda":
        return f"it needs an NVIDIA GPU, and the device is {device}", "leave it out"
    if processes > 1:
        return (
            f"it is for one process, and there are {processes}",
            "leave it out, or start without torchrun",
        )
    if config.compile in ("reduce-overhead", "max-autotune"):
        return (
            f"--compile {config.compile} makes graphs of its own",
            "leave it out, or take --compile default or max-autotune-no-cudagraphs",
        )
    return None


def check_graph(config: TrainConfig, device: torch.device, processes: int) -> None:
    """Whether these settings allow ``--cuda-graph``, if they ask for it.

    Raises:
        UserError: they do not; says which to change.
    """
    refusal = graph_refusal(config, device, processes)
    if config.cuda_graph and refusal is not None:
        raise UserError("--cuda-graph: " + "; ".join(refusal))


def graph_line(config: TrainConfig, device: torch.device, processes: int) -> str:
    """How steps are launched, for people, of resolved settings; empty where there is no GPU."""
    if device.type != "cuda":
        return ""
    if config.cuda_graph:
        return "each step is one CUDA graph"
    refusal = graph_refusal(config, device, processes)
    return f"no CUDA graph: {'it is switched off' if refusal is None else refusal[0]}"


FREE = ("out", "name", "device", "data_root", "download", "workers", "save_seconds")
FREE += ("cuda_graph", "backend", "adversarial_test_images", "overwrite", "picture_format")
"""Settings that decide no weights (but for the order of sums); a run may go on with others."""


def deciding(config: TrainConfig) -> dict[str, Any]:
    """All settings but the free ones."""
    return {name: value for name, value in asdict(config).items() if name not in FREE}


def differing(
    saved: Mapping[str, Any], now: Mapping[str, Any], moved: Collection[str] = ()
) -> str | None:
    """The first setting that differs, but for those in ``moved``; None if they are the same."""
    names = sorted((saved.keys() | now.keys()) - set(moved))
    return next((name for name in names if saved.get(name) != now.get(name)), None)
