"""Targets of protocols that need no training, and what a protocol told while it went on.

Fixtures are taken over by name, as in ``images, cells = shared.images, shared.cells``.
"""

from functools import cache

import pytest
import torch
from fitted_networks import pixels, sample
from scotoma.defective import create_model
from scotoma.train.robustness.images import TestImages
from scotoma.train.robustness.models import Member, NamedModel
from scotoma.train.robustness.protocols import CleanPredictions
from scotoma.train.store import Store
from torch import nn


class Watched(nn.Module):
    """A model that keeps what it was asked."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seen = model, []
        self.eval()

    def forward(self, pixels):
        self.seen.append(pixels.detach().clone())
        return self.model(pixels)

    def images(self):
        return torch.cat(self.seen)


class Shallow(nn.Module):
    """Random features of the sample's images and a fitted layer: right on most, in microseconds."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(784, 60, generator=generator) / 10)
        train = sample().train
        design = self.features(pixels(train.images[:600])).detach()
        wanted = nn.functional.one_hot(train.labels[:600], 10).float()
        self.last = nn.Parameter(8 * torch.linalg.lstsq(design, wanted).solution)
        self.eval()

    def features(self, images):
        return torch.tanh((images - 0.28).flatten(1) @ self.first)

    def forward(self, images):
        return self.features(images) @ self.last


class Bright(nn.Module):
    """Class 1 of two where the mean pixel is over a level, the surer the further it is."""

    def __init__(self, level=0.3, slope=40.0):
        super().__init__()
        self.level, self.slope = level, slope
        self.eval()

    def forward(self, pixels):
        over = self.slope * (pixels.flatten(1).mean(1) - self.level)
        return torch.stack([-over, over], 1)


@cache
def some_spec():
    return create_model("resnet18", "0.3-Bottom", width=1).spec


def named(model, name="a", digest=None):
    spec = getattr(model, "spec", None) or some_spec()
    digest = digest or f"digest of {name}"
    return NamedModel(name, model, (Member(f"runs/{name}", spec, digest, "masks"),))


@cache
def sample_images():
    return TestImages(sample(), torch.device("cpu"))


@cache
def shallow():
    return {"first": Shallow(0), "second": Shallow(1)}


def watched():
    """Two targets that nobody has asked yet."""
    return [named(Watched(model), name) for name, model in shallow().items()]


@cache
def right_for_both():
    """Numbers of 30 images that both of :func:`shallow` get right, in no order."""
    some = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:400]
    return some[CleanPredictions(sample_images(), 100).right_for_all(watched(), some)][:30]


@pytest.fixture
def images():
    return sample_images()


@pytest.fixture
def targets():
    return watched()


@pytest.fixture
def indices():
    return right_for_both()


@pytest.fixture
def cells(tmp_path):
    return Store(tmp_path / "cells")


class Told(list):
    """A ``progress`` that remembers; it has to rise to the end and never beyond."""

    def __call__(self, done, total, text):
        assert 0 <= done <= total and text
        assert not self or self[-1][0] <= done, f"{done} after {self[-1]}"
        self.append((done, total, text))

    def check(self):
        assert self[-1][0] == self[-1][1]
        assert len({total for _, total, _ in self}) == 1
