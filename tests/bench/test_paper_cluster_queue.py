"""The order in which artefacts are sent to a cluster, and what happens to those whose process died:
without a cluster."""

import re
import time
from dataclasses import dataclass

import pytest
import torch
from named_artefact import Named
from paper_smoke import context, tiny_setup
from ray_cluster import Fake, meanwhile, ray
from scotoma.bench.paper.graph import cluster, cluster_queue, cluster_store, cluster_worker
from scotoma.bench.paper.graph.cluster_store import log_path
from scotoma.bench.paper.graph.plan import Plan
from scotoma.bench.paper.graph.results import Clean, Transfer, WhiteBox
from scotoma.bench.paper.graph.sample_folder import SampleFolder
from scotoma.defective.errors import UserError


def queue(store, *wanted, cost=lambda artefact: 1.0):
    return cluster_queue.Queue(Plan.of(wanted, store), cost)


def names(batches):
    return ["".join(artefact.name for artefact in batch.artefacts) for batch in batches]


def test_what_most_wait_for_goes_first(store):
    early, late = Fake("e"), Fake("l")
    middle = Fake("m", (late,))
    found = queue(store, Fake("x", (early,)), Fake("y", (middle,)), Fake("z", (middle,)))
    assert found.total == len(found) == 6
    assert names(found.take(1, 1, idle=True)) == ["l"]
    assert names(found.take(1, 1, idle=True)) == ["e"]
    assert names(found.take(1, 1, idle=True)) == []
    found.finished(late.key)
    assert names(found.take(9, 9, idle=True)) == ["m"]
    assert len(found) == 5


def test_an_input_that_is_there_is_not_waited_for(store):
    there = Fake("there")
    there.path(store).parent.mkdir(parents=True)
    there.path(store).write_text("{}")
    assert names(queue(store, Fake("x", (there,))).take(1, 1, idle=True)) == ["x"]


def test_batches_are_of_one_affinity_and_grow_with_the_work(store):
    fakes = [Fake(f"{group}{n:02} ", group=group) for n in range(20) for group in "ab"]
    few = queue(store, *fakes[:6])
    assert names(few.take(4, 4, idle=True)) == ["a00 ", "a01 ", "a02 ", "b00 "]
    many = queue(store, *fakes)
    sent = many.take(4, 2, idle=True)
    assert [{fake.group for fake in batch.artefacts} for batch in sent] == [{"a"}] * 2 + [{"b"}] * 2
    assert [len(batch.artefacts) for batch in sent] == [16, 4, 16, 4]


def test_room_is_not_exceeded_but_something_is_on_its_way(store):
    costs = {"big": 1.0, "small": 0.25, "free": 0.0}
    fakes = [Fake("big", group="1"), Fake("small", group="2"), Fake("free", group="3")]
    found = queue(store, *fakes, cost=lambda artefact: costs[artefact.name])
    assert names(found.take(0.5, 1, idle=False)) == []  # nor what is smaller: big would never go
    assert names(found.take(0.5, 1, idle=True)) == ["big"]
    assert names(found.take(0.25, 1, idle=False)) == ["small", "free"]


@pytest.mark.parametrize("count", [1, 3, 7, 10])
def test_so_many_as_told_share_a_gpu(store, count):
    run = object.__new__(cluster._Run)
    run.cluster, run.per_gpu = type("", (), {"unit": "GPU"}), count
    found = queue(store, *(Fake(str(n), group=str(n)) for n in range(30)), cost=run.cost)
    assert len(found.take(1.0, 1.0, idle=True)) == count


def test_a_failure_takes_along_what_needs_it(store):
    base, other = Fake("base"), Fake("other")
    first = Fake("first", (base, other))
    second = Fake("second", (first,))
    both = Fake("both", (first, second))
    found = queue(store, both, Fake("free", (other,)))
    found.take(9, 9, idle=True)
    assert [a.name for a in found.failed(base.key)] == ["first", "second", "both"]
    found.finished(other.key)
    assert names(found.take(9, 9, idle=True)) == ["free"]
    assert len(found) == 1


def test_again_is_alone(store):
    fakes = [Fake(name, group="one") for name in "abcd"]
    found = queue(store, *fakes)
    assert names(found.take(1, 1, idle=True)) == ["abcd"]
    for fake in fakes[1:3]:
        found.again(fake)
    assert names(found.take(2, 1, idle=True)) == ["b", "c"]


