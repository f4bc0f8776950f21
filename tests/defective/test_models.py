"""Networks from outside: images in, logits out, and every refused request."""

import math
import os
import subprocess
import sys

import pytest
import torch
from scotoma.defective import UserError, create_model, mask_sites, model_names
from scotoma.kernels import backends

NAMES = model_names()
CIFAR_STATISTICS = ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])
IMAGENET_STATISTICS = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.mark.parametrize("channels, size", [(3, 32), (1, 28), (3, 64), (3, 224)])
@pytest.mark.parametrize("name", NAMES)
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


@pytest.mark.parametrize("name", NAMES)
def test_images_do_not_mix_in_evaluation(small_model, randomise, name):
    model = randomise(small_model(name)).double()
    images = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    together = model(images)
    torch.testing.assert_close(together[2:3], model(images[2:3]), rtol=1e-9, atol=1e-9)
    assert (together[2] - together[0]).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_changes_nothing(small_model, randomise, name):
    model = randomise(small_model(name)).double()
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    expected = model(images)
    last = model.to(memory_format=torch.channels_last)
    found = last(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("defects", ["0.5-Bottom", "0.5-Bottom@paper"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [28, 31, 64])
def test_another_image_size_is_refused(small_model, name, size, defects):
    with pytest.raises(ValueError, match="masks fit one image size"):
        small_model(name, defects)(torch.rand(2, 3, size, size))


@pytest.mark.parametrize("name", NAMES)
def test_another_image_size_without_masks(small_model, name):
    """Convolutions and a global mean take any size; but pooling may leave nothing."""
    model = small_model(name, "standard").eval()
    assert model(torch.rand(2, 3, 40, 60)).shape == (2, 10)
    with pytest.raises(ValueError, match="smaller images may be pooled to nothing"):
        model(torch.rand(2, 3, 40, 28))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 32, 32, dtype=torch.float64), r"float64.*pixels\.to\(torch\.float32\)"),
        (torch.zeros(1, 1, 32, 32), "created for in_channels=3"),
        (torch.zeros(3, 32, 32), r"write pixels\[None\]"),
        (torch.zeros(3), "a batch has four dimensions"),
        ([0.5], "pixels is a list"),
    ],
)
def test_the_reason_of_a_refusal_is_the_true_one(small_model, images, message):
    with pytest.raises(ValueError, match=message):
        small_model("resnet18", "standard")(images)


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
    ("arguments", "message"),
    [
        ({"image_size": (40, 60)}, r"image_size is \(40, 60\).*images are square"),
        ({"in_channels": 2.5}, "in_channels is 2.5"),
        ({"mask_seed": None}, "mask_seed is None"),
        ({"mean": 0.5}, "mean is 0.5"),
        ({"std": ("a", 1, 1)}, "std is"),
        ({"name": ["resnet18"]}, "is unknown"),
    ],
)
def test_arguments_of_another_kind(arguments, message):
    with pytest.raises(UserError, match=message):
        create_model(**({"name": "resnet18", "width": 4} | arguments))


def test_bytes_are_not_pixels(small_model):
    """uint8 images would be taken for pixels of 0 to 255."""
    with pytest.raises(ValueError, match=r"uint8.*pixels\.float\(\) / 255"):
        small_model("vgg19")(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize("defects", ["standard", "0.5-Bottom"])
@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 4, 32, 32), (3, 32, 32), (2, 32, 32, 3)])
def test_another_number_of_channels_is_refused(small_model, shape, defects):
    with pytest.raises(ValueError) as error:
        small_model("resnet18", defects)(torch.rand(shape))
    assert str(list(shape)) in str(error.value)
    assert "expected [N,3,32,32]" in str(error.value)


