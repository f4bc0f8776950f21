"""The way to a Ray cluster, and whether its machines can take part."""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from ....defective.errors import UserError
from .cluster_worker import Order, Sight, check_sight, look

ANSWER_SECONDS, TRIAL_SECONDS, LOOK_SECONDS = 5.0, 30.0, 180.0
"""How long to wait for a port, for Ray behind it, and for a first process on every machine."""
OBJECT_STORE = 100_000_000
"""Bytes of shared memory of a cluster that we start: nothing but outcomes is sent through it."""
_EXPECTED = "expected local, auto or HOST:PORT of a cluster that 'ray start --head' began"
# A process of its own, since Ray tries for minutes, and then ends the process that asked. Why it
# was refused (a missing token, say) Ray only writes to its log: "[time W ...] file.cc:1: why".
_TRIAL = """
import sys, ray
try:
    ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
except Exception as error:
    sys.exit("reason: " + " ".join(str(error).split()))
"""


class Cluster:
    """A cluster that this process is connected to.

    Args:
        gpus: whether to use them; otherwise the work is done on CPUs.
    """

    def __init__(self, ray: Any, address: str, gpus: bool = True):
        self.ray, self.address = ray, address
        self._names: dict[str, str] = {}
        self.unit = "GPU" if gpus and self.total("GPU") else "CPU"
        if not self.capacity():
            raise UserError(f"--ray {address}: the cluster has neither GPUs nor CPUs")

    def total(self, what: str) -> float:
        """How many "CPU"s or "GPU"s there are, busy or not."""
        return self.ray.cluster_resources().get(what, 0.0)

    def capacity(self) -> float:
        """GPUs, or CPUs of a cluster that began without GPUs or where they are not used."""
        return self.total(self.unit)

    def workers(self) -> list[dict[str, Any]]:
        """Ray's description of each machine that may be sent something."""
        nodes = [node for node in self.ray.nodes() if node["Alive"]]
        return [n for n in nodes if n["Resources"].get("CPU") or n["Resources"].get("GPU")]

    def name(self, node_id: str) -> str:
        """A machine's, for people."""
        if node_id not in self._names:
            for node in self.ray.nodes():
                own = node.get("NodeName", "")
                host, ip = node["NodeManagerHostname"], node["NodeManagerAddress"]
                self._names[node["NodeID"]] = f"{host} ({ip})" if own in ("", ip) else own
        return self._names.get(node_id, node_id[:8])

    def check(self, order: Order, say: Callable[[str], None]) -> None:
        """Look around on every machine.

        Args:
            say: gets warnings.

        Raises:
            UserError: a machine does not see the store, has another version of scotoma or none, or
                does not answer.
        """
        ray = self.ray
        on = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        # A process that once looked without a GPU would see none later: it is not used again.
        probe = ray.remote(max_calls=1)(look) if self.unit == "GPU" else ray.remote(look)
        asked = {
            node["NodeID"]: probe.options(
                num_cpus=0, scheduling_strategy=on(node["NodeID"], soft=False)
            ).remote(order)
            for node in self.workers()
        }
        for node_id, answer in asked.items():
            name = self.name(node_id)
            try:
                sight: Sight = ray.get(answer, timeout=LOOK_SECONDS)
            except ray.exceptions.RayError as error:
                reason = getattr(error, "cause", None) or error
                raise UserError(
                    f"{name} cannot take part ({type(reason).__name__}: {first_line(reason)}); "
                    "is the same version of scotoma installed there?"
                ) from None
            check_sight(sight, name)
            here = {"torch": version("torch"), "python": platform.python_version()}
            for what, ours in here.items():
                if getattr(sight, what) != ours:
                    theirs = getattr(sight, what)
                    say(f"warning: {name} has {what} {theirs}, and here is {ours}")


@contextmanager
def connected(address: str, gpus: bool = True) -> Iterator[Cluster]:
    """A connection to a Ray cluster, for a while.

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
    else:
        _try(address)
    try:
        ray.init(address, **options)
        yield Cluster(ray, address, gpus)
    except (ConnectionError, RuntimeError) as error:
        if ray.is_initialized():
            raise
        raise UserError(f"--ray {address}: {first_line(error)}") from None
    finally:
        ray.shutdown()


def load_ray() -> Any:
    """The library. Raises UserError, with the command that installs it, if it is not there."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report home
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise UserError(
            f"--ray needs the library ray, which cannot be imported ({error}): "
            "pip install 'scotoma[ray]'"
        ) from error
    return ray


def _try(address: str) -> None:
    """Raises UserError within half a minute if there is no cluster at the address."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or "/" in host or not (port.isdecimal() and 0 < int(port) < 65536):
            raise UserError(f"--ray {address!r}: {_EXPECTED}")
        try:
            socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
        except OSError as error:
            raise UserError(
                f"--ray {address}: nothing answers there ({error.strerror or error}); {_EXPECTED}"
            ) from None
    try:
        trial = subprocess.run(
            [sys.executable, "-c", _TRIAL, address],
            capture_output=True,
            text=True,
            timeout=TRIAL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"--ray {address}: no Ray cluster answers there, or this machine is not part of it; "
            f"{_EXPECTED}, and run the command on one of its machines"
        ) from None
    if trial.returncode:
        said, _, reason = trial.stderr.rpartition("reason: ")
        logged = re.findall(r"^\[.* [WE] .*\] \S+:\d+: (.+)$", said, re.M)
        reason = reason.strip()[:300] or f"status {trial.returncode}"
        why = f" ({logged[-1][:200]})" if logged else ""
        raise UserError(f"--ray {address}: {reason}{why}; {_EXPECTED}")


def first_line(error: BaseException) -> str:
    """An error's message without what comes after its first line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
