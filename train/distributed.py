"""One process or several: torchrun's environment, and what ranks tell each other."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..defective.errors import UserError, counted
from ..defective.masks import mask_sites


@dataclass(frozen=True)
class World:
    """This process among those that torchrun started; one alone by default."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """The one rank that prints and writes files."""
        return self.rank == 0

    def command(self, folder: object) -> str:
        """What continues the run in a folder with as many processes."""
        if self.size == 1:
            return f"scotoma train --resume {folder}"
        return (
            f"torchrun --nproc-per-node {self.local_size} -m scotoma.train --resume {folder}"
            + " (on each machine, with your other options of torchrun)"
            * (self.size > self.local_size)
        )

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a tensor over ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set on any rank."""
        if self.size == 1:
            return flag
        value = torch.tensor(int(flag), device=device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return bool(value)

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def from_main(self, make: Callable[[], Any]) -> Any:
        """What ``make`` returns on rank 0, given to every rank.

        Raises:
            UserError: ``make`` raised it on rank 0; every rank raises the same.
        """
        if self.size == 1:
            return make()
        answer: list[Any] = [None, None]
        if self.is_main:
            try:
                answer[0] = make()
            except UserError as error:
                answer[1] = str(error)
        dist.broadcast_object_list(answer)
        if answer[1] is not None:
            raise UserError(answer[1])
        return answer[0]


def world_from_environment() -> World:
    """Rank and size as torchrun sets them. Joins nothing yet."""
    get = os.environ.get
    return World(
        int(get("RANK", 0)),
        int(get("WORLD_SIZE", 1)),
        int(get("LOCAL_RANK", 0)),
        int(get("LOCAL_WORLD_SIZE", 1)),
    )


def join(world: World, device: torch.device) -> None:
    """Form the process group: NCCL on GPUs, Gloo on CPUs."""
    if world.size > 1:
        # Said of every 1x1 convolution, whose strides may be written in two ways.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def leave(world: World) -> None:
    if world.size > 1 and dist.is_initialized():
        dist.destroy_process_group()


def end(status: int) -> NoReturn:
    """End this process; one of several at once.

    All is saved and the group is left. What torch's threads do while the interpreter is taken down
    ended some ranks by "terminate called without an active exception", and with them a run that
    was complete.
    """
    if world_from_environment().size > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def choose_device(asked: str, world: World) -> torch.device:
    """The device of this rank.

    Raises:
        UserError: a GPU was asked for and is not there, or the name is not a device.
    """
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    device = None
    with suppress(RuntimeError):
        device = torch.device(asked)
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {asked!r}: expected auto, cpu, cuda or cuda:N")
    if device.type == "cpu":
        return device
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    # Every rank asks for the last one's GPU too, so that all refuse alike.
    needed = world.local_size if device.index is None else device.index + 1
    if needed > count:
        raise UserError(
            f"--device {asked}: this machine has {count or 'no'} usable GPU{'s' * (count != 1)}"
            f"{f' for {world.local_size} processes' if world.local_size > 1 else ''}; use "
            "--device cpu, or check the driver with nvidia-smi"
        )
    return torch.device("cuda", world.local_rank if device.index is None else device.index)


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {counted(torch.get_num_threads(), 'thread')}"


def share_statistics(model: nn.Module, world: World) -> None:
    """Give every rank the running statistics of rank 0: local ones drift apart."""
    if world.size > 1:
        for buffer in model.buffers():
            # Masks are the same already, and may lie in an order that NCCL does not take.
            if buffer.is_floating_point():
                dist.broadcast(buffer, 0)


def check_same_masks(model: nn.Module, world: World, device: torch.device) -> None:
    """Whether every rank has drawn the masks that rank 0 has.

    Raises:
        UserError: one has not; raised on every rank.
    """
    digest = hashlib.sha256()
    for site, mask in mask_sites(model).items():
        digest.update(site.encode())
        digest.update(mask.cpu().contiguous().numpy().data)
    if world.any(world.from_main(digest.hexdigest) != digest.hexdigest(), device):
        raise UserError(
            "the processes have drawn different masks; start all of them with the same settings, "
            "and the same versions of scotoma and torch on every machine"
        )
