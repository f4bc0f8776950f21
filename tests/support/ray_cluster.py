"""Ray clusters of this machine, and artefacts that are made in no time or die while they are."""

import json
import os
import shutil
import signal
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from named_artefact import Named
from scotoma.defective.errors import UserError

# Else a call of Ray where there is no cluster starts one, which stays for the tests after it.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'scotoma[ray]'")
# Workers import this file, and scotoma from where the tests do.
PATHS = ":".join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
NODE = {
    "num_gpus": 0,
    "object_store_memory": 100_000_000,
    "include_dashboard": False,
    "env_vars": {"PYTHONPATH": PATHS},
}


@contextmanager
def two_machines():
    """A cluster of two nodes with a CPU each; nothing of it is left afterwards."""
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="sct", dir="/tmp")  # a socket's path is at most 107 long
    # Ray notes there which cluster was started last, and does not make the folder for it. In the
    # usual one, the note would be taken for a cluster of the person who runs the tests.
    Path(folder, "ray").mkdir()
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
            environment.setenv("RAY_TMPDIR", folder)
            cluster = Cluster()
            try:
                for name in ("first", "second"):
                    cluster.add_node(num_cpus=1, node_name=name, **NODE)
                cluster.wait_for_nodes()
                yield cluster
            finally:
                ray.shutdown()
                cluster.shutdown()
    finally:
        until = time.monotonic() + 20
        while (left := processes_with(folder)) and time.monotonic() < until:
            time.sleep(0.1)
        shutil.rmtree(folder, ignore_errors=True)
    assert not left


def connect(cluster):
    """One connection for many tests, so that workers are started once."""
    if not ray.is_initialized():
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    assert ray.get_runtime_context().gcs_address == cluster.address, "a test left a connection open"


@contextmanager
def another_machine(cluster, **arguments):
    """One more node for a while."""
    node = cluster.add_node(**NODE | arguments)
    cluster.wait_for_nodes()
    try:
        yield node
    finally:
        if node in cluster.worker_nodes:
            cluster.remove_node(node, allow_graceful=True)


def processes_with(text):
    """Numbers of the processes whose command line holds a text."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and text in (folder / "cmdline").read_text():
                found.append(int(folder.name))
        except OSError:
            pass  # gone meanwhile
    return found


def holder_of(path):
    """The number of the process that has a file open."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink() == path:
                return int(link.parts[2])
        except OSError:
            pass  # gone meanwhile, or somebody else's
    raise LookupError(path)


@dataclass(frozen=True)
class Fake(Named):
    """Writes where and when it was made.

    Attributes:
        does: "" or what it does before: fail, bug, print; vanish, which writes nothing; die, each
            time; die-once; hold, until the file "go" is in the store.
    """

    kind = "fake"
    suffix = ".json"

    does: str = ""

    def settings(self):
        return super().settings() | {"does": self.does}

    def make(self, context):
        start, path = time.time(), self.path(context.store)
        path.parent.mkdir(parents=True, exist_ok=True)
        begun = path.with_suffix(".begun")
        with begun.open("a") as file:
            file.write("begun\n")
        self.act(context.store.folder / "go", len(begun.read_text().splitlines()))
        content = {
            "start": start,
            "end": time.time(),
            "process": os.getpid(),
            "node": ray.get_runtime_context().get_node_id(),
            "device": str(context.device),
            "gpus": ray.get_gpu_ids(),
            "threads": torch.get_num_threads(),
        }
        if self.does != "vanish":
            path.write_text(json.dumps(content))

    def act(self, go, attempt):
        if self.does == "fail":
            raise UserError(f"{self.name} is bad")
        if self.does == "bug":
            raise RuntimeError(f"{self.name} is wrong")
        if self.does == "print":
            print("a word of Python")
            os.system("echo a word of a child")
        if self.does == "die" or (self.does == "die-once" and attempt == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.does == "hold":
            wait_for(go.exists)

    def begun(self, store):
        """A line for each attempt so far."""
        path = self.path(store).with_suffix(".begun")
        return path.read_text().splitlines() if path.exists() else []

    def read(self, store):
        return json.loads(self.path(store).read_text())


@dataclass(frozen=True)
class OnPretendedGpu(Fake):
    """Torch in its worker says that there is a GPU; nothing is computed on it."""

    def __setstate__(self, state):
        self.__dict__.update(state)
        torch.cuda.is_available = lambda: True


@contextmanager
def meanwhile(act):
    """A function in another thread; its errors are raised at the end, unless the block has one."""
    errors = []

    def run():
        try:
            act()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join()
    if errors:
        raise errors[0]


def wait_for(condition, seconds=180):
    """What the condition returns, once that is true."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)
    return found
