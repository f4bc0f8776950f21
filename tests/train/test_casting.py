"""Weights cast together: the same numbers as autocast's, with fewer operations."""

from contextlib import nullcontext

import pytest
import torch
from engines import Operators, engine_of
from scotoma.train.precision import CastWeights, FastWeightGradients
from torch import nn

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def trained(config, at_once, device):
    """Weights and running statistics after three steps, and how often each operator ran."""
    engine, batches = engine_of(config, torch.device(device))
    assert isinstance(engine.cast_weights, CastWeights)
    if not at_once:
        engine.cast_weights = None
    batches = [batch for _, batch in zip(range(3), batches.epoch(0, 0, 32), strict=False)]
    with Operators() as operators:
        for number, batch in enumerate(batches):
            engine.step(batch, number, 0.05, 32)
    return engine.model.state_dict(), operators.calls


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("arch", "changes"),
    [
        ("resnet18", {"precision": "bfloat16", "defects": "0.5-Bottom", "clip_norm": 1.0}),
        ("resnet18", {"precision": "float16", "ema": 0.9}),
        pytest.param("densenet121", {"precision": "bfloat16"}, marks=pytest.mark.slow),
        ("senet18", {"precision": "float16", "adversarial_eps": 0.03, "adversarial_steps": 1}),
        pytest.param("vgg19", {"precision": "bfloat16"}, marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else value["precision"],
)
def test_the_weights_are_those_of_autocast(tiny, arch, changes, device):
    config = tiny(arch=arch, device=device, **changes)
    apart, many = trained(config, False, device)
    together, few = trained(config, True, device)
    for name, value in apart.items():
        assert torch.equal(value, together[name]), name
    assert few["_foreach_copy_"] == many["_foreach_copy_"] + 6  # forward and backward, three steps
    convolutions = sum(value.dim() == 4 and "mask" not in name for name, value in apart.items())
    # Autocast keeps the casts of an attack on the same batch, so that those back count alone.
    assert many["_to_copy"] - few["_to_copy"] >= 3 * convolutions


def test_only_what_autocast_casts():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    before = dict(model.named_parameters())
    with CastWeights(model, torch.bfloat16):
        for name, value in before.items():
            layer, name = name.split(".")
            inside = getattr(model[int(layer)], name)
            assert inside.dtype == (torch.float32 if layer == "1" else torch.bfloat16)
            assert torch.equal(inside, value.to(inside.dtype))
        loss = (model[0].weight.float() * 2).sum()
    # Everything is back in its place, and a weight that no gradient reaches gets none.
    assert all(model.get_parameter(name) is value for name, value in before.items())
    loss.backward()
    assert torch.equal(model[0].weight.grad, torch.full_like(model[0].weight, 2.0))
    assert model[3].weight.grad is None or not model[3].weight.grad.any()


def test_parameters_come_back_after_an_error():
    model = nn.Linear(2, 2)
    weight = model.weight
    with pytest.raises(RuntimeError), CastWeights(model, torch.float16):
        model(torch.ones(3))
    assert model.weight is weight


def test_memory_order_is_kept():
    model = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
    with CastWeights(model, torch.float16):
        assert model.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("changes", "ours"),
    [
        ({}, True),
        ({"precision": "float32"}, False),
        ({"backend": "eager"}, False),
        ({"compile": "default"}, False),
    ],
    ids=str,
)
def test_where_it_is_left_to_others(tiny, changes, ours):
    """Float32 has nothing to cast; plain PyTorch is autocast; the compiler sees to it itself."""
    engine, _ = engine_of(tiny(**{"precision": "bfloat16"} | changes))
    assert (engine.cast_weights is not None) == ours
    assert (engine.convolutions is not None) == ours


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fast_gradients_of_weights(dtype):
    """They are of float32, once rounded; all else is torch's to the bit."""
    generator = torch.Generator().manual_seed(0)
    for layer, size in (
        (nn.Conv2d(8, 16, 3, padding=1, stride=2), 9),
        (nn.Conv2d(8, 8, 3, groups=4, dilation=2, bias=False), 9),
        (nn.Conv2d(8, 8, 1), 4),
    ):
        layer.to(memory_format=torch.channels_last)
        x = torch.randn(4, 8, size, size, generator=generator).requires_grad_()
        leaves = [x, *layer.parameters()]
        found = []
        for context in (FastWeightGradients(dtype), nullcontext()):
            with torch.autocast("cpu", dtype), context:
                out = layer(x)
            (out.float() * torch.arange(out.numel()).view(out.shape).sin()).sum().backward()
            found.append([out, *(leaf.grad for leaf in leaves)])
            for leaf in leaves:
                leaf.grad = None
        for index, (ours, torchs) in enumerate(zip(*found, strict=True)):
            assert ours.dtype == torchs.dtype
            if index == 2:
                assert (ours - torchs).abs().max() <= torch.finfo(dtype).eps * torchs.abs().max()
            else:
                assert torch.equal(ours, torchs), index
        wide = nn.functional.conv2d(
            x.to(dtype).double(),
            (w := layer.weight.detach().to(dtype).double().requires_grad_()),
            None,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
        )
        upstream = torch.arange(out.numel()).view(out.shape).sin().to(dtype).double()
        (exact,) = torch.autograd.grad(wide, w, upstream)
        error = (found[0][2] - exact).abs()
        assert (error <= torch.finfo(dtype).eps / 2 * exact.abs() + 1e-5).all()


def test_only_training_convolutions_are_changed():
    layer, x = nn.Conv2d(4, 4, 3), torch.ones(1, 4, 5, 5)
    with FastWeightGradients(torch.bfloat16):
        assert layer(x).grad_fn.name() == "_ConvolutionBackward"
        assert nn.Conv2d(4, 4, 3, padding="same")(x).grad_fn.name() == "ConvolutionBackward0"
        with torch.no_grad():
            assert layer(x).dtype == torch.float32
        assert layer.requires_grad_(False)(x).dtype == torch.float32
