"""Networks, images and interruptions for tests of adversarial sets in the making.

Fixtures are taken over by name, as in ``models, images = shared.models, shared.images``.
"""

from dataclasses import replace

import pytest
import torch
from fitted_networks import sample, saved
from scotoma.defective.attacks import PGD, Attack
from scotoma.defective.robustness.adversarial_set import tensor_fields
from scotoma.train.robustness.images import TestImages, choose_images
from scotoma.train.robustness.models import load_named

CPU = torch.device("cpu")
RANDOM = PGD(eps=16 / 255, step=8 / 255, steps=2, random_start=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two networks of float64, whose results do not depend on the batch, and their mean."""
    root = tmp_path_factory.mktemp("nets")
    paths = [
        saved(root / f"{name}.safetensors", double=True, **options)
        for name, options in {"standard": {}, "bottom": {"defects": "0.5-Bottom"}}.items()
    ]
    return load_named(paths, [paths], CPU)


@pytest.fixture(scope="module")
def images():
    """The first 150 test images of the sample."""
    data = sample()
    return TestImages(replace(data, test=data.test.subset(torch.arange(150))), CPU)


@pytest.fixture(scope="module")
def chosen(models, images):
    """Numbers of 40 images that all models get right, in the order of the choice."""
    return choose_images(models, images, 40).indices


def assert_equal(a, b, exact=True):
    for name in tensor_fields():
        one, other = getattr(a, name), getattr(b, name)
        if exact or not one.is_floating_point():
            assert torch.equal(one, other), name
        else:
            torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def interrupt(monkeypatch, after, error=KeyboardInterrupt):
    """Ctrl-C while a batch is attacked, when ``after`` are finished."""
    original, calls = Attack.__call__, [0]

    def call(self, *args, **options):
        calls[0] += 1
        if calls[0] > after:
            raise error
        return original(self, *args, **options)

    monkeypatch.setattr(Attack, "__call__", call)
    return calls
