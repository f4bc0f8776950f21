"""Trainings that are stopped on the way, and what is compared of their folders."""

import json
import os
import signal
from pathlib import Path

import torch
from scotoma.defective import load_model
from scotoma.train.engine import Engine


def history(folder: Path):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_weights(a: Path, b: Path):
    first, second = (load_model(f / "last.safetensors").state_dict() for f in (a, b))
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
