"""A contestant at work: the training engine with its settings, on images of random pixels."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from ...defective import create_model
from ...defective.attacks.oracle import FLOAT16_SCALE, loss_gradient
from ...defective.attacks.pgd import moved
from ...defective.graph import GraphedStep
from ...kernels import measure_convolutions
from ...train.config import TrainConfig
from ...train.data import Batch, ResidentBatches, Split
from ...train.distributed import World
from ...train.engine import Engine
from ...train.precision import cast_for_good
from .case import Case
from .reference import loader_batches
from .ways import WAYS

CLASSES = 10
LR = 1e-3  # so that roundings are not magnified, and losses can be compared
EPS, PGD_STEP, PGD_STEPS = 8 / 255, 2 / 255, 10
BATCHES = 8
"""Different batches in the data set, which epochs go through again and again."""


class Player:
    """One network run in one way; every method goes on to the next batch.

    Args:
        name: one of ``WAYS``. case: what to run. defects: which of its variants.
        data: images that all players of a case share.
        device: where.
    """

    def __init__(self, name: str, case: Case, defects: str, data: ResidentBatches, device):
        self.name, self.case, self.defects, self.device = name, case, defects, device
        self.way, self.data = WAYS[name], copy.copy(data)
        config = settings(name, case, defects, device)
        self.data.channels_last = config.channels_last
        self.engine = Engine(network(case, defects), config, device, World())
        self.units = PGD_STEPS if case.work == "pgd" else 1
        self._number = itertools.count()
        self._batches = self._endless()
        self._forward = None
        if case.work != "train":
            self.engine.model.eval()
            self.engine.model.requires_grad_(False)
            cast_for_good(self.engine.model, self.engine.dtype)
            self._forward = {"evaluate": self._evaluate, "pgd": self._attack}[case.work]
            if self.way.graph:
                self._forward = GraphedStep(self._forward, device)

    def run(self) -> Tensor:
        """One step of the case's work (for "pgd" a whole attack of ``units`` steps).

        Returns:
            The loss, or for "pgd" the adversarial images; on the device.
        """
        images, labels = next(self._batches)
        if self._forward is None:
            size = self.case.batch_size
            return self.engine.step((images, labels), next(self._number), LR, size)[0]
        if self.way.compile != "none":
            torch.compiler.cudagraph_mark_step_begin()
        return self._forward(images, labels)[0]

    def warm_up(self, steps: int) -> list[float]:
        """Compile, choose algorithms, capture. Returns the mean loss of each step."""
        measuring = self.way.backend == "auto" and self.device.type == "cuda"
        losses = []
        with measure_convolutions() if measuring else nullcontext():
            for _ in range(steps):
                result = self.run()
                losses.append(float(result if result.dim() == 0 else self._loss_at(result)))
        return losses

    @torch.no_grad()
    def _loss_at(self, images: Tensor) -> Tensor:
        """What an attack achieved: the mean loss for the labels of the first batch."""
        labels = self.data.labels[: len(images)]
        with self.engine.autocast():
            return F.cross_entropy(self.engine.model(images).float(), labels)

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
        if self.way.released:
            yield from loader_batches(self.data, size, self.device)
        for epoch in itertools.count():
            if self.case.work == "train":
                yield from self.data.epoch(0, epoch, size)
            else:
                yield from self.data.in_order(size)


def network(case: Case, defects: str):
    """The network of a case, the same weights for every contestant."""
    torch.manual_seed(0)
    return create_model(case.arch, defects, image_size=case.image_size, width=case.width)


def settings(name: str, case: Case, defects: str, device: torch.device) -> TrainConfig:
    """Settings of the training engine for a contestant."""
    way = WAYS[name]
    training = case.work == "train"
    return TrainConfig(
        arch=case.arch,
        defects=defects,
        batch_size=case.batch_size,
        precision=way.dtype(case.dtype),
        # Narrow networks are refused in channels_last on a CPU.
        channels_last=not (way.released or way.contiguous)
        and (device.type == "cuda" or (case.width or 64) >= 16),
        compile=way.compile,
        # Other works have graphs of their own.
        cuda_graph=way.graph and training,
        backend=way.backend,
        device=device.type,
    )


def random_images(case: Case, device: torch.device) -> ResidentBatches:
    """Images for all players of a case: what is in them does not matter for the time."""
    generator = torch.Generator().manual_seed(0)
    count = case.batch_size * (BATCHES if case.image_size <= 64 else 2)
    shape = count, case.image_size, case.image_size, 3
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    augment = "crop-flip" if case.work == "train" else "none"
    return ResidentBatches(Split(labels, pixels), device, augment)
