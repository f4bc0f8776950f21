"""Making artefacts on a Ray cluster, which starts the workers; the shared folder is all they have
in common."""

from __future__ import annotations

import os
import platform
import secrets
import socket
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch

from ... import __version__
from ...defective.errors import UserError, counted
from ...defective.serialization import atomic_path
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


@dataclass(frozen=True)
class Order:
    """What the workers of one command know beside its artefacts.

    Attributes:
        folder: of the store. name: of the command's folder in ``logs``, where workers write what
            they say, and how an artefact ended. batch_size, workers: as of :class:`Context`.
        retries: how often an artefact is begun again whose process or machine died.
        version: of scotoma.
    """

    folder: Path
    name: str
    batch_size: int
    workers: int
    retries: int = 3
    version: str = __version__

    @property
    def logs(self) -> Path:
        return self.folder / "logs" / self.name

    def log(self, artefact: Artefact) -> Path:
        """What was said while it was made, after a line with # for each attempt."""
        return self.logs / f"{artefact.key}.log"

    def attempts(self, artefact: Artefact) -> int:
        path = self.log(artefact)
        text = path.read_text(errors="replace") if path.exists() else ""
        return sum(line.startswith("# ") for line in text.splitlines())

    def note(self, artefact: Artefact, how: Literal["done", "failed"], text: str) -> None:
        """How it ended; what failed is not tried again by another worker."""
        with atomic_path(self.logs / f"{artefact.key}.{how}") as temporary:
            temporary.write_text(text)

    def noted(self, artefact: Artefact, how: Literal["done", "failed"]) -> str | None:
        path = self.logs / f"{artefact.key}.{how}"
        return path.read_text() if path.exists() else None


def make_on_ray(
    plan: Plan, context: Context, address: str, *, per_gpu: int | None = None, retries: int = 3
) -> list[Failure]:
    """Make what is missing. What cannot be made ends nothing but what needs it.

    Means the same as :func:`scotoma.bench.paper.work.make_here`, but for an error that is a bug: it
    is a failure of its artefact here, with its traceback in the artefact's log.

    Args:
        context: for its store, which all machines see under the same path, its screen and sizes of
            batches; a worker's device is the GPU that Ray gives it, or the CPU if Ray gives none.
        address: as of :func:`connected`.
        per_gpu: how many workers share a GPU; None for as many as their artefacts leave room for
            (:attr:`Artefact.share`); 0 leaves GPUs alone, and everything is made on CPUs.
        retries: how often an artefact is begun again whose process or machine died.

    Returns:
        Failures, without what was left out because of them.

    Raises:
        UserError: no such cluster, or one of its machines cannot take part.
        KeyboardInterrupt: stopped; what is finished is kept, and the same call goes on.
    """
    if per_gpu is not None and not 0 <= per_gpu <= 1000:
        raise UserError(f"--per-gpu is {per_gpu}; expected 1 to 1000")
    load_ray()
    if not plan.missing:
        return []
    context.store.prepare()
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    order = Order(context.store.folder, name, context.batch_size, context.workers, retries)
    order.logs.mkdir(parents=True)
    with connected(address, gpus=per_gpu != 0) as ray:
        return _Command(ray, plan, context, order, per_gpu).run()


