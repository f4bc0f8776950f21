"""The time of a plan: passes are those that really happen, and speeds are kept."""

import io
import json
import re
from dataclasses import replace

import pytest
import torch
from paper_smoke import context, tiny_setup
from rich.console import Console
from scotoma.bench.paper import cost
from scotoma.bench.paper import data as of_data
from scotoma.bench.paper.artefacts import Result, Training
from scotoma.bench.paper.cost import cost_of, finished_speeds, hours, network_of, show_cost, work_of
from scotoma.bench.paper.data import Data
from scotoma.bench.paper.setup import pgd
from scotoma.bench.paper.tables import definition
from scotoma.bench.paper.work import Plan
from scotoma.defective.models.base import Network
from scotoma.train import datasets
from scotoma.train.distributed import device_name
from scotoma.train.loop import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def passes(monkeypatch):
    """Images that networks saw: {"train", "gradient", "forward"}."""
    seen = {"train": 0, "gradient": 0, "forward": 0}
    forward = Network.forward

    def counted(self, pixels):
        what = "train" if self.training else "gradient" if pixels.requires_grad else "forward"
        seen[what] += 0 if pixels.is_meta else len(pixels)
        return forward(self, pixels)

    monkeypatch.setattr(Network, "forward", counted)
    return seen


def estimated(artefact, store):
    found = {"train": 0, "gradient": 0, "forward": 0}
    for work in work_of(artefact, store):
        found[work.what] += work.images
    return found


def test_passes_are_those_that_happen(store, passes):
    """Training exactly but for the sanity and last evaluations; attacks' gradients exactly."""
    setup, here = tiny_setup(), context(store)
    network = setup.target("a", "resnet18", "0.5-Bottom", seed=0)
    training = network.members[0]
    said = estimated(training, store)
    training.make(here)
    assert passes["train"] == said["train"] == 500
    # After the epoch, and of the best and the last weights at the end at most.
    assert said["forward"] <= passes["forward"] <= 3 * said["forward"]

    sample = setup.sample("cifar10", (network,))
    sample.make(here)
    images = setup.adversarial(network, pgd(1, 3, 16), sample)
    passes.update(gradient=0)
    count = len(sample.read(store)[0])
    images.make(here)
    assert estimated(images, store)["gradient"] == 3 * 16
    assert passes["gradient"] == 3 * count + count  # sanity is looked at once on top

    transfer, clean = Result.transfer(network, images), Result.clean(network)
    for result, exactly in ((transfer, None), (clean, 1000)):
        passes.update(forward=0)
        result.make(context(store))
        said = estimated(result, store)["forward"]
        assert 0 < passes["forward"] <= said
        assert exactly is None or passes["forward"] == said == exactly


def test_bounds_hold(store, passes):
    setup, here = tiny_setup(), context(store)
    network = setup.target("a", "vgg19", seed=0)
    network.members[0].make(here)
    sample = setup.sample("cifar10", (), 4)
    sample.make(here)
    boundary = Result.boundary(network, setup.budget.attack("boundary"), sample)
    attack = Result.white_box(network, setup.budget.attack("cw-l2"), sample)
    for artefact in (boundary, attack):
        passes.update(forward=0, gradient=0)
        artefact.make(here)
        work = work_of(artefact, store)
        assert any(w.at_most for w in work)
        most = estimated(artefact, store)
        # The network is looked at for sanity and cleanly classified on top: a few passes each.
        assert passes["gradient"] <= most["gradient"] + 4
        assert passes["forward"] <= most["forward"] + 12
        assert passes["gradient"] + passes["forward"] > 0


def test_no_more_images_than_there_are(store):
    setup = tiny_setup()
    training = setup.training("vgg19", seed=0, epochs=3, test_limit=40)
    assert estimated(training, store)["forward"] == 3 * 40
    network = setup.target("a", "resnet18", seed=0, role="imagenet")
    test = of_data.info_of(network.data).test
    sample = setup.sample("imagenet", (), 10 * test)
    images = setup.adversarial(network, pgd(1, 3, 16), sample)
    few = replace(images, most=2)
    expected = [
        (images, (3 * test, 2 * test)),
        (few, (3 * 2, 2 * 2)),
        (replace(images, most=2 * test), (3 * test, 2 * test)),
        (Result.transfer(network, images), (0, 2 * test)),
        (Result.transfer(network, few), (0, 2 * 2)),
        (Result.white_box(network, pgd(1, 3, 16), sample), (3 * test, 2 * test)),
        (Result.noise(network, sample, (0.1, 0.2), draws=5), (0, 2 * 5 * test)),
        (Result.shuffled(network, sample, (2, 4)), (0, 2 * test)),
    ]
    for artefact, passes in expected:
        said = estimated(artefact, store)
        assert (said["gradient"], said["forward"]) == passes, artefact.label


def test_adversarial_training_attacks_every_image(store, passes):
    settings = {"adversarial_eps": 0.03, "adversarial_steps": 2, "adversarial_test_images": 40}
    training = tiny_setup().training("vgg19", seed=0, **settings)
    said = estimated(training, store)
    training.make(context(store))
    assert passes["gradient"] >= said["gradient"] == 2 * (500 + 40)
    assert passes["gradient"] <= said["gradient"] + 2 * 40  # measured again at the end


