"""Artefacts of a reproduction: their keys, plans, what is left of a stopped or failed run."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paper_smoke import context, learning_setup, new_store, tiny_setup
from PIL import Image
from safetensors.torch import load_file
from scotoma.bench.paper.graph import local
from scotoma.bench.paper.graph.artefact import Artefact, closure
from scotoma.bench.paper.graph.attacking import AdversarialImages, Sample
from scotoma.bench.paper.graph.data import Data, folder_content
from scotoma.bench.paper.graph.local import make_one, run_locally
from scotoma.bench.paper.graph.plan import Failure, Plan
from scotoma.bench.paper.graph.protocol_results import Noise, Stylized
from scotoma.bench.paper.graph.results import Clean, Transfer, WhiteBox
from scotoma.bench.paper.graph.sample_folder import SIDE, SampleFolder, stylized
from scotoma.bench.paper.graph.store import Store
from scotoma.bench.paper.graph.training import Model, Training
from scotoma.bench.paper.setup import fgsm, pgd
from scotoma.defective.errors import UserError
from scotoma.defective.robustness import load_set
from scotoma.train.config import TrainConfig
from scotoma.train.datasets import load_dataset
from scotoma.train.loop import FREE, Trainer
from scotoma.train.robustness.termination import Terminated

DATA = Data("cifar10", "sample", train_limit=800)
STORE = Store(Path("/nowhere"))

# Another value for each setting of training, by what it is to a key.
DECIDES = {
    "seed": 3,
    "arch": "vgg19",
    "defects": "0.3-Bottom",
    "sites": "paper",
    "width": 8,
    "mask_seed": 5,
    "mask_sampling": "bernoulli",
    "regularizer": "dropblock",
    "stem": "7x7",
    "thermometer": 16,
    "augment": "flip",
    "evaluate_on": "validation",
    "validation_fraction": 0.2,
    "test_limit": 50,
    "epochs": 31,
    "batch_size": 64,
    "lr": 0.2,
    "momentum": 0.8,
    "nesterov": True,
    "weight_decay": 0.0,
    "schedule": "step",
    "milestones": [15, 25],
    "warmup": 0.1,
    "label_smoothing": 0.1,
    "clip_norm": 1.0,
    "ema": 0.9,
    "adversarial_eps": 8 / 255,
    "adversarial_step": 1 / 255,
    "adversarial_steps": 8,
    "logit_pairing": 0.5,
    "precision": "float32",
    "channels_last": True,
    "tf32": False,
    "compile": "default",
    "sync_stats": False,
}
DECIDES_NOTHING = {
    "recipe": "quick",
    "out": "elsewhere",
    "name": "another",
    "device": "cuda:3",
    "save_seconds": 1.0,
    "data_root": "/data",
    "download": True,
    "workers": 9,
    "cuda_graph": True,
    "backend": "eager",
    "adversarial_test_images": 0,
}
OF_THE_DATA = ("dataset", "image_size", "train_limit")


def test_every_setting_of_training_is_in_one_of_the_lists():
    listed = [*DECIDES, *DECIDES_NOTHING, *OF_THE_DATA]
    assert sorted(listed) == sorted(f.name for f in fields(TrainConfig))
    assert set(FREE) <= set(DECIDES_NOTHING)


@pytest.mark.parametrize("name", list(DECIDES))
def test_what_decides_the_weights_changes_the_key(name):
    assert (
        Training(TrainConfig(**{name: DECIDES[name]}), DATA).key
        != Training(TrainConfig(), DATA).key
    )


@pytest.mark.parametrize("name", list(DECIDES_NOTHING))
def test_places_and_devices_change_no_key(name):
    other = Training(TrainConfig(**{name: DECIDES_NOTHING[name]}), DATA)
    assert other.key == Training(TrainConfig(), DATA).key
    assert other.path(STORE) == Training(TrainConfig(), DATA).path(STORE)


@pytest.mark.parametrize("name", OF_THE_DATA)
def test_the_data_are_those_of_the_artefact(name):
    values = {"dataset": "mnist", "image_size": 64, "train_limit": 7}
    found = Training(TrainConfig(**{name: values[name]}), DATA)
    assert found.key == Training(TrainConfig(), DATA).key
    assert getattr(found.whole_config(STORE, "cpu"), name) == getattr(DATA, name)


CHOICES = st.sets(st.sampled_from([*DECIDES, *DECIDES_NOTHING]), max_size=6)


@settings(max_examples=60)
@given(first=CHOICES, second=CHOICES, levels=st.integers(1, 254))
def test_equal_keys_are_equal_files(first, second, levels):
    values = DECIDES | DECIDES_NOTHING
    networks = [
        Training(TrainConfig(**{name: values[name] for name in names}), DATA)
        for names in (first, second)
    ]
    same = first & DECIDES.keys() == second & DECIDES.keys()
    assert (networks[0].key == networks[1].key) == same
    assert (networks[0].path(STORE) == networks[1].path(STORE)) == same
    # Whatever is made of them differs as they do.
    for several in zip(*(_made_of(one, levels) for one in networks), strict=True):
        assert (several[0].key == several[1].key) == same
        assert (several[0].path(STORE) == several[1].path(STORE)) == same
        assert several[0].label == several[1].label or not same


def _made_of(training, level):
    """Names for people differ every time."""
    model = Model(f"network {id(training)}", (training,))
    sample = Sample(DATA, (model,), 10)
    images = AdversarialImages(model, fgsm(level), sample)
    return [
        sample,
        images,
        Clean(model),
        Transfer(model, images),
        WhiteBox(model, fgsm(level), sample),
        Noise(model, sample, (level / 255,)),
        Stylized((model, model)),
    ]


def test_no_two_kinds_of_artefacts_share_a_key():
    setup = learning_setup()
    network = setup.target("a network", "resnet18", seed=0)
    made = [network.members[0], *_made_of(network.members[0], 8)]
    assert len({artefact.key for artefact in made}) == len(made)
    assert len({artefact.path(STORE) for artefact in made}) == len(made)


def test_an_attack_is_what_it_means_and_not_how_it_is_written():
    model = learning_setup().source("resnet18", seed=0)
    sample = Sample(DATA, (model,), 10)
    one = AdversarialImages(model, "pgd:eps=8/255,step=2/255,steps=7", sample)
    other = AdversarialImages(model, f"PGD:steps=7,step=2/255,eps={8 / 255!r}".lower(), sample)
    assert one.key == other.key and one.path(STORE) == other.path(STORE)
    changed = [
        AdversarialImages(model, pgd(2, 8, 8), sample),
        replace(one, most=5),
        replace(one, pixels="float"),
        replace(one, sample=replace(sample, seed=1)),
        replace(one, sample=replace(sample, count=11)),
        replace(one, sample=replace(sample, models=())),
    ]
    assert len({each.key for each in (one, *changed)}) == 1 + len(changed)


def test_an_ensemble_is_neither_a_member_nor_another_order_of_inputs():
    a, b, c = (learning_setup().source("vgg19", seed=seed).members[0] for seed in range(3))
    sample = Sample(DATA, (), 4)

    def images(members):
        return AdversarialImages(Model("one", members), fgsm(8), sample)

    keys = [Clean(Model("x", members)).key for members in ((a,), (b,), (a, b), (a, b, c))]
    assert len(set(keys)) == 4
    # Which of the inputs are targets and which are the source is a part of a result.
    assert (
        Transfer(Model("x", (a, b)), images((c,))).key
        != Transfer(Model("x", (a,)), images((b, c))).key
    )
    split = [
        Sample(DATA, (Model("x", (a, b)), Model("y", (c,))), 4).key,
        Sample(DATA, (Model("x", (a,)), Model("y", (b, c))), 4).key,
        Sample(DATA, tuple(Model("x", (each,)) for each in (a, b, c)), 4).key,
    ]
    assert len(set(split)) == 3


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"role": "mnist"}, True),
        ({"root": "/data"}, True),
        ({"download": True}, True),
        ({"stylized": "/stylized"}, True),
        ({"dataset": "mnist"}, False),
        ({"image_size": 64}, False),
        ({"train_limit": 900}, False),
        ({"dataset": "/a/folder", "content": "1"}, False),
        ({"dataset": "", "made_by": SampleFolder(5, 5)}, False),
    ],
)
def test_keys_of_data(change, same):
    before, after = Training(TrainConfig(), DATA), Training(TrainConfig(), replace(DATA, **change))
    assert (before.key == after.key) is same
    assert (before.path(STORE) == after.path(STORE)) is same


def test_a_moved_folder_is_the_same_and_a_changed_one_is_not(tmp_path):
    found = []
    for place in ("here", "there"):
        folder = tmp_path / place
        for name, size in (("train/a/0.png", 3), ("test/b/1.png", 4)):
            (folder / name).parent.mkdir(parents=True)
            (folder / name).write_bytes(b"x" * size)
        found.append(Data("cifar10", str(folder), content=folder_content(folder)))
    keys = [Training(TrainConfig(), data).key for data in found]
    paths = [Training(TrainConfig(), data).path(STORE) for data in found]
    assert keys[0] == keys[1] and paths[0] == paths[1]
    (folder / "test/b/1.png").write_bytes(b"x" * 5)
    assert folder_content(folder) != found[0].content
    for empty in (tmp_path / "none", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=str(empty)):
            folder_content(empty)


_KEYS = """
from paper_smoke import tiny_setup
from scotoma.bench.paper.experiments import definition
from scotoma.bench.paper.graph.artefact import closure
for name in ("table2", "table8", "table15"):
    for artefact in closure(definition(name).build(tiny_setup()).wanted()):
        print(artefact.key, artefact.label)
