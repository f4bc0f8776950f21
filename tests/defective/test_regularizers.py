"""SpatialDropout, DropBlock and label smoothing as the release has them: docs/reference.md, 1."""

import pytest
import torch
from scotoma.defective.regularizers import make_regularizer, smoothed_cross_entropy

KINDS = ["spatial-dropout", "dropblock"]
BLOCKS = {
    "resnet18": {"block3": 2, "block4": 2},
    "resnet50": {"block3": 6, "block4": 3},
    "wrn32_4": {"block3": 5},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BLOCKS)
def test_positions(small_model, name, kind):
    """Twice in each residual block of the last blocks, nowhere else."""
    model = small_model(name, "standard", regularizer=kind).train()
    plain = small_model(name, "standard")
    calls = []
    known = {type(module) for module in plain.modules()}
    for path, module in model.named_modules():
        if type(module) not in known:
            module.register_forward_hook(lambda *_, path=path: calls.append(path))
    model(torch.rand(2, 3, 32, 32))
    assert calls == [
        f"{block}.{index}.drop"
        for block, depth in BLOCKS[name].items()
        for index in range(depth)
        for _ in range(2)
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BLOCKS)
def test_active_in_training_only(small_model, randomise, name, kind):
    plain = randomise(small_model(name, "0.5-Bottom"))
    model = small_model(name, "0.5-Bottom", regularizer=kind)
    model.load_state_dict(plain.state_dict())
    images = torch.rand(8, 3, 32, 32)
    assert torch.equal(model.eval()(images), plain(images))
    torch.manual_seed(0)
    first, second = model.train()(images), model(images)
    assert not torch.equal(first, second)
    assert not torch.equal(first, plain.train()(images))


def test_no_regularizer():
    assert make_regularizer("none") is None


def test_spatial_dropout_drops_whole_channels():
    """Each with probability 0.1, within 5 standard errors; the rest is scaled by 1/0.9."""
    torch.manual_seed(0)
    out = make_regularizer("spatial-dropout").train()(torch.ones(100, 50, 3, 3))
    channels = out.flatten(2)
    assert (channels == channels[:, :, :1]).all()
    dropped = (channels[:, :, 0] == 0).double().mean().item()
    assert abs(dropped - 0.1) < 5 * (0.1 * 0.9 / 5000) ** 0.5
    torch.testing.assert_close(out.max(), torch.tensor(1 / 0.9))


@pytest.mark.parametrize("size, seed_probability", [(8, 0.1 / 9 * 64 / 36), (4, 0.1 / 9 * 16 / 4)])
def test_dropblock_drops_squares(size, seed_probability):
    """gamma = 0.1/9 (size / (size - 2))^2 for each possible 3x3 square; rescaled by numel/kept."""
    torch.manual_seed(0)
    images, channels = 200, 100
    drop = make_regularizer("dropblock").train()
    out = drop(torch.ones(images, channels, size, size))
    gone = out == 0
    # Every silent position lies in a silent 3x3 square.
    squares = torch.nn.functional.avg_pool2d(gone.float(), 3, stride=1) == 1
    covered = torch.nn.functional.conv_transpose2d(
        squares.float().view(-1, 1, size - 2, size - 2), torch.ones(1, 1, 3, 3)
    ).view_as(out)
    assert torch.equal(covered > 0, gone)
    # A position is silent if any of the squares over it was drawn. The map of how many squares
    # lie over each: 1, 2, 3, 3, ... from the border, along both axes.
    over = torch.tensor([min(i + 1, 3, size - i, size - 2) for i in range(size)]).double()
    expected = 1 - (1 - seed_probability) ** (over.view(-1, 1) * over)
    found = gone.double().mean((0, 1))
    error = (expected * (1 - expected) / (images * channels)).sqrt()
    assert ((found - expected).abs() < 5 * error).all()
    # Channels are independent: a corner, which only one square covers, in two channels.
    both = (gone[:, ::2, 0, 0] & gone[:, 1::2, 0, 0]).double().mean().item()
    pair = seed_probability**2
    assert abs(both - pair) < 5 * (pair / (images * channels / 2)) ** 0.5
    scale = gone.numel() / (~gone).sum().item()
    torch.testing.assert_close(out[~gone], torch.full_like(out[~gone], scale))


def test_dropblock_counts_beyond_float16():
    """204,800 positions are more than float16 holds (65,504); none may turn to zero or infinity."""
    torch.manual_seed(0)
    out = make_regularizer("dropblock").train()(torch.ones(8, 100, 16, 16, dtype=torch.float16))
    kept = out != 0
    assert 0.85 < kept.double().mean().item() < 0.95
    scale = torch.tensor(kept.numel() / kept.sum().item(), dtype=torch.float16)
    assert ((out[kept] - scale).abs() <= torch.finfo(torch.float16).eps).all()


# Every eps in [0, 1) is allowed; with few classes the other classes' share passes 1/K.
@pytest.mark.parametrize(
    "classes, eps", [(10, 0.1), (2, 0.1), (1000, 0.1), (10, 0.0), (10, 0.85), (10, 0.95), (2, 0.6)]
)
def test_label_smoothing(classes, eps):
    """1 - eps for the true class, eps / (K - 1) for each other: by hand, in float64."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, classes, dtype=torch.float64, generator=generator)
    labels = torch.randint(classes, (6,), generator=generator)
    target = torch.full((6, classes), eps / (classes - 1), dtype=torch.float64)
    target[torch.arange(6), labels] = 1 - eps
    log_p = logits - logits.exp().sum(1, keepdim=True).log()
    losses = -(target * log_p).sum(1)
    torch.testing.assert_close(smoothed_cross_entropy(logits, labels, eps), losses.mean())
    for reduction, expected in (("none", losses), ("sum", losses.sum())):
        found = smoothed_cross_entropy(logits, labels, eps, reduction)
        torch.testing.assert_close(found, expected)
