"""Trainings that are stopped on the way, and whether it shows in the end."""

import os
import signal
from pathlib import Path

import torch
from scotoma.defective import load_model
from scotoma.train.engine import Engine


def weights(folder: Path):
    return load_model(folder / "last.safetensors").state_dict()


def assert_same_weights(a: Path, b: Path):
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def before_step(monkeypatch, number, act):
    """Do something when a run comes to a step; they are counted from 0 over all epochs."""
    original = Engine.step

    def step(self, batch, current, *rest):
        if current == number:
            act()
        return original(self, batch, current, *rest)

    monkeypatch.setattr(Engine, "step", step)


def stop_after(monkeypatch, steps):
    """Send this process Ctrl-C while it works on the given step."""
    before_step(monkeypatch, steps - 1, lambda: os.kill(os.getpid(), signal.SIGINT))