def test_known_numbers_of_images_are_those_of_the_data():
    data = datasets.load_dataset("sample")
    known = of_data.KNOWN["sample"]
    assert (len(data.train), len(data.test)) == (known.train, known.test)
    assert (data.image_size, data.in_channels) == (known.side, known.channels)
    assert set(of_data.KNOWN) == set(datasets.DATASETS)


def test_folders_are_counted(store, tmp_path):
    data = tiny_setup().data["imagenet"]
    before = of_data.info_of(data)
    data.made_by.make(context(store))
    found = datasets.load_dataset(data.location(store))
    assert (before.train, before.test) == (len(found.train), len(found.test))
    place = data.made_by.path(store) / "images"
    assert of_data.info_of(Data("imagenet", str(place), "of a folder")) == before
    (tmp_path / "imagenet").symlink_to(place)
    named = Data("imagenet", "imagenet", "of a part", image_size=64, root=str(tmp_path))
    of_part = of_data.info_of(named)
    assert of_part == replace(before, side=64, channels=3)
    assert of_data.info_of(replace(named, content="", image_size=None)).train == 1_281_167


def test_a_training_that_was_stopped_counts_what_is_left(store, passes, monkeypatch):
    training = tiny_setup().training("resnet18", seed=0, epochs=2)
    said = estimated(training, store)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_told_to_stop", lambda self, stop: self.epoch == 1)
        training.make(context(store))
    left = estimated(training, store)
    assert {name: count / 2 for name, count in said.items()} == left
    passes["train"] = 0
    training.make(context(store))
    assert passes["train"] == left["train"]


def test_keep_probabilities_cost_the_same_and_widths_do_not():
    setup = tiny_setup()

    def network(defects):
        return network_of(setup.training("resnet18", defects, seed=0))

    assert network("0.3-Bottom") == network("0.1-Bottom") != network("standard")
    assert network("0.3-BottomDC") != network("0.1-BottomDC")
    assert network("0.3-Bottomx2") == network("0.1-Bottomx2") != network("0.1-Bottom")


def table4(store):
    return Plan.of(definition("table4").build(tiny_setup()).wanted(), store)


def test_estimate_measures_once_and_keeps(store, monkeypatch):
    plan, asked, said = table4(store), [], []
    speeds = {"train": 0.01, "gradient": 0.002, "forward": 0.001}

    def seconds(network, what, device):
        asked.append((network, what))
        return speeds[what]

    monkeypatch.setattr(cost, "seconds_an_image", seconds)
    first = cost_of(plan, store, CPU, said.append)
    assert len(asked) == len(set(asked)) == len(said) > 5
    passes = [w for several in first.work.values() for w in several]
    assert first.total == pytest.approx(sum(speeds[w.what] * w.images for w in passes))
    asked.clear()
    again = cost_of(plan, store, CPU, said.append)
    assert not asked and again.total == pytest.approx(first.total)
    (store.folder / "speeds.json").write_text("{damaged")
    cost_of(plan, store, CPU, said.append)
    assert asked  # a damaged cache is measured again
    assert not list(store.folder.glob("train/*"))


def test_finished_trainings_are_the_better_speed(store):
    training = tiny_setup().training("resnet18", seed=0)
    folder = training.path(store)
    folder.mkdir(parents=True)
    summary = {"device": device_name(CPU), "train_images": 500, "epochs": 2, "train_s": 30.0}
    (folder / "summary.json").write_text(json.dumps(summary))
    ((name, speed),) = finished_speeds([training], store, CPU).items()
    assert json.loads(name) == [network_of(training)._asdict(), "train"] and speed == 0.03
    (folder / "summary.json").write_text(json.dumps(summary | {"device": "another"}))
    assert finished_speeds([training], store, CPU) == {}


def test_a_network_is_really_timed():
    network = network_of(tiny_setup().training("resnet18", seed=0))
    times = {w: cost.seconds_an_image(network, w, CPU) for w in ("train", "gradient", "forward")}
    assert all(0 < seconds < 10 for seconds in times.values())


def printed(found):
    console = Console(file=io.StringIO(), width=140)
    show_cost(found, console)
    return console.file.getvalue()


def test_the_plan_says_what_is_there_and_where_hours_are_from(store, monkeypatch):
    text = printed(cost_of(table4(store), store, CPU, print, measure=False))
    assert "hours" not in text and "Not timed" in text
    assert re.search(r"trainings +20 +0 +20 +30,000", text)
    monkeypatch.setattr(cost, "seconds_an_image", lambda *_: 0.36)
    done = next(a for a in table4(store).artefacts if isinstance(a, Training))
    done.path(store).mkdir(parents=True)
    for name in ("summary.json", "last.safetensors"):
        (done.path(store) / name).write_text("{}")
    text = printed(cost_of(table4(store), store, CPU, print))
    assert re.search(r"trainings +20 +1 +19", text)
    assert "hours of this CPU" in text and "GPU hours" not in text


def test_there_is_what_is_there_and_not_what_need_not_be_made(store):
    """With results kept and the rest removed, trainings were said to be there."""
    result = Result.clean(tiny_setup().target("a", "resnet18", seed=0))
    result.path(store).parent.mkdir()
    result.path(store).write_text("{}")
    text = printed(cost_of(Plan.of([result], store), store, CPU, print, measure=False))
    assert re.search(r"trainings +1 +0 +0 +-", text)
    assert re.search(r"evaluations +1 +1 +0 +-", text)


def test_hours():
    assert list(map(hours, (5, 99, 600, 7200))) == ["5 s", "99 s", "10 min", "2.0 h"]