class _Command:
    """One call of :func:`make_on_ray`: workers that are on their way, and what they have made."""

    def __init__(self, ray: Any, plan: Plan, context: Context, order: Order, per_gpu: int | None):
        self.ray, self.order, self.per_gpu = ray, order, per_gpu
        self.store, self.line = context.store, context.screen.line
        self.queue = Queue(by_need(plan.to_make()), self.line)
        self.unit = "GPU" if per_gpu != 0 and ray.cluster_resources().get("GPU") else "CPU"
        # On a GPU a process ends with its artefacts: its memory is free then, and the next one may
        # be given another GPU, which a process that has used one cannot see.
        self.worker = ray.remote(max_calls=1)(work) if self.unit == "GPU" else ray.remote(work)
        self.sent: dict[Any, float] = {}
        self.seen: set[str] = set()
        self.deaths = 0

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
            f"{self._capacity():g} {self.unit}s; logs in {self.order.logs}"
        )
        told = time.monotonic()
        try:
            while self.queue.left:
                before = len(self.queue.left)
                self._send()
                self._receive()
                self._look()
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

    def _capacity(self) -> float:
        return self.ray.cluster_resources().get(self.unit, 0.0)

    def _send(self) -> None:
        """A worker for each artefact that is ready, up to what the cluster has room for."""
        ready = Counter(self.share(artefact) for artefact in self.queue.ready())
        running = Counter(self.sent.values())
        for share, count in ready.items():
            room = max(1, int(self._capacity() / share + 1e-6)) if share else 1
            todo = [a for a in self.queue.left.values() if self.share(a) == share]
            gpus = share if self.unit == "GPU" else 0
            worker = self.worker.options(num_cpus=1, num_gpus=gpus, max_retries=0)
            for _ in range(min(count, room) - running[share]):
                self.sent[worker.remote(todo, self.order)] = share

    def _receive(self) -> None:
        """Wait for a worker, and for nothing if one is there."""
        start = time.monotonic()
        answers, _ = self.ray.wait(list(self.sent), timeout=LOOK_SECONDS) if self.sent else ([], [])
        ended = 0
        for answer in answers:
            del self.sent[answer]
            errors = self.ray.exceptions
            try:
                ended += self.ray.get(answer)
            except UserError as error:  # of the machine, not of an artefact
                raise UserError(str(getattr(error, "cause", error))) from None
            except errors.RayTaskError as error:  # the worker could not even begin
                raise UserError(
                    f"a machine cannot take part ({first_line(error.cause or error)}); is the same "
                    "version of scotoma installed there?"
                ) from None
            except errors.RayError as error:  # a process or machine is gone
                self.deaths += 1
                if self.deaths > (1 + self.order.retries) * self.queue.total + 8:
                    raise UserError(f"workers die at once ({first_line(error)})") from None
        if not ended:  # others are at all that is ready
            time.sleep(max(0.0, LOOK_SECONDS - (time.monotonic() - start)))

    def _look(self) -> None:
        """What is there now, or failed."""
        for artefact in list(self.queue.left.values()):
            head = self.queue.head(artefact)
            message = self.order.noted(artefact, "failed")
            if message is not None:
                message = f"{message}; see {self.order.log(artefact)}"
                self.queue.fails(artefact, message)
                self.line(f"{head}: failed: {message}")
            elif artefact.is_done(self.store):
                note = self.order.noted(artefact, "done")
                if note is None and artefact.key not in self.seen:
                    self.seen.add(artefact.key)  # its worker writes that in a moment, if it is ours
                    continue
                self.queue.finished(artefact)
                self.line(f"{head} done{note or ' elsewhere'}")

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


def work(todo: list[Artefact], order: Order) -> int:
    """Make those that are ready and that nobody else is making: up to 16 of one affinity, whose
    data and networks are loaded once. Returns how many ended.

    Raises:
        UserError: this machine must not make any. KeyboardInterrupt: cancelled.
    """
    if order.version != __version__:
        raise UserError(
            f"{platform.node()} has scotoma {__version__}, and {order.version} gave the command; "
            "install the same version on all machines"
        )
    if not order.logs.is_dir():
        raise UserError(
            f"{platform.node()} does not see the folder of --out; give one that all machines of "
            "the cluster share, under the same path"
        )
    context = _context(order.folder, _device(load_ray()), order.batch_size, order.workers)
    store, ended, affinity = context.store, 0, None
    for artefact in todo:
        if affinity not in (None, artefact.affinity) or not _is_ready(artefact, order, store):
            continue
        with store.alone(artefact.key, wait=False) as mine:
            if not mine or not _is_ready(artefact, order, store):
                continue
            affinity = artefact.affinity
            fit = _make(artefact, order, context)
        ended += 1
        if ended == MOST or not fit:
            break
    return ended


def _is_ready(artefact: Artefact, order: Order, store: Store) -> bool:
    ended = artefact.is_done(store) or order.noted(artefact, "failed") is not None
    return not ended and all(each.is_done(store) for each in artefact.inputs())


def _make(artefact: Artefact, order: Order, context: Context) -> bool:
    """Returns whether the process is fit to go on; after an error that nobody expected, on a GPU
    above all, it is not."""
    start, attempts = time.perf_counter(), order.attempts(artefact)
    with _logged(order.log(artefact)):
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        print(f"# {now} {platform.node()} process {os.getpid()}: {artefact.label}")
        try:
            if attempts > order.retries:
                raise UserError(f"the process that made it died {attempts} times in a row")
            context.screen.begin(artefact.label)
            make_alone(artefact, context)
            if not artefact.is_done(context.store):
                raise UserError(f"{artefact.path(context.store)} was made, but is not seen")
        except UserError as error:
            print(f"failed: {error}")
            order.note(artefact, "failed", str(error))
        except Exception as error:  # a bug; other artefacts need not suffer from it
            traceback.print_exc()
            order.note(artefact, "failed", f"{type(error).__name__}: {error}")
            return False
        else:
            seconds = time.perf_counter() - start
            order.note(artefact, "done", f" in {seconds:.0f} s on {platform.node()}")
    return True


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Whatever is printed is added to a file, from C and from child processes too."""
    kept = os.dup(1), os.dup(2)
    with path.open("a", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            yield
        finally:
            for number, before in enumerate(kept, 1):
                os.dup2(before, number)
                os.close(before)


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
