"""Where ResNet-18 features can be non-zero at all: docs/reference.md, 1.

A branch is masked before the shortcut is added, so a block's output is silent only where every
summand is. Silence is observed from outside: a position that stays zero for random images under
random batch norms.
"""

import pytest
import torch

# Fraction of positions that can speak, by keep probability: stem, then the blocks in order.
LAYERS = ("stem", "block1.0", "block1.1", "block2.0", "block2.1")
SUPPORT = {
    0.1: (0.10, 0.19, 0.27, 0.19, 0.27),
    0.3: (0.30, 0.51, 0.66, 0.51, 0.66),
    0.5: (0.50, 0.75, 0.875, 0.75, 0.875),
}


def speaking(model):
    """Positions of each layer's output that were ever non-zero."""
    found = {}

    def observe(name):
        def hook(_module, _inputs, out):
            ever = (out != 0).any(0)
            found[name] = found.get(name, torch.zeros_like(ever)) | ever

        return hook

    for name in (*LAYERS, "block3.0"):
        model.get_submodule(name).register_forward_hook(observe(name))
    # In training mode BN centres each channel, so that a few draws of its affine parameters
    # bring every neuron above zero once.
    generator = torch.Generator().manual_seed(0)
    model.train()
    with torch.no_grad():
        for _ in range(12):
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    size = module.weight.shape
                    module.weight.copy_(torch.randn(size, generator=generator))
                    module.bias.copy_(torch.randn(size, generator=generator).abs())
            model(torch.rand(8, 3, 32, 32, generator=generator))
    return found


@pytest.mark.parametrize("p", SUPPORT)
def test_support(small_model, p):
    model = small_model("resnet18", f"{p}-Bottom", width=16)
    found = speaking(model)
    masks = {
        name: [
            model.get_submodule(f"{name}.{bn}").mask
            for bn in ("bn", "bn2", "shortcut.bn")
            if _has_mask(model, f"{name}.{bn}")
        ]
        for name in LAYERS
    }
    for name, expected in zip(LAYERS, SUPPORT[p], strict=True):
        n = found[name].numel()
        # The paper's figures are rounded to whole percents.
        tolerance = 5 * (expected * (1 - expected) / n) ** 0.5 + 0.005
        assert abs(found[name].float().mean().item() - expected) < tolerance, name
    # Exactly: the union of all masks on the way that reach the output.
    expected = {
        "stem": masks["stem"][0],
        "block1.0": masks["stem"][0] | masks["block1.0"][0],
        "block2.0": masks["block2.0"][0] | masks["block2.0"][1],
    }
    expected["block1.1"] = expected["block1.0"] | masks["block1.1"][0]
    expected["block2.1"] = expected["block2.0"] | masks["block2.1"][0]
    for name, union in expected.items():
        assert torch.equal(found[name], union), name
    assert found["block3.0"].all()  # nothing is silent above the bottom


def _has_mask(model, path):
    try:
        return model.get_submodule(path).mask is not None
    except AttributeError:
        return False
