"""From settings to the things they name: data, network, resolved settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ..defective import Defects, create_model
from ..defective.errors import UserError
from ..defective.models.base import Network
from ..kernels.backends import device_refusal
from .batches import ResidentBatches
from .config import TrainConfig
from .dataset import DataSet
from .datasets import DATASETS, default_root, load_dataset
from .graph import graph_refusal
from .runfolder import free_name
from .stream import StreamedBatches


def resolve(config: TrainConfig, device: torch.device, processes: int = 1) -> TrainConfig:
    """The settings with every "auto" and every default that depends on others filled in.

    Args:
        device: of this process. processes: that train together.

    Raises:
        UserError: settings that do not go together.
    """
    precision = config.precision
    if precision == "auto":
        precision = "float32"
        if device.type == "cuda":
            precision = "bfloat16" if torch.cuda.is_bf16_supported(False) else "float16"
    if config.backend == "triton" and (refusal := device_refusal(device)):
        raise UserError(f"--backend triton: {refusal}; take --backend auto")
    config.check_together()
    dataset = config.dataset
    if dataset and dataset not in DATASETS and Path(dataset).is_dir():
        dataset = str(Path(dataset).resolve())
    resolved = replace(
        config,
        defects=str(Defects.parse(config.defects)),
        dataset=dataset,
        device=device.type if device.index in (None, 0) else str(device),
        data_root=str(Path(config.data_root or default_root()).expanduser().absolute()),
        mask_seed=config.seed if config.mask_seed is None else config.mask_seed,
        precision=precision,
        channels_last=(
            device.type == "cuda" if config.channels_last is None else config.channels_last
        ),
        cuda_graph=(
            graph_refusal(config, device, processes) is None
            if config.cuda_graph is None
            else config.cuda_graph
        ),
    )
    name = config.name
    if name is not None and (not name or Path(name).name != name or name == ".."):
        raise UserError(f"--name {name!r}: expected a folder name without slashes")
    if config.name is None:
        data = Path(dataset).name
        parts = [data, config.arch, resolved.defects.replace(",", "+"), f"s{config.seed}"]
        resolved.name = free_name(Path(config.out), "-".join(parts))
    return resolved


def load_data(config: TrainConfig) -> DataSet:
    """The data set that the settings name, with its limits and held-out part."""
    data = load_dataset(
        config.dataset,
        config.data_root,
        config.download,
        config.image_size,
        config.validation_fraction,
    )
    if config.evaluate_on == "validation":
        data = data.hold_out(config.validation_fraction, config.seed)
    data = data.limited(config.train_limit, config.test_limit, config.seed)
    if config.augment == "imagenet" and data.resident:
        raise UserError(
            f"--augment imagenet is for images over 64 pixels; {data.name} has {data.image_size}: "
            "use crop-flip"
        )
    return data


def build_model(config: TrainConfig, data: DataSet) -> Network:
    """The network for a data set, its weights drawn from the run's seed."""
    torch.manual_seed(config.seed)
    return create_model(
        config.arch,
        config.defects,
        num_classes=len(data.classes),
        in_channels=data.in_channels,
        image_size=data.image_size,
        width=config.width,
        mask_seed=config.mask_seed,
        sites=config.sites,
        exact_masks=config.mask_sampling == "exact",
        regularizer=config.regularizer,
        stem=config.stem,
        mean=data.mean,
        std=data.std,
        thermometer=config.thermometer,
    )


def make_batches(config: TrainConfig, data: DataSet, split, device: torch.device, training: bool):
    """Batches of a split, kept on the device or streamed to it."""
    augment = config.augment if training else "none"
    if data.resident:
        return ResidentBatches(split, device, augment, config.channels_last)
    return StreamedBatches(
        split,
        device,
        data.image_size,
        augment,
        config.epochs,
        config.workers,
        config.channels_last,
    )
