"""Artefacts, really made: stopped, damaged, gone on with, and ended with the same bits."""

import json
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
from scotoma.bench.paper.work import closure, make_one
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
    images = setup.adversarial(source, pgd(2, 3, 8), setup.attacked_sample(source, seed=0))
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

        def stop_in_result(self, context, cells):
            calls["result"] += 1
            raise KeyboardInterrupt

        patch.setattr(Result, "compute", stop_in_result)
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
    assert finish([Result.transfer(target, few)], whole) == []
    indices, _ = images.sample.read(whole)
    assert load_set(few.path(whole)).indices.tolist() == indices[:3].tolist()


DAMAGED = ["", "{", "[]", "null", "7", '{"cells": 3}', '{"cells": [{}]}', "[" * 5000, "\udc80"]


@pytest.mark.parametrize("number", range(len(DAMAGED)))
def test_damaged_files_are_named(store, number):
    source, target, images, _ = chain()
    for artefact in (Result.clean(target), images.sample):
        path = artefact.path(store)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(DAMAGED[number].encode("utf-8", "surrogateescape"))
        with pytest.raises(UserError, match="remove it") as error:
            artefact.read(store)
        assert str(path) in str(error.value)
    with pytest.raises(UserError, match="remove it"):
        Result.clean(source).read(store)  # not there at all


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

    monkeypatch.setattr("scotoma.bench.paper.artefacts.run_training", train)
    folder = training.path(store)
    for _ in range(2):
        with pytest.raises(UserError, match="enough"):
            make_one(training, context(store))
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


def test_a_training_without_its_settings(store, monkeypatch):
    training = learning_setup().training("resnet18", seed=0, epochs=2)
    cut_training(training, store, monkeypatch)
    file = training.path(store) / "config.yaml"
    settings = file.read_text()
    file.unlink()
    (failure,) = finish([training], store)
    assert "no run to continue (config.yaml is missing); put that back" in failure.message
    file.write_text(settings)
    assert finish([training], store) == []


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
    assert finish([Result.clean(model)], store) == [] and training.is_done(store)
