"""Networks from outside: images in, logits out, and every refused request."""

import math

import pytest
import torch
from products import slow
from refusals import refused
from scotoma.defective import UserError, create_model, mask_sites, model_names
from scotoma.kernels import backends

NAMES = model_names()
CIFAR_STATISTICS = ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])
IMAGENET_STATISTICS = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
EACH = pytest.mark.parametrize("name", NAMES)


@pytest.mark.parametrize("channels, size", [(1, 28), (3, 64), slow(3, 224)])
@EACH
def test_forward_and_backward(small_model, name, channels, size):
    """Logits are finite, differ between images, and every parameter gets a gradient."""
    defects = "0.5-Bottom,0.5-Top"
    model = small_model(name, defects, num_classes=7, in_channels=channels, image_size=size)
    logits = model(torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, 7) and logits.isfinite().all()
    assert not torch.equal(logits[0], logits[1])
    logits.square().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()


@EACH
def test_images_do_not_mix_and_the_memory_format_changes_nothing(small_model, randomise, name):
    """In evaluation."""
    model = randomise(small_model(name)).double()
    images = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    together = model(images)
    torch.testing.assert_close(together[2:3], model(images[2:3]), rtol=1e-9, atol=1e-9)
    assert (together[2] - together[0]).abs().max() > 1e-3
    last = model.to(memory_format=torch.channels_last)
    found = last(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, together, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@EACH
def test_another_image_size(small_model, name):
    """Masks fit one; without any, convolutions and a global mean take others; but pooling may
    leave nothing."""
    for defects in ("0.5-Bottom", "0.5-Bottom@paper"):
        model = small_model(name, defects)
        for size in (28, 31, 64):
            with pytest.raises(ValueError, match="masks fit one image size"):
                model(torch.rand(2, 3, size, size))
    model = small_model(name, "standard").eval()
    assert model(torch.rand(2, 3, 40, 60)).shape == (2, 10)
    with pytest.raises(ValueError, match="smaller images may be pooled to nothing"):
        model(torch.rand(2, 3, 40, 28))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 32, 32, dtype=torch.float64), r"float64.*pixels\.to\(torch\.float32\)"),
        # They would be taken for pixels of 0 to 255.
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), r"uint8.*pixels\.float\(\) / 255"),
        (torch.zeros(1, 1, 32, 32), r"\[1, 1, 32, 32\].*created for in_channels=3"),
        (torch.zeros(2, 32, 32, 3), r"\[2, 32, 32, 3\].* expected \[N,3,32,32\]"),
        (torch.zeros(3, 32, 32), r"write pixels\[None\]"),
        (torch.zeros(3), "a batch has four dimensions"),
        ([0.5], "pixels is a list"),
    ],
)
@pytest.mark.parametrize("defects", ["standard", "0.5-Bottom"])
def test_the_reason_of_a_refusal_is_the_true_one(small_model, defects, images, message):
    with pytest.raises(ValueError, match=message):
        small_model("resnet18", defects)(images)


def test_types_that_the_weights_can_take(small_model):
    """Narrower pixels are widened; autocast takes both."""
    images = torch.rand(1, 3, 32, 32)
    model = small_model("resnet18", "standard").eval()
    assert model(images.half()).dtype == torch.float32
    with torch.autocast("cpu"):
        assert model.bfloat16()(images).isfinite().all()
    with pytest.raises(ValueError, match=r"weights torch\.bfloat16"):
        model(images)


def test_a_network_says_what_it_is(small_model):
    text = repr(small_model("resnet18", "0.3-Bottom", mask_seed=7))
    assert "resnet18, defects=0.3-Bottom, width=4, image_size=32, mask_seed=7" in text
    assert "keeps 0.3 of [4, 32, 32]" in text
    assert "keeps" not in repr(small_model("resnet18", "standard"))
    assert "keeps 0.3 of" in repr(small_model("densenet121", "0.3-Bottom@paper"))


