"""Artefacts, really made: stopped, damaged, gone on with, and ended with the same bits."""

import json
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from paper_smoke import context, finish, learning_setup, new_store, tiny_setup
from PIL import Image
from safetensors.torch import load_file
from scotoma.bench.paper.artefacts import AdversarialImages, Result, Sample, Training
from scotoma.bench.paper.data import SIDE, Data, SampleFolder, stylized
from scotoma.bench.paper.setup import pgd
from scotoma.bench.paper.work import closure
from scotoma.defective.errors import Terminated, UserError
from scotoma.defective.robustness import load_set
from scotoma.train.config import TrainConfig
from scotoma.train.datasets import load_dataset
from scotoma.train.loop import Trainer

DATA = Data("cifar10", "sample", train_limit=800)


def chain():
    setup = learning_setup(images="source")
    source = setup.source("resnet18", seed=0)
    target = setup.target("defective", "resnet18", "0.3-Bottom", seed=0)
    images = setup.adversarial(source, pgd(32, 3, 64), setup.attacked_sample(source, seed=0))
    return source, target, images, [Result.transfer(target, images), Result.clean(target)]


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
    wanted, asked, told = chain()[3], [], Trainer._told_to_stop
    training = next(a for a in closure(wanted) if isinstance(a, Training))

    def stop(*_):
        raise KeyboardInterrupt

    def told_to_stop(self, stop):
        asked.append(self)
        return len(asked) == 20 or told(self, stop)

    make = AdversarialImages.make

    def make_a_part(self, context):
        context.batch_size, context.progress = 5, stop
        make(self, context)

    for owner, name, instead in (
        (Trainer, "_told_to_stop", told_to_stop),
        (AdversarialImages, "make", make_a_part),
        (Result, "compute", stop),
    ):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, name, instead)
            finish(wanted, store)
        assert training.is_done(store) == (instead is not told_to_stop)
    weights = training.path(store) / "last.safetensors"
    before = weights.stat().st_mtime_ns
    assert finish(wanted, store) == []
    assert contents(store) == contents(whole) and weights.stat().st_mtime_ns == before


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


def test_samples_without_models_and_the_first_of_a_sample(whole):
    sample, everything = Sample(DATA, (), 7, seed=4), Sample(DATA, (), 5000)
    _, target, images, _ = chain()
    few = replace(images, most=3)
    assert finish([sample, everything, Result.transfer(target, few)], whole) == []
    indices, details = sample.read(whole)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(4))
    assert indices.tolist() == order[:7].tolist() and details["found"] == 7
    assert sorted(everything.read(whole)[0].tolist()) == list(range(1000))
    indices, _ = images.sample.read(whole)
    assert load_set(few.path(whole)).indices.tolist() == indices[:3].tolist()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "7", '{"cells": 3}', '{"cells": [{}]}', "[" * 5000, "\udc80"],
    ids=range(9),
)
def test_damaged_files_are_named(store, content):
    source, target, images, _ = chain()
    for artefact in (Result.clean(target), images.sample):
        path = artefact.path(store)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
        with pytest.raises(UserError, match="remove it") as error:
            artefact.read(store)
        assert str(path) in str(error.value)
    with pytest.raises(UserError, match="remove it"):
        Result.clean(source).read(store)  # not there at all


