"""From settings to the things they name: data, network, resolved settings."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, UntypedStorage
from torch.autograd.graph import saved_tensors_hooks

from ..defective import Defects, create_model
from ..defective.errors import UserError
from ..defective.models.base import Network
from ..kernels.backends import device_refusal
from .config import TrainConfig, deciding, differing, graph_refusal
from .data import DataSet, ResidentBatches, StreamedBatches
from .datasets import DATASETS, default_root, load_dataset
from .distributed import world_from_environment
from .precision import automatic_precision
from .runfolder import CONFIG, SUMMARY, WEIGHTS, RunFolder, free_name


def resolve(config: TrainConfig, device: torch.device, processes: int = 1) -> TrainConfig:
    """The settings with every "auto" and every default that depends on others filled in.

    Args:
        device: of this process. processes: that train together.

    Raises:
        UserError: settings that do not go together.
    """
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
    )
    if config.mask_seed is None:
        resolved.mask_seed = config.seed
    if config.precision == "auto":
        resolved.precision = automatic_precision(device)
    if config.channels_last is None:
        resolved.channels_last = device.type == "cuda"
    if config.cuda_graph is None:
        resolved.cuda_graph = graph_refusal(config, device, processes) is None
    name = config.name
    if name is None:
        defects, arch = resolved.defects.replace(",", "+"), config.arch.replace(":", "-")
        where = "".join(f"+{name}" for name in config.where or ())
        name = f"{Path(dataset).name}-{arch}-{defects}{where}-s{config.seed}"
        resolved.name = name if config.overwrite else free_name(Path(config.out), name)
    elif not name or Path(name).name != name or name == "..":
        raise UserError(f"--name {name!r}: expected a folder name without slashes")
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
    """The network for a data set, its weights drawn from the run's seed.

    Raises:
        UserError: settings that no network has, or one that this machine has no memory for.
    """
    make = partial(
        create_model,
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
        where=config.where,
    )
    try:
        with torch.device("meta"):  # takes no memory, however large the network
            needed = _bytes_of_a_step(make(), config, data)
    except (RuntimeError, TypeError, OverflowError):
        needed = math.inf  # a size beyond 64 bits
    free = _free_memory()
    if needed > free:
        size = f"{needed / 2**30:,.0f} GiB" if needed < math.inf else "more than any machine has"
        raise UserError(
            f"memory: a step of this network needs at least {size}, and {free / 2**30:,.1f} GiB "
            "are free; try a smaller --width, --batch-size, --thermometer, --image-size or factor "
            "xN in --defects"
        )
    torch.manual_seed(config.seed)
    return make()


def _bytes_of_a_step(model: Network, config: TrainConfig, data: DataSet) -> float:
    """At least, on a CPU: weights, gradients and momentum, masks, and what backward reads.

    Of compiled networks, and on a GPU, where fused kernels keep less and which says by itself that
    it is full: what the network takes on the host.

    Args:
        model: on the meta device.
    """
    states = sum(t.nbytes for t in model.state_dict().values())
    if config.device != "cpu" or config.compile != "none":
        return states
    kept: dict[int, UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # held, so that no other gets its number
        return tensor

    batch = min(config.batch_size, len(data.train)) // world_from_environment().size
    images = torch.empty(batch, data.in_channels, data.image_size, data.image_size, device="meta")
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train()(images)
    activations = sum(storage.nbytes() for storage in kept.values())
    return 2 * states + activations / (1 if config.precision == "float32" else 2)


def _free_memory() -> float:
    """Bytes that this process may still take on the host; infinite where nothing says so."""
    free = math.inf
    with suppress(OSError, TypeError):
        text = Path("/proc/meminfo").read_text()
        free = 1024 * int(re.search(r"MemAvailable: +(\d+)", text)[1])
    with suppress(OSError, TypeError, ValueError):  # "max": no limit
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        # What counts as used in memory.current, but for files that the kernel drops when asked.
        used = re.search(r"^anon (\d+)", (group / "memory.stat").read_text(), re.MULTILINE)
        free = min(free, limit - int(used[1]))
    return free


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


MOVED = ("dataset", "recipe")
"""Settings that may be others beside the free ones, where the caller answers for the images: a
folder may have been moved, and a recipe is a name for settings that are compared themselves."""


def as_saved(saved: TrainConfig, device: torch.device, processes: int) -> TrainConfig:
    """A run's own settings, on perhaps another machine than before, and in more processes."""
    graph = saved.cuda_graph is not False and graph_refusal(saved, device, processes) is None
    eager = saved.backend == "triton" and device.type != "cuda"
    return replace(saved, cuda_graph=graph, backend="auto" if eager else saved.backend)


def as_asked(
    asked: TrainConfig, saved: TrainConfig, device: torch.device, processes: int
) -> TrainConfig:
    """Settings that are asked for, resolved; what they leave to the device is as the run has it."""
    resolved = resolve(asked, device, processes)
    if asked.precision == "auto":
        resolved.precision = saved.precision
    if asked.channels_last is None:
        resolved.channels_last = saved.channels_last
    return resolved


def check_same(saved: TrainConfig, asked: TrainConfig, folder: Path) -> None:
    """Refuse to go on with another run than the one that is asked for.

    Raises:
        UserError: a setting that decides the weights differs; it is named, with both values.
    """
    name = differing(deciding(saved), deciding(asked), MOVED)
    if name is not None:
        raise UserError(
            f"{folder / CONFIG}: {name} is {getattr(saved, name)!r} there, and "
            f"{getattr(asked, name)!r} is asked for; remove the folder, and it is trained anew"
        )


def begin(config: TrainConfig, folder: RunFolder) -> None:
    """Make the folder of a new run, and keep others out.

    Args:
        config: resolved; ``overwrite`` lets it replace another run.

    Raises:
        UserError: something is there, or running there; says what to do.
    """
    folder.hold()
    path = folder.path
    if (path / CONFIG).is_file() and not config.overwrite:
        from .settings import load_resolved

        try:
            there = deciding(load_resolved(path / CONFIG))
        except UserError:  # damaged
            there = {}
        going_on = f", continue it with --resume {path}"
        if differing(there, deciding(config), ("recipe",)) is not None:
            state = "another run"
        elif all((path / name).is_file() for name in (SUMMARY, WEIGHTS)):
            state, going_on = f"this run, and it is finished: see {SUMMARY} there", ""
        else:
            state = "this run, unfinished"
        raise UserError(
            f"{path} holds {state}; choose another --name{going_on}, or replace it with --overwrite"
        )
    folder.create(replace(config, overwrite=False))
