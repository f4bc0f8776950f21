"""A few steps of a network, timed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from statistics import median

import torch

from ....defective import create_model, graph
from ....defective.attacks.oracle import loss_gradient
from ....train.config import TrainConfig
from ....train.distributed import World
from ....train.engine import Engine
from ....train.robustness.arithmetic import full_precision
from ....train.setup import resolve
from .work import Network, What

FEW = 8
"""Images at once on a CPU if more take longer than ``PATIENCE`` seconds; it is hardly slower so."""
PATIENCE = 1.0
ATTACKED = 250
WARM_UP, REPEATS = 2, 3
CAPTURED = graph.WARM_UP + 1  # steps until all the others are replayed


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
    config = TrainConfig(batch_size=size, precision=network.precision, name="timed")
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
        return _timed(step, device) / size


def _timed(step: Callable[[], None], device: torch.device, warm_up: int = WARM_UP) -> float:
    """Seconds of a step, after some that do not count."""
    found = []
    for number in range(warm_up + REPEATS):
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= warm_up:
            found.append(time.perf_counter() - start)
    return median(found)
