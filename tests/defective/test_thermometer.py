"""Thermometer encoding: the code itself, networks with it, and files from before there was any."""

import json
import warnings

import pytest
import torch
from refusals import refused
from scotoma.defective import (
    UserError,
    create_model,
    load_model,
    mask_sites,
    model_names,
    reset_weights,
    save_model,
)
from scotoma.defective.attacks import pgd
from scotoma.defective.robustness.sanity import sanity_flags
from scotoma.defective.spec import ModelSpec
from scotoma.defective.thermometer import bins, encode, reachable, soft_code

NAMES = model_names()


def image_of(values):
    return torch.tensor(values).view(1, 1, 1, -1)


def test_the_code_of_known_pixels():
    """Four bins of a quarter; an edge belongs to the bin above, and 1 to the last."""
    code = encode(image_of([0.0, 0.24, 0.25, 0.6, 0.75, 1.0]), 4)[0, :, 0].T
    expected = [[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert code.tolist() == expected


@pytest.mark.parametrize("levels", [2, 7, 16, 32])
def test_the_code_is_cumulative_and_grows_with_the_pixel(levels):
    code = encode(torch.linspace(0, 1, 1001).view(1, 1, 1, -1), levels)[0, :, 0]
    assert set(code.unique().tolist()) == {0.0, 1.0}
    assert (code[0] == 1).all()
    assert (code[:-1] >= code[1:]).all(), "a number above a zero is not zero"
    assert (code[:, 1:] >= code[:, :-1]).all(), "a brighter pixel lost a one"
    ones = code.sum(0)
    assert sorted(set(ones.tolist())) == list(range(1, levels + 1))
    widths = torch.bincount(ones.long())[1:]
    assert widths.max() - widths.min() <= 2, "bins of unequal width"


def test_the_channels_numbers_are_neighbours():
    pixels = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    code = encode(pixels, 6)
    assert code.shape == (2, 18, 4, 5) and code.dtype == torch.float64
    for channel in range(3):
        alone = encode(pixels[:, channel : channel + 1], 6)
        assert torch.equal(code[:, 6 * channel : 6 * channel + 6], alone)


def test_other_forms_of_the_code():
    """channels_last images have such codes; a soft code of certain bins is the code."""
    pixels = torch.rand(2, 3, 4, 5)
    last = encode(pixels.contiguous(memory_format=torch.channels_last), 6)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, encode(pixels, 6)) and encode(pixels, 6).is_contiguous()
    one_hot = torch.nn.functional.one_hot(bins(pixels, 6).long(), 6).permute(0, 1, 4, 2, 3).float()
    assert torch.equal(soft_code(one_hot), encode(pixels, 6))


def test_a_soft_code_is_the_mean_of_codes():
    """Three bins with probabilities 0.2, 0.3 and 0.5, and the gradient of each number."""
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).view(1, 1, 3, 1, 1)
    weights.requires_grad_()
    code = soft_code(weights)
    torch.testing.assert_close(code.flatten().tolist(), [1.0, 0.8, 0.5])
    total = code.flatten() @ torch.tensor([1.0, 10, 100]).double()
    (gradient,) = torch.autograd.grad(total, weights)
    assert gradient.flatten().tolist() == [1.0, 11.0, 111.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels, eps", [(16, 8 / 255), (32, 8 / 255), (5, 0.3), (16, 1 / 16)])
def test_reachable_bins_are_those_of_a_search(levels, eps, dtype):
    """8-bit images, edges of bins among them; every point of the ball is tried on a fine grid."""
    images = torch.cat([torch.arange(256) / 255, torch.arange(levels + 1) / levels]).to(dtype)
    images = images.view(1, 1, 1, -1)
    pixels, allowed = reachable(images, levels, eps)
    assert pixels.dtype == dtype and allowed.shape == (1, 1, levels, 1, images.numel())
    number = torch.arange(levels).view(levels, 1, 1).expand(1, 1, levels, 1, images.numel())
    assert torch.equal(bins(pixels, levels)[allowed].long(), number[allowed])
    own = images.unsqueeze(2).expand_as(pixels)
    assert ((pixels - own).abs() <= eps)[allowed].all()
    assert pixels[allowed].min() >= 0 and pixels[allowed].max() <= 1
    at_home = bins(images, levels).unsqueeze(2).long() == number
    assert allowed[at_home].all() and torch.equal(pixels[at_home], own[at_home])
    assert (pixels[allowed & ~at_home] != own[allowed & ~at_home]).all()
    # Strictly inside the ball nothing may be missing; beyond it nothing may be there.
    offsets = torch.linspace(-1, 1, 2001, dtype=torch.float64).view(-1, 1)
    found = []
    for scale in (1 - 1e-5, 1 + 1e-5):
        tried = (images.double().view(1, -1) + scale * eps * offsets).clamp(0, 1)
        seen = torch.zeros(levels, images.numel(), dtype=torch.bool)
        found.append(seen.scatter_(0, bins(tried, levels).long(), True))
    assert (found[0] <= allowed[0, 0, :, 0]).all() and (allowed[0, 0, :, 0] <= found[1]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels, eps", [(5, 0.1), (8, 0.1), (16, 8 / 255)])
def test_eps_holds_to_the_last_bit(levels, eps, dtype):
    """Pixels a few units in the last place off eps from the edge of a bin."""
    ends = [k / levels - sign * eps for k in range(1, levels) for sign in (1, -1)]
    points = [torch.tensor([end for end in ends if 0 < end < 1], dtype=dtype)]
    for target in (0.0, 1.0):
        moving = points[0]
        for _ in range(20):
            moving = torch.nextafter(moving, torch.tensor(target, dtype=dtype))
            points.append(moving)
    images = torch.cat(points).view(1, 1, 1, -1)
    pixels, allowed = reachable(images, levels, eps)
    number = torch.arange(levels).view(levels, 1, 1).expand_as(allowed)
    distance = (pixels - images.unsqueeze(2)).abs()
    assert (distance <= eps)[allowed].all() and (distance[allowed] > 0.999 * eps).any()
    assert torch.equal(bins(pixels, levels)[allowed].long(), number[allowed])


def test_reachable_pixels_survive_rounding_to_bytes():
    images = (torch.arange(256) / 255).view(1, 1, 1, -1)
    pixels, allowed = reachable(images, 16, 8 / 255)
    rounded = (pixels * 255).round() / 255
    own = images.unsqueeze(2)
    low = torch.maximum(own - 8 / 255, torch.arange(16).view(16, 1, 1) / 16)
    high = torch.minimum(own + 8 / 255, torch.arange(1, 17).view(16, 1, 1) / 16)
    wide = allowed & (high - low > 1.001 / 255)
    assert wide.sum() > 300
    assert torch.equal(bins(rounded, 16)[wide], bins(pixels, 16)[wide])
    assert ((rounded - own).abs() <= 8 / 255 + 1e-6)[wide].all()


@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_takes_a_code(small_model, randomise, name):
    """Every weight has a gradient, and what is not among the pixels' bins changes nothing."""
    model = small_model(name, "0.5-Bottom,0.5-Top", thermometer=8, num_classes=7)
    first = next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d))
    assert first.in_channels == 24
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits = model(images)
    assert logits.shape == (3, 7) and logits.isfinite().all()
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    randomise(model)
    with torch.no_grad():
        within = (bins(images, 8) + 0.5) / 8
        expected = model(images)
        assert torch.equal(model(within), expected)
        assert torch.equal(model.forward_encoded(encode(images, 8)), expected)
        assert (model(1 - images) - expected).abs().max() > 1e-3