"""


def test_keys_and_order_are_the_same_in_every_process():
    path = os.pathsep.join(entry for entry in sys.path if entry)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _KEYS],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    first, second = (process.communicate(timeout=300)[0] for process in running)
    assert [process.returncode for process in running] == [0, 0]
    assert first == second and len(first.splitlines()) > 300


# Plans, with artefacts that note when they are made.


@dataclass(frozen=True)
class Note(Artefact):
    """A file that says when it was made, and of what."""

    kind: ClassVar[str] = "note"
    suffix: ClassVar[str] = ".txt"
    made: ClassVar[list] = []
    broken: ClassVar[set] = set()

    name: str
    needs: tuple = ()
    group: str = ""

    @property
    def label(self):
        return self.name

    def settings(self):
        return {"name": self.name}

    def inputs(self):
        return self.needs

    @property
    def affinity(self):
        return self.group or self.key

    def make(self, context):
        assert all(each.is_done(context.store) for each in self.needs)
        if self.name in self.broken:
            raise UserError(f"{self.name} is broken")
        self.made.append(self.name)
        self.path(context.store).parent.mkdir(parents=True, exist_ok=True)
        self.path(context.store).write_text(self.name)


@pytest.fixture
def notes(monkeypatch):
    """What was made so far, in order."""
    monkeypatch.setattr(Note, "made", [])
    monkeypatch.setattr(Note, "broken", set())
    return Note


@pytest.fixture
def store(tmp_path):
    return new_store(tmp_path / "store")


def diamond():
    bottom = Note("bottom")
    left, right = Note("left", (bottom,)), Note("right", (bottom,))
    return bottom, left, right, Note("top", (left, right))


def test_inputs_first_and_nothing_twice(notes, store):
    bottom, left, right, top = diamond()
    plan = Plan.of([top, left, top, Note("bottom")], store)
    assert [a.name for a in plan.artefacts] == ["bottom", "left", "right", "top"]
    assert plan.missing == {a.key for a in (bottom, left, right, top)}
    assert run_locally(plan, context(store)) == []
    assert notes.made == ["bottom", "left", "right", "top"]
    again = Plan.of([top], store)
    assert again.to_make() == [] and run_locally(again, context(store)) == []
    assert len(notes.made) == 4


def test_what_is_done_needs_no_inputs(notes, store):
    bottom, left, right, top = diamond()
    run_locally(Plan.of([top], store), context(store))
    for gone in (bottom, left):
        gone.path(store).unlink()
    assert Plan.of([top], store).missing == set()
    assert len(Plan.of([top], store).artefacts) == 4
    other = Note("other", (right,))
    assert [a.name for a in Plan.of([other, top], store).to_make()] == ["other"]
    assert [a.name for a in Plan.of([top, Note("more", (left,))], store).to_make()] == [
        "bottom",
        "left",
        "more",
    ]


def test_what_loads_the_same_stands_together(notes, store):
    first = [Note(f"a{n}", (), "a") for n in range(2)]
    between = [Note(f"b{n}", (first[n],), "b") for n in range(2)]
    wanted = [first[0], between[0], Note("c"), first[1], between[1]]
    names = [a.name for a in Plan.of(wanted, store).to_make()]
    assert names == ["a0", "a1", "b0", "b1", "c"]
    # An input of the same group comes before what needs it.
    chain = Note("d2", (Note("d1", (), "d"),), "d")
    assert [a.name for a in Plan.of([chain], store).to_make()] == ["d1", "d2"]


def test_a_failure_leaves_out_dependants_only(notes, store, capsys):
    _, left, right, top = diamond()
    above = Note("above", (top,))
    notes.broken.add("left")
    failures = run_locally(Plan.of([above, Note("apart", (right,))], store), context(store))
    assert failures == [Failure(left, "left is broken")]
    assert sorted(notes.made) == ["apart", "bottom", "right"]
    printed = capsys.readouterr().out
    assert "top: left out, left failed" in printed and "above: left out, left failed" in printed
    notes.broken.clear()
    assert run_locally(Plan.of([above], store), context(store)) == []
    assert notes.made[-3:] == ["left", "top", "above"]


def test_no_memory_is_a_failure_with_advice(notes, store, monkeypatch):
    def make(self, context):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Note, "make", make)
    (failure,) = run_locally(Plan.of([Note("large")], store), context(store))
    assert "--batch-size" in failure.message


def test_bugs_are_no_failures(notes, store, monkeypatch):
    def make(self, context):
        raise ZeroDivisionError

    monkeypatch.setattr(Note, "make", make)
    with pytest.raises(ZeroDivisionError):
        run_locally(Plan.of([Note("bug")], store), context(store))


def test_artefacts_in_a_circle_are_a_bug(store):
    one = Note("one")
    plan = Plan((Note("two", (one,)),), frozenset({Note("two", (one,)).key, one.key}))
    with pytest.raises(RuntimeError, match="circle"):
        plan.to_make()


def test_kind_order_and_number_of_inputs_are_a_part_of_the_key():
    @dataclass(frozen=True)
    class Other(Note):
        kind: ClassVar[str] = "other"

    one, two = Note("one"), Note("two")
    alike = [Note("x", needs) for needs in ((one, two), (two, one), (one,), (one, one), ())]
    assert len({a.key for a in [*alike, Other("x", (one, two))]}) == len(alike) + 1


def test_closure_has_each_once_and_inputs_first():
    order = closure([diamond()[3], diamond()[1]])
    assert [a.name for a in order] == ["bottom", "left", "right", "top"]


def test_two_at_the_same_time_make_it_once(notes, store, monkeypatch):
    """Each with an open file of its own, as two processes have."""
    slow, begun = Note("slow"), threading.Event()
    make = Note.make

    def slowly(self, context):
        begun.set()
        time.sleep(0.3)
        make(self, context)

    monkeypatch.setattr(Note, "make", slowly)
    others = [new_store(store.folder) for _ in range(3)]
    contexts = [context(each) for each in others]
    threads = [threading.Thread(target=make_one, args=(slow, each)) for each in contexts]
    for thread in threads:
        thread.start()
    assert begun.wait(10)
    for thread in threads:
        thread.join()
    assert notes.made == ["slow"]


_LOCKING = """
import sys, time
from pathlib import Path
from scotoma.bench.paper.graph.store import Store
from scotoma.bench.paper.graph.sample_folder import SampleFolder
store, artefact = Store(Path(sys.argv[1])), SampleFolder(3, 2)
with store.lock(artefact):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_lock_holds_across_processes_and_ends_with_its_owner(store):
    path = os.pathsep.join(entry for entry in sys.path if entry)
    owner = subprocess.Popen(
        [sys.executable, "-c", _LOCKING, str(store.folder)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    artefact, finished = SampleFolder(3, 2), threading.Event()

    def make():
        make_one(artefact, context(store))
        finished.set()

    waiting = threading.Thread(target=make)
    try:
        assert owner.stdout.readline() == "locked\n"
        waiting.start()
        assert not finished.wait(0.5) and not artefact.is_done(store)
    finally:
        owner.kill()
        owner.communicate()
    assert finished.wait(60) and artefact.is_done(store)
    waiting.join()


def test_a_store_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out .*file"):
        Store(tmp_path / "file").prepare()


# A real chain: two trainings, a choice of images, a set, two results.


def chain():
    setup = learning_setup(images="source")
    source = setup.source("resnet18", seed=0)
    target = setup.target("defective", "resnet18", "0.3-Bottom", seed=0)
    images = setup.adversarial(source, pgd(2, 3, 8), setup.attacked_sample(source, seed=0))
    return source, target, images, [Transfer(target, images), Clean(target)]


def finish(wanted, store):
    return run_locally(Plan.of(wanted, store), context(store))


def contents(store):
    """What was made, without times and places."""
    source, target, images, results = chain()
    weights = [m.members[0].path(store) / "last.safetensors" for m in (source, target)]
    found = load_set(images.path(store))
    return {
        "weights": [
            {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}
            for path in weights
        ],
        "sample": images.sample.read(store)[0].tolist(),
        "images": [found.images.numpy().tobytes(), found.predictions.tolist()],
        "results": [result.read(store) for result in results],
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store in which the chain was made in one go."""
    made = new_store(tmp_path_factory.mktemp("whole"))
    assert finish(chain()[3], made) == []
    return made


def test_a_stopped_run_goes_on_and_ends_with_the_same_bits(whole, store, monkeypatch):
    """Stopped in a training, between the batches of a set, and before a result."""
    _, _, _, wanted = chain()
    calls = {"step": 0, "part": 0, "result": 0}

    with monkeypatch.context() as patch:
        told = Trainer._told_to_stop

        def stop_in_training(self, stop):
            calls["step"] += 1
            return calls["step"] == 20 or told(self, stop)

        patch.setattr(Trainer, "_told_to_stop", stop_in_training)
        with pytest.raises(KeyboardInterrupt):
            finish(wanted, store)
    assert calls["step"] == 20
    trainings = [a for a in closure(wanted) if isinstance(a, Training)]
    assert not any(training.is_done(store) for training in trainings)

    with monkeypatch.context() as patch:
        make = AdversarialImages.make

        def stop_in_set(self, context):
            context.batch_size = 5
            advance = context.progress

            def progress(done, total, text=""):
                advance(done, total)
                calls["part"] += 1
                raise KeyboardInterrupt

            context.progress = progress
            make(self, context)

        patch.setattr(AdversarialImages, "make", stop_in_set)
        with pytest.raises(KeyboardInterrupt):
            finish(wanted, store)
    assert calls["part"] == 1
    before = {t.key: (t.path(store) / "last.safetensors").stat().st_mtime_ns for t in trainings[:1]}

    with monkeypatch.context() as patch:

        def stop_in_result(self, context):
            calls["result"] += 1
            raise KeyboardInterrupt

        patch.setattr(Transfer, "compute", stop_in_result)
        with pytest.raises(KeyboardInterrupt):
            finish(wanted, store)
    assert calls["result"] == 1

    assert finish(wanted, store) == []
    assert contents(store) == contents(whole)
    for training in trainings[:1]:
        path = training.path(store) / "last.safetensors"
        assert path.stat().st_mtime_ns == before[training.key]


def test_results_are_those_of_the_files(whole):
    """P1 and P2 by hand, from the set and the networks."""
    source, target, images, (transfer, clean) = chain()
    here = context(whole)
    found = load_set(images.path(whole))
    data = load_dataset("sample")
    pixels = data.test.images[found.indices].permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        network = target.load(here).model
        before = network(pixels).argmax(1)
        after = network(found.images.float() / 255).argmax(1)
        fooled = source.load(here).model(found.images.float() / 255).argmax(1) != found.labels
    counted = fooled & (before == found.labels)
    (results,) = transfer.read(whole)
    assert results["defence"]["n"] == int(counted.sum()) > 0
    assert results["defence"]["k"] == int((after == found.labels)[counted].sum())
    assert results["defence_all"]["k"] == int((after == found.labels).sum())
    assert results["defence_all"]["n"] == len(found) == images.sample.count
    (accuracy,) = clean.read(whole)
    assert accuracy["accuracy"]["n"] == len(data.test)
    assert accuracy["accuracy"]["rate"] > 0.3
    indices, details = images.sample.read(whole)
    assert indices.tolist() == found.indices.tolist() and details["found"] == len(indices)


def test_a_sample_without_models_is_drawn_without_a_look(whole):
    sample = Sample(DATA, (), 7, seed=4)
    assert finish([sample], whole) == []
    indices, details = sample.read(whole)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(4))
    assert indices.tolist() == order[:7].tolist() and details["found"] == 7
    everything = Sample(DATA, (), 5000)
    finish([everything], whole)
    assert sorted(everything.read(whole)[0].tolist()) == list(range(1000))


def test_only_so_many_of_the_sample(whole):
    _, target, images, _ = chain()
    few = replace(images, most=3)
    assert finish([Transfer(target, few)], whole) == []
    indices, _ = images.sample.read(whole)
    assert load_set(few.path(whole)).indices.tolist() == indices[:3].tolist()


DAMAGED = ["", "{", "[]", "null", "7", '{"cells": 3}', '{"cells": [{}]}', "[" * 5000, "\udc80"]


@pytest.mark.parametrize("number", range(len(DAMAGED)))
def test_damaged_files_are_named(store, number):
    source, target, images, _ = chain()
    for artefact in (Clean(target), images.sample):
        path = artefact.path(store)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(DAMAGED[number].encode("utf-8", "surrogateescape"))
        with pytest.raises(UserError, match="remove it") as error:
            artefact.read(store)
        assert str(path) in str(error.value)
    with pytest.raises(UserError, match="remove it"):
        Clean(source).read(store)  # not there at all


@pytest.mark.parametrize(
    "content",
    [
        {"indices": [1, -2], "details": {}},
        {"indices": [0.5], "details": {}},
        {"indices": ["1"], "details": {}},
        {"indices": [[1]], "details": {}},
        {"indices": 3, "details": {}},
        {"indices": [1]},
        {"details": {}},
        {"indices": [True], "details": {}},
        {"indices": [1 << 70], "details": {}},
        {"indices": [1], "details": 3},
    ],
)
def test_damaged_choices_of_images(store, content):
    sample = chain()[2].sample
    path = sample.path(store)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="remove it"):
        sample.read(store)


# The image folder that ships with us.


def test_the_sample_as_a_folder(store):
    artefact = SampleFolder(30, 20)
    assert finish([artefact], store) == []
    folder = artefact.path(store)
    data = load_dataset("sample")
    names = sorted((folder / "images/test").rglob("*.png"))
    assert len(names) == 20 and len(list((folder / "images/train").rglob("*.png"))) == 30
    assert [p.relative_to(folder / "images/test") for p in names] == [
        p.relative_to(folder / "stylized") for p in sorted((folder / "stylized").rglob("*.png"))
    ]
    inner = (SIDE - data.image_size) // 2
    for path in names:
        number = int(path.stem)
        image = torch.from_numpy(np.array(Image.open(path)))
        part = image[inner : SIDE - inner, inner : SIDE - inner]
        assert torch.equal(part, data.test.images[number, :, :, 0])
        label = data.classes[int(data.test.labels[number])]
        assert path.parent.name == label.replace("/", "-").replace(" ", "-")
        assert int(image.sum()) == int(part.sum())  # the margin is black
    loaded = load_dataset(str(folder / "images"))
    assert (len(loaded.train), len(loaded.test), loaded.image_size) == (30, 20, SIDE)
    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_folder_is_there_whole_or_not_at_all(store, monkeypatch):
    artefact = SampleFolder(6, 4)
    write = SampleFolder._write

    def stop(self, folder):
        write(self, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SampleFolder, "_write", stop)
        with pytest.raises(KeyboardInterrupt):
            finish([artefact], store)
    assert not artefact.is_done(store)
    assert list((store.folder / "data").iterdir()) == []
    assert finish([artefact], store) == [] and artefact.is_done(store)


def test_stylised_images_have_the_texture_of_another_class():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.tensor([0, 0, 1, 1, 1, 0])
    found = stylized(images, labels)
    assert found.dtype == torch.uint8 and found.shape == images.shape
    flat = images.clone()
    flat[2:5] = 100  # class 1 has no texture: images of class 0 become smooth
    smooth = torch.nn.functional.avg_pool2d(
        flat.float()[:, None], 5, 1, 2, count_include_pad=False
    )[:, 0]
    found = stylized(flat, labels)
    for number in (0, 1, 5):
        assert torch.equal(found[number], smooth[number].round().to(torch.uint8))
    for number in (2, 3, 4):
        assert found[number].float().std() > 10
    one = stylized(images, torch.zeros(6, dtype=torch.int64))  # there is no other class
    assert one.shape == images.shape


def test_networks_on_the_folder_find_it_in_the_store(store):
    setup = tiny_setup()
    network = setup.training("resnet18", role="imagenet", seed=0)
    (folder,) = network.inputs()
    assert isinstance(folder, SampleFolder)
    config = network.whole_config(store, "cpu")
    assert config.dataset == str(folder.path(store) / "images")
    assert network.data.stylized_folder(store) == folder.path(store) / "stylized"
    elsewhere = new_store(store.folder / "elsewhere")
    assert network.path(elsewhere).name == network.path(store).name
    assert config.name == network.path(store).name
    assert config.out == str(network.path(store).parent)


def test_a_training_goes_on_only_where_it_began(store, monkeypatch):
    """A folder with settings is gone on with; without, it is begun. Both as the command says."""
    training = learning_setup().training("resnet18", seed=0)
    seen = []

    def train(config, resume, whole, stop):
        assert whole and (config.device, config.workers) == ("cpu", 0)  # the context's
        seen.append(resume)
        raise UserError("enough")

    monkeypatch.setattr("scotoma.bench.paper.graph.training.train", train)
    folder = training.path(store)
    for _ in range(2):
        with pytest.raises(UserError, match="enough"):
            local.make_one(training, context(store))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text("")
    assert seen == [None, folder]


def cut_training(training, store, monkeypatch):
    """Make it, and stop it after an epoch."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_told_to_stop", lambda self, stop: self.epoch == 1)
        make_one(training, context(store))


def noise_folder(folder, seed):
    generator = np.random.default_rng(seed)
    for split, count in (("train", 12), ("val", 4)):
        for name in "ab":
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                image = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(image).save(folder / split / name / f"{number}.png")


@pytest.mark.parametrize("how", ["--data", "--data-root", "$SCOTOMA_DATA"])
def test_a_training_goes_on_with_data_that_were_moved(store, tmp_path, monkeypatch, how):
    """And not with what is now where they were."""
    settings = TrainConfig(width=2, epochs=2, batch_size=8, lr=0.01, augment="flip")

    def training(place):
        monkeypatch.setenv("SCOTOMA_DATA", str(place if how == "$SCOTOMA_DATA" else "/nowhere"))
        named = Data("imagenet", "imagenet", image_size=32)
        if how == "--data":
            named = replace(named, dataset=str(place / "imagenet"), content="the images")
        return Training(settings, replace(named, root=str(place) if how == "--data-root" else None))

    here, there = tmp_path / "here", tmp_path / "there"
    noise_folder(here / "imagenet", seed=0)
    cut_training(training(here), store, monkeypatch)
    here.rename(there)
    noise_folder(here / "imagenet", seed=1)
    moved, whole = training(there), new_store(tmp_path / "whole")
    assert finish([moved], store) == finish([moved], whole) == []
    first, second = (load_file(moved.path(s) / "last.safetensors") for s in (store, whole))
    assert all(torch.equal(first[name], second[name]) for name in second)


@pytest.mark.parametrize(
    ("line", "other", "message"),
    [
        ("arch: resnet18", "arch: vgg19", "arch is 'vgg19' there, and 'resnet18' is asked for"),
        ("\nseed: 0", "\nseed: 4", "seed is 4 there, and 0 is asked for"),
    ],
)
@pytest.mark.parametrize("state", [True, False], ids=["with its state", "without"])
def test_a_training_in_the_folder_of_another(store, monkeypatch, line, other, message, state):
    training = learning_setup().training("resnet18", seed=0, epochs=2)
    cut_training(training, store, monkeypatch)
    folder = training.path(store)
    if not state:
        (folder / "resume.pt").unlink()
    file = folder / "config.yaml"
    file.write_text(file.read_text().replace(line, other))
    (failure,) = finish([training], store)
    assert message in failure.message and f"{file}: " in failure.message
    assert "remove the folder" in failure.message
    assert not training.is_done(store)


@pytest.mark.parametrize("error", [None, UserError("a bad file")], ids=["good", "failing"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop_in_the_last_evaluation(store, monkeypatch, capsys, number, error):
    """The training is kept, and the next one is not begun."""
    setup = tiny_setup()
    first, second = (setup.training("resnet18", seed=seed) for seed in (0, 1))
    evaluate = Trainer._evaluate

    def told(self, batches):
        signal.raise_signal(number)
        if error is not None:
            raise error
        return evaluate(self, batches)

    monkeypatch.setattr(Trainer, "_evaluate", told)
    with pytest.raises(KeyboardInterrupt) as caught:
        finish([first, second], store)
    assert isinstance(caught.value, Terminated) == (number == signal.SIGTERM)
    assert first.is_done(store) == (error is None)
    assert ("failed: a bad file" in capsys.readouterr().out) == (error is not None)
    assert not second.path(store).exists()


@pytest.mark.parametrize("state", [True, False], ids=["with its state", "without"])
def test_a_training_without_its_weights_is_not_done(store, state):
    """As a copy without large files leaves it."""
    setup = tiny_setup()
    model = setup.source("resnet18", seed=0)
    (training,) = model.members
    assert finish([training], store) == []
    for name in ["last.safetensors"] if state else ["last.safetensors", "resume.pt"]:
        (training.path(store) / name).unlink()
    assert not training.is_done(store)
    assert finish([Clean(model)], store) == [] and training.is_done(store)
