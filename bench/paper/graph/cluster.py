"""Making artefacts on a Ray cluster, as many at once as it has room for."""

from __future__ import annotations

import time
from typing import Any

from ....defective.errors import UserError, counted
from .artefact import Artefact
from .cluster_connect import Cluster, connected, first_line, load_ray
from .cluster_queue import Batch, Queue, gpu_share
from .cluster_store import LATE_SECONDS, log_path, token, unseen
from .cluster_worker import Order, Outcome, make_batch
from .context import Context
from .plan import Failure, Plan

GRACE_SECONDS = 30.0
"""For workers to save what they have, after Ctrl-C."""
QUIET_SECONDS = 600.0
"""A person hears something at least so often."""


def run_on_cluster(
    plan: Plan, context: Context, address: str, *, per_gpu: int | None = None, retries: int = 3
) -> list[Failure]:
    """Make what is missing. What cannot be made ends nothing but what needs it.

    Means the same as :func:`scotoma.bench.paper.graph.local.run_locally`, but for an error that is
    a bug: it is a failure of its artefact here, with its traceback in the artefact's log.

    Args:
        context: for its store, which all machines see under the same path, its screen and sizes of
            batches; a worker's device is the GPU that Ray gives it, or the CPU if Ray gives none.
        address: "local", "auto" or HOST:PORT, as of
            :func:`scotoma.bench.paper.graph.cluster_connect.connected`.
        per_gpu: how many artefacts share a GPU; None for a number of each one's own
            (:func:`scotoma.bench.paper.graph.cluster_queue.gpu_share`); 0 leaves GPUs alone, and
            everything is made on CPUs.
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
    with connected(address, gpus=per_gpu != 0) as cluster, token(context.store) as word:
        order = Order(context.store.folder, word, context.batch_size, context.workers, retries)
        cluster.check(order, context.screen.line)
        return _Run(cluster, plan, context, order, per_gpu).all()


class _Run:
    """One call of :func:`run_on_cluster`: what is on its way, and what came back."""

    def __init__(
        self, cluster: Cluster, plan: Plan, context: Context, order: Order, per_gpu: int | None
    ):
        self.cluster, self.ray, self.order, self.per_gpu = cluster, cluster.ray, order, per_gpu
        self.store, self.screen = context.store, context.screen
        self.queue = Queue(plan, self.cost)
        # On a GPU a process ends with its batch: its memory is free then, and the next one may be
        # given another GPU, which a process that has used one cannot see.
        on_gpu = cluster.unit == "GPU"
        self.make = self.ray.remote(max_calls=1)(make_batch) if on_gpu else None
        self.make = self.make or self.ray.remote(make_batch)
        self.sent: dict[Any, Batch] = {}
        self.begun: dict[str, int] = {}
        self.made: list[Artefact] = []
        self.failures: list[Failure] = []
        self.counted = 0

    def cost(self, artefact: Artefact) -> float:
        """GPUs, in the ten thousandths that Ray counts in; or one CPU."""
        if self.cluster.unit == "CPU":
            return 1.0
        share = gpu_share(artefact)
        return share if self.per_gpu is None or not share else 10_000 // self.per_gpu / 10_000

    def all(self) -> list[Failure]:
        cluster, machines = self.cluster, len(self.cluster.workers())
        self.screen.line(
            f"{self.queue.total} artefacts; {machines} machine{'s' * (machines != 1)} with "
            f"{cluster.capacity():g} {cluster.unit}s; logs in {self.order.folder / 'logs'}"
        )
        try:
            while self.queue:
                self._send()
                self._receive()
        except BaseException:
            self._stop()
            raise
        for artefact in unseen(self.made, self.store, LATE_SECONDS):
            self.failures.append(
                Failure(artefact, f"{artefact.path(self.store)} was made, but is not seen here")
            )
        return self.failures

    def _send(self) -> None:
        capacity = self.cluster.capacity()
        free = capacity - sum(batch.cost for batch in self.sent.values())
        for batch in self.queue.take(free, capacity, idle=not self.sent):
            gpus = batch.cost if self.cluster.unit == "GPU" else 0
            keys = tuple(artefact.key for artefact in batch.artefacts)
            task = self.make.options(num_cpus=1, num_gpus=gpus, max_retries=self.order.retries)
            self.sent[task.remote(batch.artefacts, keys, self.order)] = batch
            for key in keys:
                self.begun[key] = self.begun.get(key, 0) + 1

    def _receive(self) -> None:
        """Wait for a batch, and for nothing if one is there."""
        answers, _ = self.ray.wait(list(self.sent), timeout=QUIET_SECONDS)
        if not answers:
            now = time.strftime("%H:%M")
            self.screen.line(f"{now}: {self.counted} of {self.queue.total}, {len(self.sent)} sent")
        for answer in answers:
            batch = self.sent.pop(answer)
            errors = self.ray.exceptions
            try:
                node, outcomes = self.ray.get(answer)
            except UserError as error:  # of the machine, not of an artefact
                raise UserError(str(getattr(error, "cause", error))) from None
            except errors.RayTaskError as error:  # the worker could not even begin
                for artefact in batch.artefacts:
                    self._failed(artefact, first_line(error.cause or error), "")
            except errors.RayError as error:
                self._died(batch, error)
            else:
                self._came_back(batch, outcomes, f" on {self.cluster.name(node)}")

    def _came_back(self, batch: Batch, outcomes: list[Outcome], where: str) -> None:
        for artefact, outcome in zip(batch.artefacts, outcomes, strict=False):
            if outcome.message is None:
                self.made.append(artefact)
                self.queue.finished(artefact.key)
                self._line(artefact, f"done in {outcome.seconds:.0f} s{where}")
            else:
                self._failed(artefact, outcome.message, where)
        for artefact in batch.artefacts[len(outcomes) :]:
            self.queue.again(artefact)

    def _died(self, batch: Batch, error: Exception) -> None:
        """A process or machine is gone, as often as Ray tried."""
        # Which of several it was is not known. A machine that is shut down cancels what it does.
        cancelled = isinstance(error, self.ray.exceptions.TaskCancelledError)
        for artefact in batch.artefacts:
            if len(batch.artefacts) > 1 or (
                cancelled and self.begun[artefact.key] <= self.order.retries
            ):
                self.queue.again(artefact)
                continue
            times = 1 + self.order.retries
            reason = f"{type(error).__name__}: {first_line(error)}"
            self._failed(
                artefact, f"the process that made it died, {times} times in a row ({reason})", ""
            )

    def _failed(self, artefact: Artefact, message: str, where: str) -> None:
        log = log_path(self.order.folder, artefact.key)
        self.failures.append(Failure(artefact, f"{message}; see {log}"))
        self._line(artefact, f"failed{where}: {message}; see {log}")
        for other in self.queue.failed(artefact.key):
            self._line(other, f"left out, {artefact.label} failed")

    def _line(self, artefact: Artefact, text: str) -> None:
        self.counted += 1
        head = f"[{self.counted}/{self.queue.total}] {artefact.kind} {artefact.label}"
        self.screen.line(f"{head} {text}" if text.startswith("done") else f"{head}: {text}")

    def _stop(self) -> None:
        """Let workers save what they have; a second Ctrl-C, or the end of patience, ends them."""
        if not self.sent:
            return
        self.screen.line(f"stopping: {counted(len(self.sent), 'worker')} left to save")
        # Not with force: Ray 2.60 dies of that where a worker has just answered. What is left when
        # the connection is closed is ended then.
        for answer in self.sent:
            self.ray.cancel(answer)
        self.ray.wait(list(self.sent), num_returns=len(self.sent), timeout=GRACE_SECONDS)
