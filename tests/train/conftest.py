"""A tiny configuration and image folders, so that whole runs take a second or two."""

import signal
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scotoma.train.config import TrainConfig
from scotoma.train.settings import read_recipe


@pytest.fixture
def tiny(tmp_path):
    """Settings of a run that takes about a second: width 4, a few hundred images."""

    pytest.importorskip("yaml", reason="PyYAML, in which settings are written, is not installed")

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
