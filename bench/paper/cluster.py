"""Making artefacts on a Ray cluster, which starts the workers; the shared folder is all they have
in common."""

from __future__ import annotations

import math
import os
import platform
import socket
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple

import torch

from ... import __version__
from ...defective.errors import UserError, counted
from ...train.screen import Progress
from .artefacts import Context
from .work import Artefact, Failure, Plan, Queue, Store, make_alone

ANSWER_SECONDS = 5.0
"""How long to wait for a port."""
GRACE_SECONDS = 30.0
"""For workers to save what they have, after Ctrl-C."""
QUIET_SECONDS = 600.0
"""A person hears something at least so often."""
LOOK_SECONDS = 1.0
"""Between two looks at what is made."""
MOST = 16
"""Artefacts that a worker makes before it gives its share of a device back."""
OBJECT_STORE = 100_000_000
"""Bytes of shared memory of a cluster that we start: nothing but keys is sent through it."""
_EXPECTED = "expected local, auto or HOST:PORT of a cluster that 'ray start --head' began"


class Order(NamedTuple):
    """What the workers of one command know beside its artefacts: the store's folder; a file in it,
    which every machine has to see; and what a :class:`Context` is made of."""

    folder: Path
    token: Path
    batch_size: int
    workers: int
    version: str = __version__


def make_on_ray(
    plan: Plan, context: Context, address: str, *, per_gpu: int | None = None, retries: int = 3
) -> list[Failure]:
    """Make what is missing. What cannot be made ends nothing but what needs it.

    Means the same as :func:`scotoma.bench.paper.work.make_here`, but for an error that is a bug: it
    is a failure of its artefact here, and its traceback is printed.

    Args:
        context: for its store, which all machines see under the same path, its screen and sizes of
            batches; a worker's device is the GPU that Ray gives it, or the CPU if Ray gives none.
        address: as of :func:`connected`.
        per_gpu: how many workers share a GPU, at most 1000; None for as many as their artefacts
            leave room for (:attr:`Artefact.share`); 0 leaves GPUs alone: all is made on CPUs.
        retries: how often an artefact is begun again whose process or machine died.

    Returns:
        Failures, without what was left out because of them.

    Raises:
        UserError: no such cluster, or one of its machines cannot take part.
        KeyboardInterrupt: stopped; what is finished is kept, and the same call goes on.
    """
    load_ray()
    if not plan.missing:
        return []
    context.store.prepare()
    folder = context.store.folder
    with (
        connected(address, gpus=per_gpu != 0) as ray,
        NamedTemporaryFile(prefix="ray-", dir=folder / "locks") as token,
    ):
        order = Order(folder, Path(token.name), context.batch_size, context.workers)
        return _Command(ray, plan, context, order, per_gpu, retries).run()


