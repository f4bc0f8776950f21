"""Trainings as artefacts: what a stopped one goes on with, and when one is done."""

import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from paper_smoke import context, finish, learning_setup, new_store, tiny_setup
from PIL import Image
from safetensors.torch import load_file
from scotoma.bench.paper.artefacts import Result, Training
from scotoma.bench.paper.data import Data
from scotoma.bench.paper.work import make_one
from scotoma.defective.errors import Terminated, UserError
from scotoma.train.config import TrainConfig
from scotoma.train.loop import Trainer


def test_a_training_goes_on_only_where_it_began(store, monkeypatch):
    """A folder with settings is gone on with; without, it is begun. Both as the command says."""
    training = learning_setup().training("resnet18", seed=0)
    seen = []

    def train(config, resume, whole, stop):
        assert whole and (config.device, config.workers) == ("cpu", 0)  # the context's
        seen.append(resume)
        raise UserError("enough")

    monkeypatch.setattr("scotoma.bench.paper.artefacts.train", train)
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