@pytest.mark.parametrize(
    "options, mean, std",
    [
        ({}, *CIFAR_STATISTICS),
        ({"image_size": 64}, *CIFAR_STATISTICS),
        ({"in_channels": 1, "image_size": 28}, [0.1307], [0.3081]),
        ({"image_size": 224}, *IMAGENET_STATISTICS),
        # One that is given counts; only the other is the data set's.
        ({"mean": (0.1, 0.2, 0.3)}, [0.1, 0.2, 0.3], CIFAR_STATISTICS[1]),
        ({"std": (0.4, 0.5, 0.6)}, CIFAR_STATISTICS[0], [0.4, 0.5, 0.6]),
    ],
)
def test_statistics_of_the_data_set(small_model, options, mean, std):
    model = small_model("vgg19", **options)
    torch.testing.assert_close(model.mean.flatten(), torch.tensor(mean))
    torch.testing.assert_close(model.std.flatten(), torch.tensor(std))


@EACH
def test_normalisation_is_inside(small_model, randomise, name):
    """A network of mean 0, std 1 with the same weights, fed with images normalised by hand."""
    model = randomise(small_model(name)).double()
    plain = small_model(name, mean=(0, 0, 0), std=(1, 1, 1)).double().eval()
    own = {"mean": plain.mean.clone(), "std": plain.std.clone()}
    plain.load_state_dict(model.state_dict() | own)
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    # The buffers are float32 numbers, also in a float64 network.
    mean, std = (torch.tensor(values).double().view(3, 1, 1) for values in CIFAR_STATISTICS)
    torch.testing.assert_close(model(images), plain((images - mean) / std), rtol=1e-9, atol=1e-9)
    assert (model(images) - plain(images)).abs().max() > 0.05


@EACH
def test_initialisation(name):
    """Batch norms are the identity: no zero gamma in the last of a block. Convolutions are torch's,
    Kaiming-uniform with a = sqrt(5), which is uniform in +-1/sqrt(fan_in); those of wrn32_4 are
    normal of std sqrt(2 / (k k C_out)). Moments lie within 5 standard errors."""
    torch.manual_seed(0)
    for site, module in create_model(name, width=None if name == "wrn32_4" else 16).named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
            assert (module.running_mean == 0).all() and (module.running_var == 1).all()
            assert module.eps == 1e-5 and module.momentum == 0.1
        if not isinstance(module, torch.nn.Conv2d):
            continue
        weight = module.weight.detach().double()
        n = weight.numel()
        if name == "wrn32_4":
            expected = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
            assert abs(weight.std().item() / expected - 1) < 5 / math.sqrt(2 * n), site
            assert abs(weight.mean().item()) < 5 * expected / math.sqrt(n), site
            # Normal, not uniform: a kurtosis of 3 (uniform 1.8) where there are values enough.
            kurtosis = (weight**4).mean().item() / weight.var().item() ** 2
            assert n < 10_000 or abs(kurtosis - 3) < 5 * math.sqrt(24 / n), site
        else:
            bound = 1 / math.sqrt(weight[0].numel())
            assert weight.abs().max().item() <= bound * (1 + 1e-6), site
            # The square of a uniform variable has mean 1/3 and variance 4/45.
            square = (weight / bound).square().mean().item()
            assert abs(square - 1 / 3) < 5 * math.sqrt(4 / 45 / n), site


@pytest.mark.parametrize(
    "wrong, right",
    [
        ("resnet-18", "resnet18"),
        ("ResNet18", "resnet18"),
        ("resnet5", "resnet50"),
        ("densenet", "densenet121"),
        ("senet", "senet18"),
        ("vgg16", "vgg19"),
        ("wrn32x4", "wrn32_4"),
    ],
)
def test_unknown_architecture_suggests_the_nearest(wrong, right):
    with refused(repr(wrong), f"Did you mean {right!r}?", *NAMES):
        create_model(wrong)
    with pytest.raises(UserError, match=r"'qqqq' is unknown.*wrn32_4\.$"):  # too far from any
        create_model("qqqq")


