"""Plans on a Ray cluster: each artefact is made once, and outlives the death of who made it."""

import os
import re
import signal
import sys
from contextlib import nullcontext

import pytest
import ray_cluster
import torch
from paper_smoke import context, finish, new_store, tiny_setup
from ray_cluster import (
    Fake,
    OnPretendedGpu,
    another_machine,
    holder_of,
    meanwhile,
    ray,
    wait_for,
)
from safetensors.torch import load_file
from scotoma.bench.paper import cluster
from scotoma.bench.paper.artefacts import Result
from scotoma.bench.paper.cluster import Order, by_need, make_on_ray, work
from scotoma.bench.paper.data import SampleFolder
from scotoma.bench.paper.work import Plan
from scotoma.defective.errors import UserError


@pytest.fixture(scope="module")
def machines():
    with ray_cluster.two_machines() as found:
        yield found


@pytest.fixture
def send(machines, store, monkeypatch, capsys):
    """Run artefacts on the cluster: (failures, what was printed). The connection stays open."""
    ray_cluster.connect(machines)
    monkeypatch.setattr(cluster, "connected", lambda address, gpus: nullcontext(ray))
    monkeypatch.setattr(cluster, "LOOK_SECONDS", 0.1)

    def run(*wanted, **options):
        failures = make_on_ray(Plan.of(wanted, store), context(store), "kept", **options)
        return failures, capsys.readouterr().out

    return run


@pytest.fixture
def apart():
    """No connection is open."""
    ray.shutdown()


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
    assert max(left["start"], right["start"]) < min(left["end"], right["end"])
    assert left["node"] != right["node"]
    assert end["start"] >= max(left["end"], right["end"])
    assert (end["device"], end["threads"]) == ("cpu", 1)
    assert re.findall(r"^\[(\d)/3\] fake \w+ done$", text, re.M) == ["1", "2", "3"]
    assert "3 artefacts; 2 machines with 2 CPUs\n" in text
    before = last.read(store)
    failures, text = send(Fake("second", (last,)))
    assert "[1/1] fake second" in text and last.read(store) == before


def test_all_that_can_go_wrong_with_an_artefact(send, store):
    """Each is a failure with a reason; what needs it is left out, and the others are made."""
    bad, bug = Fake("bad", does="fail"), Fake("bug", does="bug", group="one")
    deadly, weak = Fake("deadly", does="die"), Fake("weak", does="die-once", group="one")
    wants_bad = Fake("wants-bad", (bad, weak))
    wants_that = Fake("wants-that", (wants_bad,))
    after, ghost = Fake("after", (weak,)), Fake("ghost", does="vanish")
    friends = [Fake(f"friend-{number}", group="one") for number in range(4)]
    talker = Fake("talker", does="print")
    failures, text = send(wants_that, after, deadly, bug, ghost, *friends, talker, retries=1)
    reasons = {f.artefact.name: f.message for f in failures}
    assert sorted(reasons) == ["bad", "bug", "deadly", "ghost"]
    assert reasons["bad"] == "bad is bad"
    assert reasons["bug"] == "RuntimeError: bug is wrong"
    assert reasons["deadly"] == "the process that made it died 2 times in a row"
    assert "was made, but is not seen" in reasons["ghost"]
    for failure in failures:
        assert not failure.artefact.is_done(store)
        assert len(failure.artefact.begun(store)) == (2 if failure.artefact == deadly else 1)
    for artefact in (after, weak, talker, *friends):
        assert artefact.is_done(store)
    assert "wants-bad: left out, bad failed" in text and not wants_bad.is_done(store)
    assert "wants-that: left out, bad failed" in text
    assert sorted(map(int, re.findall(r"^\[(\d+)/13\] fake", text, re.M))) == [*range(1, 14)]
    # Of what workers say, a person hears tracebacks.
    assert "a word" not in text and 'raise RuntimeError(f"{self.name} is wrong")' in text


@pytest.mark.slow
def test_a_gpu_is_shared_as_told(machines, send, store):
    """Ray is told of a GPU, and torch too. Each worker has a process of its own."""
    fakes = [OnPretendedGpu(f"gpu{number}", does="hold", group=f"{number}") for number in range(3)]

    def go():
        wait_for(lambda: sum(map(bool, [fake.begun(store) for fake in fakes])) == 2)
        (store.folder / "go").touch()

    with another_machine(machines, num_cpus=4, num_gpus=1, node_name="gpu"), meanwhile(go):
        failures, text = send(*fakes, per_gpu=2)
    assert failures == [] and "with 1 GPUs" in text
    made = [fake.read(store) for fake in fakes]
    assert {m["device"] for m in made} == {"cuda"} and all(len(m["gpus"]) == 1 for m in made)
    assert len({m["process"] for m in made}) == 3


