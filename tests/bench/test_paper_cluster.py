"""Plans on a Ray cluster: what runs where and when, and what outlives a death."""

import os
import re
import signal
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import ray_cluster
from paper_smoke import context, new_store, tiny_setup
from ray_cluster import (
    Fake,
    OnPretendedGpu,
    OtherElsewhere,
    another_machine,
    meanwhile,
    ray,
    wait_for,
)
from safetensors.torch import load_file
from scotoma.bench.paper.graph import cluster, cluster_connect
from scotoma.bench.paper.graph.cluster import run_on_cluster
from scotoma.bench.paper.graph.cluster_store import log_path
from scotoma.bench.paper.graph.local import run_locally
from scotoma.bench.paper.graph.plan import Plan
from scotoma.bench.paper.graph.results import Clean, Transfer
from scotoma.defective.errors import UserError
from scotoma.defective.robustness import load_set


@pytest.fixture(scope="module")
def machines():
    with ray_cluster.two_machines() as found:
        yield found


@pytest.fixture
def send(machines, store, monkeypatch, capsys):
    """Run artefacts on the cluster: (failures, what was printed). The connection stays open."""
    ray_cluster.connect(machines)
    monkeypatch.setattr(
        cluster,
        "connected",
        lambda address, gpus: nullcontext(cluster_connect.Cluster(ray, address, gpus)),
    )

    def run(*wanted, **options):
        failures = run_on_cluster(Plan.of(wanted, store), context(store), "kept", **options)
        return failures, capsys.readouterr().out

    return run


@pytest.fixture
def apart():
    """No connection is open."""
    ray.shutdown()


def overlap(first, second):
    return max(first["start"], second["start"]) < min(first["end"], second["end"])


def test_inputs_come_first_and_the_rest_at_once(send, store):
    """Two that hold each other's machine until both have begun; then what needs them."""
    pair = [Fake(name, does="hold") for name in ("left", "right")]
    last = Fake("last", tuple(pair))

    def go():
        wait_for(lambda: all(fake.begun(store) for fake in pair))
        (store.folder / "go").touch()

    with meanwhile(go):
        failures, text = send(last)
    assert failures == []
    left, right, end = (a.read(store) for a in (*pair, last))
    assert overlap(left, right)
    assert left["node"] != right["node"]
    assert end["start"] >= max(left["end"], right["end"])
    assert end["device"] == "cpu"
    assert end["threads"] == 1
    lines = re.findall(r"^\[(\d)/3\] fake (\w+) done in \d+ s on (first|second)$", text, re.M)
    assert [number for number, _, _ in lines] == ["1", "2", "3"]
    assert {name for _, name, _ in lines[:2]} == {"left", "right"}
    assert {where for _, _, where in lines[:2]} == {"first", "second"}
    assert "3 artefacts; 2 machines with 2 CPUs; logs in" in text
    assert not list((store.folder / "logs").glob(".seen-*"))


def test_all_that_can_go_wrong_with_an_artefact(send, store):
    """Each is a failure with a reason; what needs it is left out, and the others are made."""
    bad, bug = Fake("bad", does="fail"), Fake("bug", does="bug", group="one")
    deadly, weak = Fake("deadly", does="die"), Fake("weak", does="die-once", group="one")
    other = OtherElsewhere("other")
    wants_bad = Fake("wants-bad", (bad, weak))
    wants_that = Fake("wants-that", (wants_bad,))
    after = Fake("after", (weak,))
    friends = [Fake(f"friend-{number}", group="one") for number in range(4)]
    talker = Fake("talker", does="print")
    failures, text = send(wants_that, after, deadly, bug, other, *friends, talker, retries=1)
    reasons = {f.artefact.name: f.message for f in failures}
    assert sorted(reasons) == ["bad", "bug", "deadly", "other"]
    assert reasons["bad"].startswith("bad is bad; see ")
    assert reasons["bug"].startswith("RuntimeError: bug is wrong; see ")
    assert re.match(
        r"the process that made it died, 2 times in a row \(WorkerCrashedError", reasons["deadly"]
    )
    assert "another version of scotoma" in reasons["other"]
    for failure in failures:
        assert str(log_path(store.folder, failure.artefact.key)) in failure.message
        assert not failure.artefact.is_done(store)
    for artefact in (after, weak, talker, *friends):
        assert artefact.is_done(store)
    assert not wants_bad.is_done(store)
    assert "wants-bad: left out, bad failed" in text
    assert "wants-that: left out, bad failed" in text
    assert sorted(map(int, re.findall(r"^\[(\d+)/13\] fake", text, re.M))) == [*range(1, 14)]
    assert len(deadly.begun(store)) == 2
    # What workers say is in logs, and nowhere else.
    assert "a word" not in text
    said = log_path(store.folder, talker.key).read_text()
    assert "a word of Python" in said
    assert "a word of a child" in said
    said = log_path(store.folder, bug.key).read_text()
    assert "Traceback" in said
    assert log_path(store.folder, weak.key).read_text().count(" process ") >= 2