@pytest.mark.parametrize(
    "content",
    [
        *({"indices": indices, "details": {}} for indices in ([1, -2], [0.5], ["1"], [[1]], 3)),
        *({"indices": indices, "details": {}} for indices in ([True], [1 << 70])),
        {"indices": [1], "details": 3},
        {"indices": [1]},
        {"details": {}},
    ],
    ids=str,
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
    artefact, write = SampleFolder(6, 4), SampleFolder._write

    def stop(self, folder):
        write(self, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SampleFolder, "_write", stop)
        finish([artefact], store)
    assert not artefact.is_done(store) and list((store.folder / "data").iterdir()) == []
    assert finish([artefact], store) == [] and artefact.is_done(store)


def test_stylised_images_have_the_texture_of_another_class():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.tensor([0, 0, 1, 1, 1, 0])
    flat = images.clone()
    flat[2:5] = 100  # class 1 has no texture: images of class 0 become smooth
    smooth = torch.nn.functional.avg_pool2d(
        flat.float()[:, None], 5, 1, 2, count_include_pad=False
    )[:, 0]
    found = stylized(flat, labels)
    assert found.dtype == torch.uint8 and found.shape == images.shape
    for number in (0, 1, 5):
        assert torch.equal(found[number], smooth[number].round().to(torch.uint8))
    for number in (2, 3, 4):
        assert found[number].float().std() > 10
    one = stylized(images, torch.zeros(6, dtype=torch.int64))  # there is no other class
    assert one.shape == images.shape


def test_networks_on_the_folder_find_it_in_the_store(store):
    network = tiny_setup().training("resnet18", role="imagenet", seed=0)
    (folder,) = network.inputs()
    config, place = network.whole_config(store, "cpu"), network.path(store)
    assert config.dataset == str(folder.path(store) / "images")
    assert network.data.stylized_folder(store) == folder.path(store) / "stylized"
    assert network.path(new_store(store.folder / "elsewhere")).name == place.name == config.name
    assert config.out == str(place.parent)


# Trainings that were cut short.


def test_a_training_goes_on_only_where_it_began(store, monkeypatch):
    """A folder with settings is gone on with; without, it is begun. Both as the command says."""
    training = learning_setup().training("resnet18", seed=0)
    seen = []

    def train(config, resume, whole, stop):
        assert whole and (config.device, config.workers) == ("cpu", 0)  # the context's
        seen.append(resume)
        raise UserError("enough")

    monkeypatch.setattr("scotoma.bench.paper.artefacts.run_training", train)
    folder = training.path(store)
    for _ in range(2):
        with pytest.raises(UserError, match="enough"):
            training.make(context(store))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text("")
    assert seen == [None, folder]


def cut_training(training, store):
    """Make it, and stop it after an epoch."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_told_to_stop", lambda self, stop: self.epoch == 1)
        training.make(context(store))


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """(training, the store that it was cut in)"""
    training = tiny_setup().training("resnet18", seed=0, epochs=2)
    store = new_store(tmp_path_factory.mktemp("cut"))
    cut_training(training, store)
    return training, store


def copied(store, to):
    shutil.copytree(store.folder, to)
    return new_store(to)


@pytest.mark.parametrize("state", [True, False], ids=["with its state", "without"])
def test_a_training_in_the_folder_of_another(cut, tmp_path, state):
    training, store = cut[0], copied(cut[1], tmp_path / "copy")
    folder = training.path(store)
    if not state:
        (folder / "resume.pt").unlink()
    file = folder / "config.yaml"
    file.write_text(file.read_text().replace("arch: resnet18", "arch: vgg19"))
    (failure,) = finish([training], store)
    assert "arch is 'vgg19' there, and 'resnet18' is asked for" in failure.message
    assert f"{file}: " in failure.message and "remove the folder" in failure.message
    assert not training.is_done(store)


def test_a_training_without_its_settings(cut, tmp_path):
    training, store = cut[0], copied(cut[1], tmp_path / "copy")
    file = training.path(store) / "config.yaml"
    settings = file.read_text()
    file.unlink()
    (failure,) = finish([training], store)
    assert "no run to continue (config.yaml is missing); put that back" in failure.message
    file.write_text(settings)
    assert finish([training], store) == []


@pytest.mark.parametrize(
    "state",
    [True, pytest.param(False, marks=pytest.mark.slow)],
    ids=["with its state", "without"],
)
def test_a_training_without_its_weights_is_not_done(whole, tmp_path, state):
    """As a copy without large files leaves it."""
    (training,), store = chain()[1].members, copied(whole, tmp_path / "copy")
    for name in ["last.safetensors"] if state else ["last.safetensors", "resume.pt"]:
        (training.path(store) / name).unlink()
    assert not training.is_done(store)
    assert finish([training], store) == [] and training.is_done(store)


def noise_folder(folder, seed):
    generator = np.random.default_rng(seed)
    for split, count in (("train", 12), ("val", 4)):
        for name in "ab":
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                image = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(image).save(folder / split / name / f"{number}.png")


@pytest.mark.parametrize(
    "how",
    [
        "--data",
        pytest.param("--data-root", marks=pytest.mark.slow),
        pytest.param("$SCOTOMA_DATA", marks=pytest.mark.slow),
    ],
)
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
    cut_training(training(here), store)
    here.rename(there)
    noise_folder(here / "imagenet", seed=1)
    moved, whole = training(there), new_store(tmp_path / "whole")
    assert finish([moved], store) == finish([moved], whole) == []
    first, second = (load_file(moved.path(s) / "last.safetensors") for s in (store, whole))
    assert all(torch.equal(first[name], second[name]) for name in second)


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, None), (signal.SIGTERM, UserError("a bad file"))],
    ids=["good", "failing"],
)
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
