"""Trainings that are stopped on the way, and whether it shows in the end."""

import os
import signal
from pathlib import Path

import torch
from scotoma.defective import load_model
from scotoma.train.engine import Engine
from scotoma.train.run import run_training


def weights(folder: Path):
    return load_model(folder / "last.safetensors").state_dict()


def assert_same_weights(a: Path, b: Path):
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def stop_after(monkeypatch, steps):
    """Send this process Ctrl-C while it works on the given step."""
    original, taken = Engine.step, [0]

    def step(self, *args):
        taken[0] += 1
        if taken[0] == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *args)

    monkeypatch.setattr(Engine, "step", step)


def cut_run(config, monkeypatch):
    """The folder of a run that was stopped in its second epoch."""
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        return run_training(config)[1].path
