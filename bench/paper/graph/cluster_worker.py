"""What runs in a cluster's processes: looking around there, and making artefacts."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
import traceback
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from .... import __version__
from ....defective.errors import UserError
from ....train.screen import Progress
from .artefact import Artefact
from .cluster_store import LATE_SECONDS, log_path, logged, sees, unseen
from .context import Context
from .local import make_one
from .store import Store


@dataclass(frozen=True)
class Order:
    """What a worker has to know beside its artefacts.

    Attributes:
        folder: of the store. token: of :func:`scotoma.bench.paper.graph.cluster_store.token`.
        batch_size, workers: as of :class:`Context`. retries: of an artefact whose process dies.
    """

    folder: Path
    token: str
    batch_size: int
    workers: int
    retries: int


@dataclass(frozen=True)
class Sight:
    """What a machine reports: versions, and whether it sees the store."""

    sees_store: bool
    scotoma: str
    torch: str
    python: str


@dataclass(frozen=True)
class Outcome:
    """How one artefact ended.

    Attributes:
        message: why it could not be made; None if it is there. fit: whether the process is fit to
            go on; after an error that nobody expected, on a GPU above all, it is not.
    """

    key: str
    seconds: float
    message: str | None = None
    fit: bool = True


def look(order: Order) -> Sight:
    """Look around on this machine."""
    versions = __version__, importlib.metadata.version("torch"), platform.python_version()
    return Sight(sees(order.folder, order.token), *versions)


def make_batch(
    artefacts: tuple[Artefact, ...], keys: tuple[str, ...], order: Order
) -> tuple[str, list[Outcome]]:
    """(node, outcomes): make artefacts one after the other, until the process is unfit.

    Args:
        keys: the artefacts', as the sender computed them.

    Raises:
        UserError: this machine must not make any. KeyboardInterrupt: cancelled.
    """
    ray = _ray()
    here = ray.get_runtime_context()
    check_sight(look(order), ray.util.get_node_ip_address())
    context = _context(order.folder, _device(ray), order.batch_size, order.workers)
    outcomes: list[Outcome] = []
    for artefact, key in zip(artefacts, keys, strict=True):
        outcomes.append(_make(artefact, key, order, context, here.get_task_id()))
        if not outcomes[-1].fit:
            break
    return here.get_node_id(), outcomes


def check_sight(sight: Sight, name: str) -> None:
    """Raises UserError if a machine of this name cannot take part."""
    if sight.scotoma != __version__:
        raise UserError(
            f"{name} has scotoma {sight.scotoma}, and {__version__} gave the command; install the "
            "same version on all machines"
        )
    if not sight.sees_store:
        raise UserError(
            f"{name} does not see the folder of --out; give one that all machines of the cluster "
            "share, under the same path"
        )


def _make(artefact: Artefact, key: str, order: Order, context: Context, task: str) -> Outcome:
    start, path = time.perf_counter(), log_path(order.folder, key)
    message, fit = None, True
    with logged(path):
        attempts = path.read_text(errors="replace").count(task)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        print(f"# {now} {platform.node()} process {os.getpid()} task {task}: {artefact.label}")
        try:
            forget_keys(artefact)
            if artefact.key != key:
                raise UserError(
                    f"its key is {artefact.key} on {platform.node()} and {key} where the command "
                    "was given: another version of scotoma; install the same on all machines"
                )
            # Ray retries without end where memory was short.
            if attempts > order.retries and not artefact.is_done(context.store):
                raise UserError(f"the process that made it died {attempts} times")
            late = unseen(artefact.inputs(), context.store, LATE_SECONDS)
            if late:
                raise UserError(
                    f"{platform.node()} does not see {late[0].path(context.store)}, which is made; "
                    "is the folder of --out shared?"
                )
            context.screen.begin(artefact.label)
            make_one(artefact, context)
        except UserError as error:
            message = str(error)
            print(f"failed: {message}")
        except Exception as error:  # a bug; other artefacts need not suffer from it
            message, fit = f"{type(error).__name__}: {error}", False
            traceback.print_exc()
    return Outcome(key, time.perf_counter() - start, message, fit)


def forget_keys(artefact: Artefact) -> None:
    """Let keys be computed anew: a key that is known travels with its artefact."""
    artefact.__dict__.pop("key", None)
    for each in artefact.inputs():
        forget_keys(each)


def _device(ray) -> str:
    """What Ray gave this process. Raises UserError if it is a GPU that torch cannot use."""
    if not ray.get_gpu_ids():
        return "cpu"
    if not torch.cuda.is_available():
        raise UserError(
            f"Ray has a GPU on {platform.node()} that torch cannot use there; install torch for "
            "CUDA, or start Ray there with --num-gpus 0"
        )
    return "cuda"


@lru_cache(maxsize=1)
def _context(folder: Path, device: str, batch_size: int, workers: int) -> Context:
    """This process's; its data and networks are there for the next batch."""
    torch.set_num_threads(1)  # a batch has one CPU
    return Context(Store(folder), torch.device(device), Progress(), batch_size, workers)


def _ray():
    import ray

    return ray