def test_a_batch_shares_a_process_and_what_it_loaded(send, store):
    """Eight ready artefacts on two CPUs: batches of four, of one affinity each."""
    groups = [[Fake(f"{g}{n}", group=g) for n in range(4)] for g in ("a", "b")]
    failures, _ = send(*(fake for pair in zip(*groups, strict=True) for fake in pair))
    assert failures == []
    made_by: dict[int, int] = {}
    for group in sorted(groups, key=lambda group: group[0].read(store)["start"]):
        made = [fake.read(store) for fake in group]
        (process,) = {m["process"] for m in made}
        # On a busy machine the second batch may find the first one's process free.
        before = made_by.get(process, 0)
        assert [m["number"] for m in made] == [before + n for n in (1, 2, 3, 4)]
        made_by[process] = before + 4
        starts = [m["start"] for m in made]
        assert starts == sorted(starts)
        assert all(m["end"] <= later for m, later in zip(made, starts[1:], strict=False))
    last = Fake("c", (groups[0][0],))
    send(last)
    # The same context as before, in whichever process.
    assert last.read(store)["number"] == made_by.get(last.read(store)["process"], 0) + 1


def test_what_is_done_is_not_made_again(send, store):
    first = Fake("first-one")
    send(first)
    before = first.read(store)
    failures, text = send(Fake("second-one", (first,)))
    assert failures == []
    assert "[1/1] fake second-one" in text
    assert first.read(store) == before


def test_ctrl_c_keeps_what_is_finished_and_ends_what_is_not(send, store):
    """The message that stops a worker arrives as a KeyboardInterrupt there."""
    held, done = Fake("held", does="hold-once"), Fake("done")

    def stop():
        wait_for(lambda: done.is_done(store) and held.begun(store))
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    with meanwhile(stop), pytest.raises(KeyboardInterrupt):
        send(held, done)
    assert (store.folder / "held.stopped").exists()
    assert done.is_done(store)
    assert not held.is_done(store)
    failures, text = send(held, done)
    assert failures == []
    assert "[1/1] fake held done" in text


def test_what_is_made_but_not_seen_is_a_failure(send, store, monkeypatch):
    monkeypatch.setattr(cluster, "LATE_SECONDS", 0.1)
    failures, _ = send(Fake("ghost", does="vanish"))
    (failure,) = failures
    assert "was made, but is not seen here" in failure.message


def test_a_machine_that_goes_away(machines, send, store):
    """Its artefact is made elsewhere."""
    held = [Fake(f"held{number}", does="hold-once") for number in range(3)]
    with another_machine(machines, num_cpus=1, node_name="third") as third:

        def take_away():
            wait_for(lambda: all(fake.begun(store) for fake in held))
            machines.remove_node(third, allow_graceful=False)
            there = [at for fake in held for at in fake.begun(store) if at[0] == third.node_id]
            wait_for(lambda: not Path(f"/proc/{there[0][1]}").exists())
            # The two others hold all that is left.
            (store.folder / "go").touch()

        with meanwhile(take_away):
            failures, _ = send(*held)
    assert failures == []
    assert all(fake.read(store)["node"] != third.node_id for fake in held)
    assert sorted(len(fake.begun(store)) for fake in held) == [1, 1, 2]


PATCH = """
import scotoma
scotoma.__version__ = "0.0.9"
"""
BLIND = """
import pathlib
read_text = pathlib.Path.read_text
def read(path, *rest, **more):
    return read_text(pathlib.Path("/nowhere") if path.name.startswith(".seen") else path, **more)
pathlib.Path.read_text = read
"""


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (PATCH, "third has scotoma 0.0.9, and .* gave the command; install the same version"),
        (BLIND, "third does not see the folder of --out; give one that all machines"),
        ("import sys; sys.modules['scotoma'] = None", "third cannot take part .*scotoma"),
    ],
    ids=["version", "store", "missing"],
)
def test_machines_that_cannot_take_part(machines, send, store, tmp_path, patch, message):
    (tmp_path / "sitecustomize.py").write_text(patch)
    env = {"PYTHONPATH": f"{tmp_path}:{ray_cluster.PATHS}"}
    fake = Fake("never")
    with (
        another_machine(machines, num_cpus=1, node_name="third", env_vars=env),
        pytest.raises(UserError, match=message),
    ):
        send(fake)
    assert not fake.is_done(store)