def test_mean_and_std_change_nothing(small_model, randomise):
    usual = randomise(small_model("resnet18", thermometer=4))
    other = small_model("resnet18", thermometer=4, mean=(0.0,) * 3, std=(1.0,) * 3)
    own = {"mean": other.mean, "std": other.std}
    other.load_state_dict(usual.state_dict() | own)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(other.eval()(images), usual(images))


def test_masks_are_those_of_the_network_without(small_model):
    """A mask depends on (seed, architecture, site), and its shape on the images' size."""
    for name in ("resnet18", "densenet121"):
        plain, coded = (
            mask_sites(small_model(name, "0.5-Bottom@paper", thermometer=n)) for n in (0, 6)
        )
        assert list(plain) == list(coded)
        assert all(torch.equal(plain[site], coded[site]) for site in plain)


def test_a_file_gives_the_network_back(small_model, randomise, tmp_path):
    model = randomise(small_model("resnet18", "0.5-Bottom", thermometer=16))
    save_model(model, tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.spec == model.spec and loaded.spec.thermometer == 16
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(images), model(images))
    assert "thermometer=16" in repr(loaded)
    reset_weights(loaded, 5)
    fresh = small_model("resnet18", seed=5, thermometer=16)
    assert torch.equal(loaded.stem.conv.weight, fresh.stem.conv.weight)