class _Command:
    """One call of :func:`make_on_ray`: workers that are on their way, and what they make."""

    def __init__(
        self,
        ray: Any,
        plan: Plan,
        context: Context,
        order: Order,
        per_gpu: int | None,
        retries: int,
    ):
        self.ray, self.order, self.per_gpu, self.retries = ray, order, per_gpu, retries
        self.store, self.line = context.store, context.screen.line
        self.queue = Queue(by_need(plan.to_make()), self.line)
        self.unit = "GPU" if per_gpu != 0 and ray.cluster_resources().get("GPU") else "CPU"
        # On a GPU a process ends with its artefacts: its memory is free then, and the next one may
        # be given another GPU, which a process that has used one cannot see.
        self.worker = ray.remote(max_calls=1)(work) if self.unit == "GPU" else ray.remote(work)
        self.sent: dict[Any, list[Artefact]] = {}
        self.attempts: Counter[str] = Counter()

    def share(self, artefact: Artefact) -> float:
        """GPUs, in the ten thousandths that Ray counts in; or one CPU."""
        if self.unit == "CPU":
            return 1.0
        own = artefact.share
        return own if self.per_gpu is None or not own else 10_000 // self.per_gpu / 10_000

    def run(self) -> list[Failure]:
        nodes = [n["Resources"] for n in self.ray.nodes() if n["Alive"]]
        machines = sum(bool(have.get("CPU") or have.get("GPU")) for have in nodes)
        self.line(
            f"{self.queue.total} artefacts; {counted(machines, 'machine')} with "
            f"{self.ray.cluster_resources().get(self.unit, 0):g} {self.unit}s"
        )
        told = time.monotonic()
        try:
            while self.queue.left:
                before = len(self.queue.left)
                self._send()
                self._receive()
                if len(self.queue.left) < before:
                    told = time.monotonic()
                elif time.monotonic() - told > QUIET_SECONDS:
                    told = time.monotonic()
                    now, done = time.strftime("%H:%M"), self.queue.total - before
                    self.line(f"{now}: {done} of {self.queue.total}, {len(self.sent)} workers")
        except BaseException:
            self._stop()
            raise
        return self.queue.own

    def _send(self) -> None:
        """Workers for what is ready, up to what the cluster has room for: each for some artefacts
        of one affinity, whose data and networks are loaded once."""
        at_work = {artefact.key for several in self.sent.values() for artefact in several}
        ready = [a for a in self.queue.ready() if a.key not in at_work]
        capacity = self.ray.cluster_resources().get(self.unit, 0)
        for share in dict.fromkeys(map(self.share, ready)):
            alike = [a for a in ready if self.share(a) == share]
            room = max(1, int(capacity / share + 1e-6)) if share else 1
            room -= sum(self.share(several[0]) == share for several in self.sent.values())
            most = min(MOST, math.ceil(len(alike) / max(room, 1)))
            gpus = share if self.unit == "GPU" else 0
            worker = self.worker.options(num_cpus=1, num_gpus=gpus, max_retries=0)
            for _ in range(room):
                if alike:
                    todo = [a for a in alike if a.affinity == alike[0].affinity][:most]
                    alike = [a for a in alike if a not in todo]
                    self.sent[worker.remote(todo, self.order)] = todo

    def _receive(self) -> None:
        """Wait for a worker, and see what is there meanwhile."""
        start, ended = time.monotonic(), False
        answers, _ = self.ray.wait(list(self.sent), timeout=LOOK_SECONDS) if self.sent else ([], [])
        for answer in answers:
            todo = self.sent.pop(answer)
            found = self._answer(answer, todo)
            ended |= bool(found)
            for artefact in todo:
                message = found.get(artefact.key)
                if message and artefact.key in self.queue.left:
                    self.line(f"{self.queue.head(artefact)}: failed: {message}")
                    self.queue.fails(artefact, message)
        for artefact in list(self.queue.left.values()):
            if artefact.is_done(self.store):
                self.line(f"{self.queue.head(artefact)} done")
                self.queue.finished(artefact)
        if not ended:  # others are at all that is ready
            time.sleep(max(0.0, LOOK_SECONDS - (time.monotonic() - start)))

    def _answer(self, answer: Any, todo: list[Artefact]) -> dict[str, str]:
        """What :func:`work` returned, or what its end means."""
        errors = self.ray.exceptions
        try:
            ended, told = self.ray.get(answer)
        except UserError as error:  # of the machine, not of an artefact
            raise UserError(str(getattr(error, "cause", error))) from None
        except errors.RayTaskError as error:  # the worker could not even begin
            raise UserError(
                f"a machine cannot take part ({first_line(error.cause or error)}); is the same "
                "version of scotoma installed there?"
            ) from None
        except errors.RayError:  # a process or machine is gone, at the first that is not there
            left = [artefact.key for artefact in todo if not artefact.is_done(self.store)]
            self.attempts.update(left[:1])
            count = max((self.attempts[key] for key in left[:1]), default=0)
            message = f"the process that made it died {count} times in a row"
            return dict.fromkeys(left[:1], message) if count > self.retries else {}
        if told:
            self.line(told)
        return ended

    def _stop(self) -> None:
        """Let workers save what they have; a second Ctrl-C, or the end of patience, ends them."""
        if not self.sent:
            return
        self.line(f"stopping: {counted(len(self.sent), 'worker')} left to save")
        # Not with force: Ray 2.60 dies of that where a worker has just answered. What is left when
        # the connection is closed is ended then.
        for answer in self.sent:
            self.ray.cancel(answer)
        self.ray.wait(list(self.sent), num_returns=len(self.sent), timeout=GRACE_SECONDS)