@pytest.mark.parametrize(
    "channels, size, mean, std",
    [
        (3, 32, *CIFAR_STATISTICS),
        (3, 64, *CIFAR_STATISTICS),
        (1, 28, [0.1307], [0.3081]),
        (3, 224, *IMAGENET_STATISTICS),
    ],
)
def test_statistics_of_the_data_set(small_model, channels, size, mean, std):
    model = small_model("vgg19", in_channels=channels, image_size=size)
    torch.testing.assert_close(model.mean.flatten(), torch.tensor(mean))
    torch.testing.assert_close(model.std.flatten(), torch.tensor(std))


@pytest.mark.parametrize("name", NAMES)
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


@pytest.mark.parametrize("given", [{"mean": (0.1, 0.2, 0.3)}, {"std": (0.4, 0.5, 0.6)}])
def test_mean_or_std_may_be_given_alone(small_model, given):
    """The one that is given counts; only the other is the data set's."""
    model = small_model("vgg19", **given)
    mean, std = CIFAR_STATISTICS
    expected = {"mean": mean, "std": std} | {k: list(v) for k, v in given.items()}
    torch.testing.assert_close(model.mean.flatten(), torch.tensor(expected["mean"]))
    torch.testing.assert_close(model.std.flatten(), torch.tensor(expected["std"]))


def convolutions(model):
    return [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d)]


def test_wide_resnet_initialisation():
    """Normal of std sqrt(2 / (k k C_out)), each convolution within 5 standard errors."""
    torch.manual_seed(0)
    model = create_model("wrn32_4")
    for name, conv in convolutions(model):
        weight = conv.weight.detach().double()
        expected = math.sqrt(2 / (conv.kernel_size[0] ** 2 * conv.out_channels))
        n = weight.numel()
        assert abs(weight.std().item() / expected - 1) < 5 / math.sqrt(2 * n), name
        assert abs(weight.mean().item()) < 5 * expected / math.sqrt(n), name
        # Normal, not uniform: a kurtosis of 3 (uniform 1.8) where there are values enough.
        if n > 10_000:
            kurtosis = (weight**4).mean().item() / weight.var().item() ** 2
            assert abs(kurtosis - 3) < 5 * math.sqrt(24 / n), name


@pytest.mark.parametrize("name", [n for n in NAMES if n != "wrn32_4"])
def test_other_networks_have_torchs_initialisation(name):
    """Kaiming-uniform with a = sqrt(5): uniform in +-1/sqrt(fan_in)."""
    torch.manual_seed(0)
    model = create_model(name, width=16)
    for site, conv in convolutions(model):
        weight = conv.weight.detach().double()
        bound = 1 / math.sqrt(weight[0].numel())
        assert weight.abs().max().item() <= bound * (1 + 1e-6), site
        # The square of a uniform variable has mean 1/3 and variance 4/45.
        square = (weight / bound).square().mean().item()
        assert abs(square - 1 / 3) < 5 * math.sqrt(4 / 45 / weight.numel()), site


@pytest.mark.parametrize("name", NAMES)
def test_batch_norms_start_as_the_identity(small_model, name):
    """No zero gamma in the last BN of a block."""
    for module in small_model(name).modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
            assert (module.running_mean == 0).all() and (module.running_var == 1).all()
            assert module.eps == 1e-5 and module.momentum == 0.1


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
    with pytest.raises(UserError) as error:
        create_model(wrong)
    assert repr(wrong) in str(error.value)
    assert f"Did you mean {right!r}?" in str(error.value)
    assert all(name in str(error.value) for name in NAMES)


def test_nothing_is_suggested_for_a_far_name():
    with pytest.raises(UserError) as error:
        create_model("qqqq")
    assert "Did you mean" not in str(error.value)


