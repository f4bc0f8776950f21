"""What is attacked: a network that learned something, and images that it has right.

The margins of an untrained network mean nothing, and so would the time of an attack that ends when
it has crossed one.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...defective.errors import UserError
from ...defective.layers import use_backend
from ...train.batches import ResidentBatches, steps_per_epoch
from ...train.config import TrainConfig
from ...train.dataset import DataSet
from ...train.distributed import World
from ...train.engine import Engine
from ...train.schedule import learning_rate
from ...train.setup import build_model, load_data, make_batches, resolve

AT_ONCE = 250
"""Images of a pass that looks for those that the network has right."""


@dataclass(frozen=True)
class Target:
    """A network twice, and images.

    Attributes:
        name, defects: the network, for people. width: base width, None for the paper's.
        arch, dataset: architecture; where the images are from.
        fused, eager: the same weights, in evaluation mode on the device, with fused kernels where
            they run, and in plain PyTorch.
        images, labels: [N,C,H,W] in [0,1] and int64 [N], test images that ``eager`` has right,
            then, if these are too few, training images.
        from_test: how many of them are test images. accuracy: of ``eager`` on the test images.
    """

    name: str
    arch: str
    defects: str
    width: int | None
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
    steps = steps_per_epoch(len(data.train), config.batch_size)
    for epoch in range(config.epochs):
        engine.model.train()
        for step, batch in enumerate(batches.epoch(config.seed, epoch, config.batch_size)):
            number = epoch * steps + step
            engine.step(batch, number, learning_rate(config, number, steps), len(batch[1]))
    model = build_model(config, data)
    model.load_state_dict(engine.model.state_dict())
    width = "" if config.width is None else f" width {config.width}"
    name = f"{config.arch} {config.defects}{width}"
    return make_target(name, model, data, device, count)


def loaded(path: str, dataset: str | None, device: torch.device, count: int) -> Target:
    """A network from a run folder or checkpoint, and images of its data set. Raises UserError."""
    # These need a library that nothing else here does.
    from ...train.robustness.models import load_common_data, load_named

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
    spec = model.spec
    return Target(
        name,
        spec.name,
        str(spec.defects),
        spec.width,
        data.name,
        fused,
        eager,
        images[:count].contiguous(memory_format=layout),
        labels[:count],
        min(count, from_test),
        from_test / len(data.test),
    )


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
