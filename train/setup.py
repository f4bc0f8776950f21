"""From settings to the things they name: data, network, resolved settings."""

from __future__ import annotations

import math
import os
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
from .batches import ResidentBatches
from .config import TrainConfig
from .dataset import DataSet
from .datasets import DATASETS, default_root, load_dataset
from .distributed import world_from_environment
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
        precision=(automatic_precision(device) if config.precision == "auto" else config.precision),
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
        resolved.name = "-".join(parts)
        if not config.overwrite:
            resolved.name = free_name(Path(config.out), resolved.name)
    return resolved


def automatic_precision(device: torch.device) -> str:
    """What ``--precision auto`` is on a device."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(False) else "float16"
    return "float32"


def has_amx(kind: str = "_tile") -> bool:
    """Whether this CPU has matrix units for bfloat16, or "_fp16" for float16.

    With AVX-512 alone, its bfloat16 instructions included, half precision was slower than float32
    on the one processor where we compared them (Xeon without AMX, torch 2.14.1).
    """
    return bool(getattr(torch.cpu, f"_is_amx{kind}_supported", bool)())


def slow_precision(precision: str, device: torch.device) -> str | None:
    """What to say of a precision that a CPU has no matrix units for; None of any other."""
    fast = {"float32": True, "bfloat16": has_amx(), "float16": has_amx("_fp16")}
    if device.type != "cpu" or fast[precision]:
        return None
    return (
        f"this CPU has no matrix units (AMX) for {precision}: --precision float32 is likely faster"
    )


def busy(device: torch.device) -> str | None:
    """What helps on a CPU whose cores others use now; None where enough are free, or nobody says.

    OpenMP's threads wait for each other in loops: one that gets no core holds up all others.
    """
    threads = torch.get_num_threads()
    try:
        cores = len(os.sched_getaffinity(0))
        average, _, _, now, _ = Path("/proc/loadavg").read_text().split()
    except (AttributeError, OSError, ValueError):  # not Linux
        return None
    # The average remembers what has just ended; this process is one of those that run now.
    others = min(float(average), int(now.split("/")[0]) - 1)
    if device.type != "cpu" or threads == 1 or others + threads < cores + 1:
        return None
    return (
        f"others run {others:.0f} threads on the {cores} cores, and torch's {threads} wait for "
        "each other: OMP_NUM_THREADS=1 may be several times faster"
    )


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
