"""The variants of a network that ``bench step``, ``profile`` and ``bench convergence`` measure.

A :class:`Case` is a network on one batch size and a kind of work, a :class:`Variant` one way to run
it, and a :class:`NetworkRun` both together, ready to be called: the training engine with the
variant's settings, on images of random pixels.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ..defective import Defects, create_model
from ..defective.attacks.oracle import FLOAT16_SCALE, loss_gradient
from ..defective.attacks.pgd import moved
from ..defective.errors import UserError
from ..defective.graph import GraphedStep
from ..kernels import backends, measure_convolutions
from ..train.config import TrainConfig
from ..train.data import Batch, ResidentBatches, Split
from ..train.distributed import World
from ..train.engine import Engine
from ..train.precision import cast_for_good
from .model import Model, add_model_options
from .options import DTYPES, add_variants, fill_in, positive

WORKS = {
    "train": "a step of 'scotoma train': batch, augmentation, forward, backward, SGD",
    "evaluate": "logits and the count of right answers, without gradients",
    "pgd": "one step of PGD: the gradient for the images, and the update",
}


@dataclass(frozen=True)
class Case:
    """One network on one batch size.

    Attributes:
        arch: architecture, or the name of ``model``. defects: those it is measured with, in the
            paper's notation.
        work: one of ``WORKS``. dtype: of activations, by autocast.
        image_size: side of the images in pixels. width: base width; None for the paper's.
        model: a network of somebody else, which has no defects.
    """

    arch: str
    defects: tuple[str, ...]
    batch_size: int
    work: str
    dtype: str
    image_size: int = 32
    width: int | None = None
    model: Model | None = None

    def __str__(self) -> str:
        width = "" if self.width is None else f" width {self.width}"
        size = "" if self.image_size == 32 else f" {self.image_size} px"
        return f"{self.work} {self.arch}{width}{size} batch {self.batch_size} {self.dtype}"

    def as_row(self, variant: str, defects: str) -> dict:
        """What a row says of one of ``VARIANTS`` of the case, with some of its defects."""
        return {
            "arch": self.arch,
            "defects": defects,
            "width": self.width,
            "image_size": self.image_size,
            "batch_size": self.batch_size,
            "work": self.work,
            "contestant": variant,
            "dtype": VARIANTS[variant].dtype(self.dtype),
        }


@dataclass(frozen=True)
class Variant:
    """One way to run a network.

    Attributes:
        backend: of the defective layers; "auto" lets measured convolutions be fused too.
        compile: torch.compile mode, or "none". graph: the whole step is one CUDA graph.
        released: float32, NCHW, images augmented by loader workers, as the paper's release does.
        contiguous: float32 and NCHW, whatever the case's dtype, and all else as ``eager``.
    """

    text: str
    backend: str = "eager"
    compile: str = "none"
    graph: bool = False
    released: bool = False
    contiguous: bool = False

    def dtype(self, dtype: str) -> str:
        """The precision in which this variant runs a case of ``dtype``."""
        return "float32" if self.released or self.contiguous else dtype


VARIANTS = {
    "reference": Variant(
        "float32 (convolutions in TF32, as torch has it), NCHW, eager, images from loader workers",
        released=True,
    ),
    "contiguous": Variant("float32, NCHW, images on the device: torch's defaults", contiguous=True),
    "eager": Variant("autocast, channels_last, images on the device"),
    "compile": Variant("eager under torch.compile", compile="default"),
    "max-autotune": Variant(
        "eager under torch.compile(mode='max-autotune'): CUDA graphs of forward and of backward",
        compile="max-autotune",
    ),
    "fused": Variant("the fused Triton operators", "triton"),
    "fused-conv": Variant("fused, convolutions too where that measured faster", "auto"),
    "fused-compile": Variant("fused under torch.compile", "triton", "default"),
    "eager-graph": Variant("eager as one CUDA graph", graph=True),
    "compile-graph": Variant("compile as one CUDA graph", compile="default", graph=True),
    "max-autotune-graph": Variant(
        "torch.compile(mode='max-autotune-no-cudagraphs') as one CUDA graph",
        compile="max-autotune-no-cudagraphs",
        graph=True,
    ),
    "fused-graph": Variant("fused as one CUDA graph", "triton", graph=True),
    "fused-compile-graph": Variant(
        "fused-compile as one CUDA graph", "triton", "default", graph=True
    ),
}
ON_GPU = tuple(name for name in VARIANTS if name not in ("reference", "contiguous", "fused-conv"))
ON_CPU = ("contiguous", "eager", "compile")


def add_network_options(parser: argparse.ArgumentParser, usual: Sequence[str]) -> None:
    """What is asked of a network whose steps are run. usual: names of variants, by default."""
    add = parser.add_argument
    add_model_options(parser)
    add_variants(parser, VARIANTS, f"default: {' '.join(usual)}")
    add("--dtype", choices=DTYPES, help="of activations (bfloat16; float32 with --cpu)")
    sizes = "side of the images (32; 224 with --model)"
    add("--image-size", type=positive, metavar="PIXELS", help=sizes)
    add("--width", type=positive, help="base width (the paper's; 8 with --cpu)")


def checked_networks(
    options: argparse.Namespace, networks: Sequence[str], defects: Sequence[str]
) -> tuple[str, ...]:
    """Defects in the paper's notation, each once. Size and width are filled in ``options``.

    What a network cannot be is said here, before anything is measured. Raises UserError.
    """
    fill_in(options, image_size=(32, 32), width=(8, None))
    found = tuple(dict.fromkeys(str(Defects.parse(text)) for text in defects))
    for arch, text in product(networks, found):
        with torch.device("meta"):
            create_model(arch, text, image_size=options.image_size, width=options.width)
    return found


def chosen_variants(
    asked: Sequence[str] | None,
    usual: Sequence[str],
    device: torch.device,
    model: Model | None = None,
) -> tuple[str, ...]:
    """The names asked for, or those of the usual ones that fit the model, fused or not.

    Raises UserError if one cannot run here, or is fused while the model has nothing to fuse.
    """
    fusible = model is None or model.fusible
    names = asked or [n for n in usual if fusible or VARIANTS[n].backend == "eager"]
    refuse_backend_for_all()
    for name in names:
        refusal = None
        if VARIANTS[name].graph and device.type != "cuda":
            refusal = ": CUDA graphs need a GPU"
        elif VARIANTS[name].backend == "triton" and (problem := backends.device_refusal(device)):
            refusal = f": {problem}"
        elif VARIANTS[name].backend != "eager" and not fusible:
            refusal = f", and of {model.name} {model.text}"
        if refusal:
            raise UserError(f"variants has {name!r}{refusal}; leave it out")
    return tuple(names)


def refuse_backend_for_all() -> None:
    """Raises UserError if the environment names one."""
    if os.environ.get(backends.VARIABLE):
        raise UserError(
            f"{backends.VARIABLE} is set, which would decide for the variants; unset it"
        )


CLASSES = 10
LR = 1e-3  # so that roundings are not magnified, and losses can be compared
EPS, PGD_STEP, PGD_STEPS = 8 / 255, 2 / 255, 10
BATCHES = 8
"""Different batches in the data set, which epochs go through again and again."""


class NetworkRun:
    """One network run in one of ``VARIANTS``, with one of the case's defects, on images that all
    variants of a case share; every method goes on to the next batch."""

    def __init__(
        self, name: str, case: Case, defects: str, data: ResidentBatches, device: torch.device
    ):
        self.name, self.case, self.device = name, case, device
        self.variant, self.data = VARIANTS[name], copy.copy(data)
        config = settings(name, case, defects, device)
        self.data.channels_last = config.channels_last
        self.engine = Engine(network(name, case, defects), config, device, World())
        self.units = PGD_STEPS if case.work == "pgd" else 1
        self._number = itertools.count()
        self._batches = self._endless()
        if case.work != "train":
            self.engine.model.eval()
            self.engine.model.requires_grad_(False)
            cast_for_good(self.engine.model, self.engine.dtype)
            self._forward = {"evaluate": self._evaluate, "pgd": self._attack}[case.work]
            if self.variant.graph:
                self._forward = GraphedStep(self._forward, device)

    def run(self) -> Tensor:
        """One step of the case's work: the loss; of "pgd" a whole attack of ``units`` steps: the
        adversarial images. On the device."""
        images, labels = next(self._batches)
        if self.case.work == "train":
            size = self.case.batch_size
            return self.engine.step((images, labels), next(self._number), LR, size)[0]
        if self.variant.compile != "none":
            torch.compiler.cudagraph_mark_step_begin()
        return self._forward(images, labels)[0]

    def warm_up(self, steps: int) -> list[float]:
        """Compile, choose algorithms, capture. Returns the mean loss of each step; of an attack,
        that which it achieved for the labels of the first batch."""
        measuring = self.variant.backend == "auto" and self.device.type == "cuda"
        losses = []
        with measure_convolutions() if measuring else nullcontext():
            for _ in range(steps):
                result = self.run()
                if self.case.work == "pgd":
                    labels = self.data.labels[: len(result)]
                    with torch.no_grad(), self.engine.autocast():
                        result = F.cross_entropy(self.engine.model(result).float(), labels)
                losses.append(float(result))
        return losses

    def close(self) -> None:
        """Let go of loader processes."""
        self._batches.close()

    def _evaluate(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), self.engine.autocast():
            logits = self.engine.network(images)
        loss = F.cross_entropy(logits.float(), labels)
        return loss, (logits.argmax(1) == labels).sum()

    def _attack(self, images: Tensor, labels: Tensor) -> tuple[Tensor]:
        scale = FLOAT16_SCALE if self.engine.dtype == torch.float16 else 1.0
        adversarial = images
        with self.engine.autocast():
            for _ in range(PGD_STEPS):
                _, gradient = loss_gradient(self.engine.network, adversarial, labels, scale)
                adversarial = moved(adversarial, gradient, images, EPS, PGD_STEP, "linf")
        return (adversarial,)

    def _endless(self) -> Iterator[Batch]:
        size = self.case.batch_size
        if self.variant.released:
            yield from loader_batches(self.data, size, self.device)
        for epoch in itertools.count():
            if self.case.work == "train":
                yield from self.data.epoch(0, epoch, size)
            else:
                yield from self.data.in_order(size)


def network(name: str, case: Case, defects: str) -> torch.nn.Module:
    """The network of a case, the same weights for every variant."""
    if case.model is not None:
        return case.model.build(VARIANTS[name].backend, case.work == "train")
    torch.manual_seed(0)
    return create_model(case.arch, defects, image_size=case.image_size, width=case.width)


def settings(name: str, case: Case, defects: str, device: torch.device) -> TrainConfig:
    """Settings of the training engine for a variant."""
    variant = VARIANTS[name]
    training = case.work == "train"
    return TrainConfig(
        arch=case.arch,
        defects=defects,
        batch_size=case.batch_size,
        precision=variant.dtype(case.dtype),
        # Narrow networks are refused in channels_last on a CPU.
        channels_last=not (variant.released or variant.contiguous)
        and (device.type == "cuda" or (case.width or 64) >= 16),
        compile=variant.compile,
        # Other works have graphs of their own.
        cuda_graph=variant.graph and training,
        backend=variant.backend,
        device=device.type,
    )


def random_images(case: Case, device: torch.device) -> ResidentBatches:
    """Images for all variants of a case: what is in them does not matter for the time."""
    generator = torch.Generator().manual_seed(0)
    count = case.batch_size * (BATCHES if case.image_size <= 64 else 2)
    shape = count, case.image_size, case.image_size, 3
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    classes = CLASSES if case.model is None else case.model.classes
    labels = torch.randint(0, classes, (count,), generator=generator)
    augment = "crop-flip" if case.work == "train" else "none"
    return ResidentBatches(Split(labels, pixels), device, augment)


class Augmented(TensorDataset):
    """Random crop and flip of one image at a time, on the CPU: uint8 [N,C,H,W], int64 [N].

    As the paper's release and most training scripts have it.
    """

    def __init__(self, images: Tensor, labels: Tensor):
        from torchvision.transforms import v2 as transforms

        super().__init__(images, labels)
        size = images.shape[-1]
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(size, padding=size // 8),
                transforms.RandomHorizontalFlip(),
                transforms.ToDtype(torch.float32, scale=True),
            ]
        )

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = super().__getitem__(index)
        return self.transform(image), label


def loader_batches(data: ResidentBatches, batch_size: int, device: torch.device) -> Iterator[Batch]:
    """Endless batches of the images of ``data`` in NCHW, from as many workers as there are cores,
    at most eight."""
    inner = slice(data.padding, data.padding + data.size)
    images = data.images[:, inner, inner].cpu().permute(0, 3, 1, 2).contiguous()
    loader = DataLoader(
        Augmented(images, data.labels.cpu()),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=min(8, len(os.sched_getaffinity(0))),
        pin_memory=device.type == "cuda",
        persistent_workers=True,
    )
    while True:
        for pixels, labels in loader:
            yield pixels.to(device, non_blocking=True), labels.to(device, non_blocking=True)