def test_a_gpu_is_shared_as_told(machines, send, store):
    """Ray is told of a GPU, and torch too. Each batch has a process of its own."""
    fakes = [OnPretendedGpu(f"gpu{number}", does="hold") for number in range(3)]

    def go():
        wait_for(lambda: sum(map(bool, [fake.begun(store) for fake in fakes])) == 2)
        time.sleep(1.0)  # for a third, if there were room
        assert sum(map(bool, [fake.begun(store) for fake in fakes])) == 2
        (store.folder / "go").touch()

    gpu = another_machine(machines, num_cpus=4, num_gpus=1, node_name="gpu")
    with gpu as node, meanwhile(go):
        failures, text = send(*fakes, per_gpu=2)
    assert failures == []
    assert "with 1 GPUs" in text
    made = [fake.read(store) for fake in fakes]
    assert {m["node"] for m in made} == {node.node_id}
    assert {m["device"] for m in made} == {"cuda"}
    assert all(len(m["gpus"]) == 1 for m in made)
    assert len({m["process"] for m in made}) == 3


def test_gpus_that_are_not_wanted(machines, send, store):
    """Work goes to CPUs, of the machine with the GPU too."""
    fakes = [OnPretendedGpu(f"cpu{number}", does="hold") for number in range(3)]

    def go():
        wait_for(lambda: all(fake.begun(store) for fake in fakes))
        (store.folder / "go").touch()

    with another_machine(machines, num_cpus=1, num_gpus=1, node_name="gpu"), meanwhile(go):
        failures, text = send(*fakes, per_gpu=0)
    assert failures == []
    assert "3 machines with 3 CPUs" in text
    made = [fake.read(store) for fake in fakes]
    assert {(m["device"], *m["gpus"]) for m in made} == {("cpu",)}


def test_stopped_and_killed_trainings_change_no_number(send, store, tmp_path):
    """Ctrl-C in the middle of a training, the same again, and SIGKILL in the middle of it."""
    setup = tiny_setup()
    options = {"epochs": 4, "save_seconds": 0.0}
    source = setup.source("resnet18", seed=0, **options)
    target = setup.target("target", "resnet18", "0.5-Bottom", seed=0, **options)
    sample = setup.sample("cifar10", (source, target))
    images = setup.adversarial(source, "pgd:eps=32/255,step=8/255,steps=3", sample)
    wanted = [Clean(target), Transfer(target, images), Transfer(source, images)]
    victim = source.members[0]
    log = log_path(store.folder, victim.key)

    def epochs():
        file = victim.path(store) / "metrics.jsonl"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def stop():
        wait_for(lambda: epochs() >= 1)
        os.kill(os.getpid(), signal.SIGINT)

    with meanwhile(stop), pytest.raises(KeyboardInterrupt):
        send(*wanted)
    assert not victim.is_done(store)
    assert (victim.path(store) / "resume.pt").exists()
    before = epochs()

    def kill():
        wait_for(lambda: epochs() > before)
        os.kill(int(re.findall(r" process (\d+) ", log.read_text())[-1]), signal.SIGKILL)
        assert not victim.is_done(store)

    with meanwhile(kill):
        failures, _ = send(*wanted)
    assert failures == []
    assert log.read_text().count(" process ") == 3
    assert log.read_text().count("resuming ") == 2
    alone = new_store(tmp_path / "alone")
    assert run_locally(Plan.of(wanted, alone), context(alone)) == []
    for result in wanted:
        assert result.read(store) == result.read(alone)
    for training in (victim, target.members[0]):
        first, second = (load_file(training.path(s) / "last.safetensors") for s in (store, alone))
        assert first.keys() == second.keys()
        assert all(first[name].equal(second[name]) for name in first)
    assert load_set(images.path(store)).images.equal(load_set(images.path(alone)).images)


def test_a_cluster_by_its_address(machines, apart, store):
    fake = Fake("there")
    assert run_on_cluster(Plan.of([fake], store), context(store), machines.address) == []
    assert fake.is_done(store)
    assert not ray.is_initialized()


def test_a_cluster_of_this_machine_alone(apart, store, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", ray_cluster.PATHS)
    fake = Fake("here")
    assert run_on_cluster(Plan.of([fake], store), context(store), "local") == []
    assert fake.is_done(store)
    assert "1 machine with " in capsys.readouterr().out


def test_a_connection_that_is_there(machines, store):
    ray_cluster.connect(machines)
    with (
        pytest.raises(UserError, match="connected to a Ray cluster already"),
        cluster_connect.connected("local"),
    ):
        pass