@pytest.mark.parametrize(("wanted", "order"), [("z", ["b", "z"]), ("y", ["z", "b"])])
def test_again_is_alone_beside_others(store, wanted, order):
    """Whichever of them comes first; what y waits for goes before b."""
    first, second = Fake("a", group="one"), Fake("b", group="one")
    last = {"z": Fake("z", (first,), group="one")}
    last["y"] = Fake("y", (last["z"],))
    found = queue(store, first, second, last[wanted])
    assert sorted(names(found.take(2, 2, idle=True))) == ["a", "b"]
    found.finished(first.key)
    found.again(second)
    assert names(found.take(2, 1, idle=True)) == order


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
        (WhiteBox(usual, text, sample), 1.0),
        (WhiteBox(narrow, text, sample), 0.25),
        (Clean(wide), 0.25),
        (Transfer(wide, setup.adversarial(wide, text, sample)), 0.25),
        (SampleFolder(10, 10), 0.0),
    ]
    assert [cluster_queue.gpu_share(artefact) for artefact, _ in shares] == [s for _, s in shares]


def test_trainings_are_sent_alone(store):
    setup = tiny_setup()
    trainings = [setup.source("resnet18", seed=n).members[0] for n in range(4)]
    found = queue(store, *trainings)
    assert [len(batch.artefacts) for batch in found.take(1, 1, idle=True)] == [1]


# What travels


def test_keys_are_computed_anew(store):
    inner = Fake("inner")
    outer = Fake("outer", (inner,))
    right = outer.key
    inner.__dict__["key"] = outer.__dict__["key"] = "stale"
    cluster_worker.forget_keys(outer)
    assert outer.key == right


def test_a_file_that_shows_late(store):
    late, never = Fake("late"), Fake("never")
    late.path(store).parent.mkdir(parents=True)

    def show():
        time.sleep(0.5)
        late.path(store).write_text("{}")

    with meanwhile(show):
        assert cluster_store.unseen([late, never], store, 2.0) == [never]


# When processes die


@pytest.fixture
def run(store, capsys):
    """A run that nothing was sent of, and that has no cluster."""
    found = object.__new__(cluster._Run)
    found.order = cluster_worker.Order(store.folder, "", 8, 0, retries=1)
    found.ray, found.screen, found.counted, found.failures = ray, context(store).screen, 0, []
    found.begun = {}
    return found


def test_a_batch_that_died_is_sent_again_one_by_one(run, store):
    fakes = [Fake(name, group="one") for name in "ab"]
    run.queue = queue(store, *fakes)
    (batch,) = run.queue.take(1, 1, idle=True)
    run._died(batch, ray.exceptions.WorkerCrashedError())
    assert names(run.queue.take(2, 2, idle=True)) == ["a", "b"]
    assert run.failures == []


@pytest.mark.parametrize(("begun", "fails"), [(1, False), (2, True)])
def test_a_machine_that_is_shut_down_cancels(run, store, begun, fails):
    """That is no reason to give up, if it does not happen again and again."""
    fake = Fake("a")
    run.queue, run.begun = queue(store, fake), {fake.key: begun}
    (batch,) = run.queue.take(1, 1, idle=True)
    run._died(batch, ray.exceptions.TaskCancelledError())
    assert names(run.queue.take(1, 1, idle=True)) == ([] if fails else ["a"])
    assert len(run.failures) == fails


@dataclass(frozen=True)
class Bad(Named):
    kind = "bad"
    suffix = ".json"

    def make(self, context):
        raise UserError("it is bad")


@pytest.mark.parametrize(
    ("attempts", "message"),
    [(1, "it is bad"), (2, "the process that made it died 2 times")],
)
def test_an_artefact_that_kills_is_given_up(store, attempts, message):
    """Ray itself goes on without end where it is memory that was short."""
    fake, order = Bad("a"), cluster_worker.Order(store.folder, "", 8, 0, retries=1)
    log = log_path(store.folder, fake.key)
    log.parent.mkdir()
    log.write_text("process 1 task ab12: a\n" * attempts)
    outcome = cluster_worker._make(fake, fake.key, order, context(store), "ab12")
    assert (outcome.fit, outcome.message) == (True, message)


def test_an_input_that_a_worker_does_not_see(store, monkeypatch):
    monkeypatch.setattr(cluster_worker, "LATE_SECONDS", 0.1)
    fake, order = Fake("a", (Fake("b"),)), cluster_worker.Order(store.folder, "", 8, 0, retries=1)
    (store.folder / "logs").mkdir()
    outcome = cluster_worker._make(fake, fake.key, order, context(store), "ab12")
    assert re.search(r"does not see .*/b-.*\.json, which is made", outcome.message)


def test_a_gpu_that_torch_cannot_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: ["0"])
    with pytest.raises(UserError, match=r"Ray has a GPU on .* that torch cannot use there"):
        cluster_worker._device(ray)