def test_a_machine_of_another_version_or_without_the_folder(tmp_path):
    with pytest.raises(UserError, match=r"has scotoma .*, and 0\.0\.9 gave the command"):
        work([], Order(tmp_path, tmp_path, 8, 0, version="0.0.9"))
    with pytest.raises(UserError, match="does not see the folder of --out"):
        work([], Order(tmp_path, tmp_path / "token", 8, 0))


@pytest.mark.slow
def test_stopped_and_killed_trainings_change_no_number(send, store, tmp_path):
    """Ctrl-C in the middle of a training, the same again, and SIGKILL in the middle of it."""
    setup = tiny_setup()
    options = {"epochs": 4, "save_seconds": 0.0}
    target = setup.target("target", "resnet18", "0.5-Bottom", seed=0, **options)
    wanted = [Result.clean(target)]
    (victim,) = target.members

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
        os.kill(holder_of(store.folder / "locks" / victim.key), signal.SIGKILL)
        assert not victim.is_done(store)

    with meanwhile(kill):
        failures, _ = send(*wanted)
    assert failures == []
    alone = new_store(tmp_path / "alone")
    assert finish(wanted, alone) == []
    assert wanted[0].read(store) == wanted[0].read(alone)
    first, second = (load_file(victim.path(s) / "last.safetensors") for s in (store, alone))
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)


@pytest.mark.slow
def test_a_cluster_of_this_machine_alone(apart, store, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", ray_cluster.PATHS)
    fake = Fake("here")
    assert make_on_ray(Plan.of([fake], store), context(store), "local", per_gpu=0) == []
    assert fake.is_done(store) and not ray.is_initialized()
    assert "1 machine with " in capsys.readouterr().out
    assert make_on_ray(Plan.of([fake], store), context(store), "127.0.0.1:1") == []  # no work


# Without a cluster.


def test_what_most_wait_for_goes_first():
    early, late = Fake("e"), Fake("l")
    middle = Fake("m", (late,))
    todo = [early, Fake("x", (early,)), late, middle, Fake("y", (middle,)), Fake("z", (middle,))]
    assert [fake.name for fake in by_need(todo)] == ["l", "m", "e", "x", "y", "z"]


def test_shares_of_a_gpu():
    setup = tiny_setup()
    narrow = setup.source("resnet18", seed=0)
    wide = setup.source("densenet121", seed=0, width=32)
    usual = setup.source("vgg19", seed=0, width=None)
    sample = setup.sample("cifar10", (narrow, wide))
    text = "fgsm:eps=8/255"
    shares = [
        (wide.members[0], 1.0),
        (usual.members[0], 1.0),
        (narrow.members[0], 0.25),
        (sample, 0.25),
        (setup.adversarial(wide, text, sample), 1.0),
        (setup.adversarial(narrow, text, sample), 0.25),
        (Result.white_box(usual, text, sample), 1.0),
        (Result.white_box(narrow, text, sample), 0.25),
        (Result.clean(wide), 0.25),
        (Result.transfer(wide, setup.adversarial(wide, text, sample)), 0.25),
        (SampleFolder(10, 10), 0.0),
    ]
    assert [artefact.share for artefact, _ in shares] == [share for _, share in shares]


def test_a_gpu_that_torch_cannot_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: ["0"])
    with pytest.raises(UserError, match=r"Ray has a GPU on .* that torch cannot use there"):
        cluster._device(ray)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "--ray 127.0.0.1:1: nothing answers there .*refused.*ray start --head"),
        ("ray://127.0.0.1:10001", "--ray 'ray://127.0.0.1:10001': expected local, auto or HOST"),
        ("head:0", "--ray 'head:0': expected"),
        (":6379", "--ray ':6379': expected"),
    ],
)
def test_addresses_without_a_cluster(apart, store, address, message):
    with pytest.raises(UserError, match=message):
        make_on_ray(Plan.of([Fake("x")], store), context(store), address)


def test_ray_is_not_installed(apart, store, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'scotoma\[ray\]'"):
        make_on_ray(Plan.of([Fake("x")], store), context(store), "local")