def test_a_description_without_the_field_is_of_a_network_without(small_model):
    """So older files load, and hashes of what they describe stay what they were."""
    spec = small_model("resnet18").spec
    values = json.loads(json.dumps(spec.as_dict()))
    assert "thermometer" not in values
    assert ModelSpec.from_dict(values) == spec and spec.thermometer == 0
    assert ModelSpec.from_dict(values | {"thermometer": 0}) == spec
    coded = ModelSpec.from_dict(values | {"thermometer": 8})
    assert coded.as_dict()["thermometer"] == 8 and coded != spec
    assert (spec.input_channels, coded.input_channels) == (3, 24)
    # Nothing else became optional.
    for name in values:
        with pytest.raises(UserError, match=f"lacks {name}"):
            ModelSpec.from_dict({k: v for k, v in values.items() if k != name})


@pytest.mark.parametrize("levels", [1, -1, 2.0, True, "16", None])
def test_no_such_number_of_levels(levels):
    with pytest.raises(UserError, match="thermometer is"):
        create_model("resnet18", width=4, thermometer=levels)


def test_codes_that_do_not_fit_are_refused(small_model):
    with refused("no thermometer encoding", "thermometer=16"):
        small_model("vgg19").forward_encoded(torch.zeros(1, 48, 32, 32))
    with pytest.raises(ValueError, match=r"expected \[N,12,32,32\]: 4 levels for each of 3"):
        small_model("vgg19", thermometer=4).forward_encoded(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="created for in_channels=3"):
        small_model("vgg19", thermometer=4)(torch.zeros(1, 12, 32, 32))


def test_attacks_by_the_pixels_gradient_are_warned_of(small_model, randomise):
    """PGD runs, does not move a pixel, and says why; so do the flags of an evaluation."""
    model = randomise(small_model("resnet18", thermometer=8))
    images = torch.rand(3, 3, 32, 32)
    labels = model(images).argmax(1)
    with pytest.warns(RuntimeWarning, match="no gradient for the pixels.*ls-pga"):
        found = pgd(model, images, labels, 8 / 255, 2 / 255, 2)
    assert torch.equal(found, images)
    with pytest.warns(RuntimeWarning):
        flags = sanity_flags(model, images, labels)
    assert len(flags) == 1 and "gradient for the pixels is zero for 3 of 3 images" in flags[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(images)
        with torch.no_grad():
            model(images.clone().requires_grad_())


def test_a_soft_code_is_compiled_in_one_graph():
    weights = torch.rand(2, 3, 4, 8, 8).softmax(2)
    compiled = torch.compile(soft_code, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(weights), soft_code(weights))
