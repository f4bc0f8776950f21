"""A budget so small that a test can afford it, and what a reproduction needs to run."""

from dataclasses import replace
from pathlib import Path

import torch
from scotoma.bench.paper.artefacts import Context
from scotoma.bench.paper.budgets import ROLES, SMOKE, DataPlan
from scotoma.bench.paper.data import Data, SampleFolder
from scotoma.bench.paper.setup import Setup
from scotoma.bench.paper.work import Plan, Store, make_here
from scotoma.train.screen import Progress

_SETTINGS = {"epochs": 1, "batch_size": 64, "lr": 0.05, "save_seconds": 3600.0}
TINY = replace(
    SMOKE,
    data={role: DataPlan("sample", "quick", _SETTINGS, train_limit=500) for role in ROLES},
    samples=16,
    cw_samples=6,
    boundary_samples=4,
    all_samples=20,
    shortened={
        "cw-l2": {"search_steps": 2, "steps": 5, "confidence": 0.0},
        "boundary": {"steps": 10},
        "mifgsm": {"steps": 3},
        "pgd": {"steps": 3},
    },
)


def tiny_setup(**changes):
    """A setup of one seed on the sample; images of ImageNet's role are an artefact's."""
    data = {role: Data(role, "sample", train_limit=500) for role in ROLES}
    data["imagenet"] = Data("imagenet", "", made_by=SampleFolder(500, 200))
    return Setup(TINY, data, **changes)


def learning_setup(**changes):
    """As :func:`tiny_setup`, with networks that learn something: a second each for a ResNet-18. And
    CW has the steps and the margin to fool them with rounded pixels, on any processor."""
    settings = _SETTINGS | {"batch_size": 16, "test_limit": 100}
    plans = {role: DataPlan("sample", "quick", settings, train_limit=800) for role in ROLES}
    data = {role: Data(role, "sample", train_limit=800) for role in ROLES}
    cw = {
        "cw-l2": TINY.shortened["cw-l2"]
        | {"search_steps": 6, "steps": 100, "lr": 0.1, "confidence": 1.0}
    }
    return Setup(replace(TINY, data=plans, shortened=TINY.shortened | cw), data, **changes)


def new_store(folder: Path) -> Store:
    store = Store(folder)
    store.prepare()
    return store


def context(store: Store) -> Context:
    """On the CPU. Its screen prints lines, and has no bar."""
    screen = Progress()
    screen.begin("a test")
    return Context(store, torch.device("cpu"), screen, workers=0)


def finish(wanted, store):
    return make_here(Plan.of(wanted, store), context(store))
