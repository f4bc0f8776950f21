"""Small networks of every architecture, fast enough to be built again in each test."""

import pytest
import torch
from scotoma.defective import create_model

SMALL_WIDTH = {"densenet121": 4, "wrn32_4": 2}


@pytest.fixture(scope="session")
def small_model():
    """``create_model`` with a small width and weights from a fixed seed."""

    def make(name, defects="0.5-Bottom", seed=0, **options):
        options.setdefault("width", SMALL_WIDTH.get(name, 4))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return create_model(name, defects, **options)

    return make


@pytest.fixture(scope="session")
def randomise():
    """Make a model look trained: random affine parameters, running statistics that fit.

    With fresh statistics, signals fade from layer to layer in evaluation mode until logits no
    longer depend on the image, and a test of them could not fail.
    """

    def change(model, seed=1):
        generator = torch.Generator().manual_seed(seed)
        norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.weight.data.copy_(torch.rand(norm.weight.shape, generator=generator) + 0.5)
            norm.bias.data.copy_(torch.randn(norm.bias.shape, generator=generator) * 0.3)
            norm.momentum = 1.0
        spec = model.spec
        shape = (16, spec.in_channels, spec.image_size, spec.image_size)
        with torch.no_grad():
            model.train()(torch.rand(shape, generator=generator))
        for norm in norms:
            norm.momentum = 0.1
        return model.eval()

    return change
