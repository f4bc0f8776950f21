"""A tiny configuration and image folders, so that whole runs take less than a second."""

import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
from cut_runs import stop_after
from PIL import Image
from scotoma.train import loop
from scotoma.train.config import TrainConfig
from scotoma.train.run import run_training
from scotoma.train.runfolder import RunFolder
from scotoma.train.settings import read_recipe


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Settings of a run that takes half a second: width 4, a few hundred images, no pictures."""
    pytest.importorskip("yaml", reason="PyYAML, in which settings are written, is not installed")
    # Drawing them takes as long as the training; test_cli.py has them drawn.
    monkeypatch.setattr(loop, "draw_curves", lambda *_: None)
    monkeypatch.setattr(RunFolder, "write_curves", lambda *_: None)

    def make(**changes):
        config = TrainConfig(recipe="quick", out=str(tmp_path / "runs"), **read_recipe("quick"))
        small = {
            "width": 4,
            "train_limit": 300,
            "test_limit": 100,
            "batch_size": 64,
            "epochs": 2,
            "device": "cpu",
            "save_seconds": 0.0,
        }
        return replace(config, **small | changes)

    return make


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    """Make runs, each of them once: ``trained_once(config, stop)`` is its folder, to be copied."""
    made = {}

    def run(config, stop):
        key = repr((replace(config, out="", name=None), stop))
        if key not in made:
            out = str(tmp_path_factory.mktemp("run"))
            with pytest.MonkeyPatch.context() as patch:
                if stop is not None:
                    stop_after(patch, stop)
                outcome, folder = run_training(replace(config, out=out, name="run"))
            assert outcome.stopped_by == (None if stop is None else signal.SIGINT)
            assert (outcome.summary is None) == (stop is not None)
            made[key] = folder.path
        return made[key]

    return run


@pytest.fixture
def ran(tmp_path, trained_once):
    """``ran(config, stop)``: a folder of its own of a run that was finished, or stopped in a step
    (counted from 1), and not trained for this test alone."""

    def copy(config, stop=None):
        name = "whole" if stop is None else f"cut-{stop}"
        return shutil.copytree(trained_once(config, stop), tmp_path / "copies" / name)

    return copy


@pytest.fixture
def unwatched_children():
    """Nothing is raised when a process ends: another test's loader may have left torch's handler,
    which raises in the middle of whatever runs then. It is not put back: the signal of a process
    that a test killed may come after the test, and would end the whole suite."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@pytest.fixture
def image_folder(tmp_path):
    """Make train/<class>/* and test/<class>/* of images whose brightness tells the class."""

    def make(size=(16, 16), classes=("cat", "dog"), train=6, test=3, mode="RGB", name="pets"):
        root, generator = tmp_path / name, np.random.default_rng(0)
        for split, count in (("train", train), ("test", test)):
            for label, cls in enumerate(classes):
                folder = root / split / cls
                folder.mkdir(parents=True)
                for index in range(count):
                    shape = (size[1], size[0]) + ((3,) if mode == "RGB" else ())
                    noise = generator.integers(0, 100, shape, dtype=np.uint8)
                    Image.fromarray(noise + np.uint8(100 * label)).save(folder / f"{index:02}.png")
        return root

    return make