# Arguments, and words of the message.
REFUSED = [
    ({"name": ["resnet18"]}, "is unknown"),
    ({"name": "resnet50", "defects": "0.5-BottomDC"}, "resnet50", "DC", "resnet18", "CM"),
    ({"name": "vgg19", "defects": "0.5-Bottomx2"}, "vgg19", "x2", "resnet18"),
    ({"defects": "0.5-{5}"}, "resnet18", "block 5", "[0, 1, 2, 3, 4]"),
    ({"name": "wrn32_4", "defects": "0.5-{4}"}, "wrn32_4", "block 4", "[0, 1, 2, 3]"),
    (
        {"name": "senet18", "defects": "0.5-{0}"},
        *("senet18", "block 0", "'release'", "[1, 2, 3, 4]"),
    ),
    ({"defects": "0.5-Bottom,0.3-{2,3}"}, "block 2", "0.5-Bottom", "0.3-{2,3}"),
    ({"defects": "0.5-Bttom"}, "'0.5-Bttom'", "position 5"),
    ({"width": 0}, "width is 0", "at least 1"),
    ({"width": 8.0}, "width is 8.0", "integer"),
    ({"num_classes": -1}, "num_classes is -1", "at least 1"),
    ({"in_channels": 0}, "in_channels is 0", "at least 1"),
    ({"in_channels": 2.5}, "in_channels is 2.5"),
    ({"image_size": 4}, "image_size is 4", "at least 8"),
    ({"image_size": (40, 60)}, "image_size is (40, 60)", "images are square"),
    ({"mask_seed": -1}, "mask_seed is -1", "at least 0"),
    ({"mask_seed": None}, "mask_seed is None"),
    ({"sites": "papers"}, "sites is 'papers'", "release, paper", "'paper'"),
    (
        {"regularizer": "dropout"},
        *("regularizer is 'dropout'", "spatial-dropout", "dropblock", "Did you mean"),
    ),
    (
        {"name": "vgg19", "regularizer": "dropblock"},
        *("regularizer is 'dropblock'", "vgg19", "resnet18, resnet50, wrn32_4"),
    ),
    ({"stem": "5x5"}, "stem is '5x5'", "3x3, 7x7"),
    ({"stem": "7x7"}, "stem is '7x7'", "32", "stem='3x3'"),
    ({"mean": 0.5}, "mean is 0.5"),
    ({"mean": (0.5,), "std": (0.2,)}, "mean is [0.5]", "in_channels = 3"),
    ({"mean": (0, 0, math.inf), "std": (1, 1, 1)}, "mean is [0.0, 0.0, inf]", "finite"),
    ({"std": ("a", 1, 1)}, "std is"),
    ({"mean": (0, 0, 0), "std": (1, 0, 1)}, "std is [1.0, 0.0, 1.0]", "positive"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[1])
def test_refused(case):
    arguments, *words = case
    with refused(*words):
        create_model(**{"name": "resnet18"} | arguments)


@EACH
def test_odd_image_sizes(small_model, name):
    """Masks fit whatever the strides make of the size."""
    for size in (9, 31):
        model = small_model(name, "0.5-Bottom,0.5-Top", image_size=size).eval()
        assert model(torch.rand(1, 3, size, size)).isfinite().all()


@EACH
def test_the_environments_backend_changes_no_network(small_model, name, monkeypatch):
    """Masks are drawn by the shapes of a pass on the meta device, where no kernel runs."""
    expected = small_model(name, "0.3-Bottom,0.5-Top")
    monkeypatch.setattr(backends, "_default", "triton")
    model = small_model(name, "0.3-Bottom,0.5-Top")
    for site, mask in mask_sites(expected).items():
        assert torch.equal(mask, model.get_submodule(site).mask)
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(model.double()(images), expected.double()(images))