def by_need(todo: list[Artefact]) -> list[Artefact]:
    """What most others wait for first, so that a cluster does not run dry."""
    needed_by: dict[str, set[str]] = {artefact.key: set() for artefact in todo}
    for artefact in reversed(todo):  # inputs come first in a plan, so what needs them here
        for each in artefact.inputs():
            if each.key in needed_by:
                needed_by[each.key] |= needed_by[artefact.key] | {artefact.key}
    return sorted(todo, key=lambda artefact: -len(needed_by[artefact.key]))


# In a worker.


def work(todo: list[Artefact], order: Order) -> tuple[dict[str, str], str]:
    """Make those that nobody else is making.

    Returns:
        ({key of what ended: why it failed, or ""}, the traceback of an error that nobody expected:
        after one, on a GPU above all, a process is not fit to go on).

    Raises:
        UserError: this machine must not make any. KeyboardInterrupt: cancelled.
    """
    if order.version != __version__:
        raise UserError(
            f"{platform.node()} has scotoma {__version__}, and {order.version} gave the command; "
            "install the same version on all machines"
        )
    if not order.token.exists():
        raise UserError(
            f"{platform.node()} does not see the folder of --out; give one that all machines of "
            "the cluster share, under the same path"
        )
    context = _context(order.folder, _device(load_ray()), order.batch_size, order.workers)
    ended: dict[str, str] = {}
    for artefact in todo:
        with context.store.alone(artefact.key, wait=False) as mine:
            if not mine:
                continue
            try:
                if not artefact.is_done(context.store):
                    context.screen.begin(artefact.label)
                    make_alone(artefact, context)
                if not artefact.is_done(context.store):
                    raise UserError(f"{artefact.path(context.store)} was made, but is not seen")
                ended[artefact.key] = ""
            except UserError as error:
                ended[artefact.key] = str(error)
            except Exception as error:  # a bug; other artefacts need not suffer from it
                ended[artefact.key] = f"{type(error).__name__}: {error}"
                return ended, f"{artefact.label} on {platform.node()}\n{traceback.format_exc()}"
    return ended, ""


def _device(ray: Any) -> str:
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
    """This process's; its data and networks are there for the next artefacts."""
    torch.set_num_threads(1)  # a worker has one CPU
    return Context(Store(folder), torch.device(device), Progress(), batch_size, workers)


# The way to a cluster.


@contextmanager
def connected(address: str, gpus: bool = True) -> Iterator[Any]:
    """Ray with a connection to a cluster, for a while.

    Args:
        address: "local" starts a cluster on this machine, which ends with the block; "auto" finds
            the one that this machine is part of; HOST:PORT names the head of such a one.
        gpus: whether to use them.

    Raises:
        UserError: Ray is not installed, or there is no such cluster.
    """
    ray = load_ray()
    if ray.is_initialized():
        raise UserError("this process is connected to a Ray cluster already; ray.shutdown() first")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
        options |= {} if gpus else {"num_gpus": 0}
    elif address != "auto":
        _knock(address)
    try:
        ray.init(address, **options)
        have = ray.cluster_resources()
        if not have.get("CPU") and not have.get("GPU"):
            raise UserError(f"--ray {address}: the cluster has neither GPUs nor CPUs")
        yield ray
    except (ConnectionError, RuntimeError) as error:
        if ray.is_initialized():
            raise
        raise UserError(f"--ray {address}: {first_line(error)}; {_EXPECTED}") from None
    finally:
        ray.shutdown()


def load_ray() -> Any:
    """The library. Raises UserError, with the command that installs it, if it is not there."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report home
    try:
        import ray
    except ImportError as error:
        raise UserError(
            f"--ray needs the library ray, which cannot be imported ({error}): "
            "pip install 'scotoma[ray]'"
        ) from error
    return ray


def _knock(address: str) -> None:
    """Raises UserError if nothing answers at the address: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not (port.isdecimal() and 0 < int(port) < 65536):
        raise UserError(f"--ray {address!r}: {_EXPECTED}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"--ray {address}: nothing answers there ({error.strerror or error}); {_EXPECTED}"
        ) from None


def first_line(error: BaseException) -> str:
    """An error's message without what comes after its first line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