# arguments -> words of the message
REFUSED = {
    "DC elsewhere": (("resnet50", "0.5-BottomDC"), {}, ["resnet50", "DC", "resnet18", "CM"]),
    "x2 elsewhere": (("vgg19", "0.5-Bottomx2"), {}, ["vgg19", "x2", "resnet18"]),
    "no such block": (("resnet18", "0.5-{5}"), {}, ["resnet18", "block 5", "[0, 1, 2, 3, 4]"]),
    "three blocks": (("wrn32_4", "0.5-{4}"), {}, ["wrn32_4", "block 4", "[0, 1, 2, 3]"]),
    "clean stem": (("senet18", "0.5-{0}"), {}, ["senet18", "block 0", "'release'", "[1, 2, 3, 4]"]),
    "overlap": (("resnet18", "0.5-Bottom,0.3-{2,3}"), {}, ["block 2", "0.5-Bottom", "0.3-{2,3}"]),
    "notation": (("resnet18", "0.5-Bttom"), {}, ["'0.5-Bttom'", "position 5"]),
    "width": (("resnet18",), {"width": 0}, ["width is 0", "at least 1"]),
    "fractional width": (("resnet18",), {"width": 8.0}, ["width is 8.0", "integer"]),
    "classes": (("resnet18",), {"num_classes": -1}, ["num_classes is -1", "at least 1"]),
    "channels": (("resnet18",), {"in_channels": 0}, ["in_channels is 0", "at least 1"]),
    "image size": (("resnet18",), {"image_size": 4}, ["image_size is 4", "at least 8"]),
    "mask seed": (("resnet18",), {"mask_seed": -1}, ["mask_seed is -1", "at least 0"]),
    "sites": (
        ("resnet18",),
        {"sites": "papers"},
        ["sites is 'papers'", "release, paper", "'paper'"],
    ),
    "regularizer": (
        ("resnet18",),
        {"regularizer": "dropout"},
        ["regularizer is 'dropout'", "spatial-dropout", "dropblock", "Did you mean"],
    ),
    "regularizer elsewhere": (
        ("vgg19",),
        {"regularizer": "dropblock"},
        ["regularizer is 'dropblock'", "vgg19", "resnet18, resnet50, wrn32_4"],
    ),
    "stem": (("resnet18",), {"stem": "5x5"}, ["stem is '5x5'", "3x3, 7x7"]),
    "large stem": (("resnet18",), {"stem": "7x7"}, ["stem is '7x7'", "32", "stem='3x3'"]),
    "mean": (
        ("resnet18",),
        {"mean": (0.5,), "std": (0.2,)},
        ["mean is [0.5]", "in_channels = 3"],
    ),
    "infinite mean": (
        ("resnet18",),
        {"mean": (0, 0, math.inf), "std": (1, 1, 1)},
        ["mean is [0.0, 0.0, inf]", "finite"],
    ),
    "zero std": (
        ("resnet18",),
        {"mean": (0, 0, 0), "std": (1, 0, 1)},
        ["std is [1.0, 0.0, 1.0]", "positive"],
    ),
}


@pytest.mark.parametrize("arguments, options, words", REFUSED.values(), ids=REFUSED)
def test_refused(arguments, options, words):
    with pytest.raises(UserError) as error:
        create_model(*arguments, **options)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("size", [8, 9, 17, 31, 45])
@pytest.mark.parametrize("name", NAMES)
def test_odd_image_sizes(small_model, name, size):
    """Masks fit whatever the strides make of the size."""
    model = small_model(name, "0.5-Bottom,0.5-Top", image_size=size).eval()
    assert model(torch.rand(1, 3, size, size)).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_the_environments_backend_changes_no_network(small_model, name, monkeypatch):
    """Masks are drawn by the shapes of a pass on the meta device, where no kernel runs."""
    expected = small_model(name, "0.3-Bottom,0.5-Top")
    monkeypatch.setattr(backends, "_default", "triton")
    model = small_model(name, "0.3-Bottom,0.5-Top")
    for site, mask in mask_sites(expected).items():
        assert torch.equal(mask, model.get_submodule(site).mask)
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(model.double()(images), expected.double()(images))


@pytest.mark.parametrize("interpreted", ["0", "1"])
def test_networks_are_made_whatever_the_environment_prefers(interpreted):
    code = "from scotoma.defective import create_model; create_model('resnet18', '0.3-Bottom')"
    environment = {"SCOTOMA_BACKEND": "triton", "TRITON_INTERPRET": interpreted}
    subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, check=True, timeout=240
    )
