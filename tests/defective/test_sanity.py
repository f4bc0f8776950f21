"""Each flag from a model that has the fault, and silence from a sound one."""

import pytest
import torch
from refusals import refused
from scotoma.defective.robustness.sanity import sanity_flags
from torch import nn


def linear(scale=1.0):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    with torch.no_grad():
        model[1].weight *= scale
    return model.eval()


class Wrapped(nn.Module):
    """A sound model with something done to its pixels or its logits."""

    def __init__(self, before=lambda x: x, after=lambda z: z, scale=1.0):
        super().__init__()
        self.inner, self.before, self.after = linear(scale), before, after
        self.eval()

    def forward(self, pixels):
        return self.after(self.inner(self.before(pixels)))


@pytest.fixture
def images():
    return torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(1))


LABELS = torch.arange(8) % 5


@pytest.mark.parametrize("count", [1, 2, 8])
def test_a_sound_model_is_not_accused(images, count, small_model, randomise):
    assert sanity_flags(linear(), images[:count], LABELS[:count]) == []
    network = randomise(small_model("resnet18", image_size=8, in_channels=1))
    pixels = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    assert sanity_flags(network, pixels, LABELS[:count]) == []


def test_probabilities(images):
    (flag,) = sanity_flags(Wrapped(after=lambda z: z.softmax(1)), images, LABELS)
    assert flag.startswith("outputs look like probabilities")


def test_zero_gradients_of_some_images(images):
    """Steps without a slope for the three images that begin with a dark pixel."""
    images[:, 0, 0, 0] = torch.tensor([0.0, 0, 0, 1, 1, 1, 1, 1])

    def stepped(pixels):
        slope = pixels[:, :1, :1, :1].detach().round()
        return slope * pixels + (1 - slope) * (pixels * 4).round() / 4

    (flag,) = sanity_flags(Wrapped(before=stepped), images, LABELS)
    assert "zero for 3 of 8 images" in flag and "overstated" in flag


@pytest.mark.parametrize(
    "detached", [{"before": lambda x: x.detach()}, {"after": lambda z: z.detach()}]
)
def test_no_gradient_at_all(images, detached):
    (flag,) = sanity_flags(Wrapped(**detached), images, LABELS)
    assert "zero for 8 of 8 images" in flag


def test_saturated_logits(images):
    model = Wrapped(scale=1e4)
    with torch.no_grad():
        right = model(images).argmax(1)
    flags = sanity_flags(model, images, right)
    assert len([f for f in flags if "saturated for 8 of 8 images" in f]) == 1
    assert any("gradient" in f and "zero for" in f for f in flags)
    # Of images that are misclassified the cross entropy does not vanish.
    assert not any("saturated" in f for f in sanity_flags(model, images, (right + 1) % 5))


def test_pixels_that_count_for_nothing_and_confidence_are_no_faults(images):
    """A border without a gradient is not a zero gradient, nor a small entropy a saturated one."""
    cut = torch.ones(4, 4)
    cut[0] = 0
    model = Wrapped(before=lambda x: x * cut, scale=80)
    with torch.no_grad():
        logits = model(images)
    right = logits.argmax(1)
    losses = nn.functional.cross_entropy(logits, right, reduction="none")
    assert 0 < losses.min() < 1e-3
    assert sanity_flags(model, images, right) == []


@pytest.mark.parametrize("size", [0.1, 1e-3])
def test_randomness(images, size):
    generator = torch.Generator().manual_seed(3)

    def noisy(logits):
        return logits + size * torch.randn(logits.shape, generator=generator)

    (flag,) = sanity_flags(Wrapped(after=noisy), images, LABELS)
    assert flag.startswith("two passes of the same batch differ for 8 of 8 images")


@pytest.mark.parametrize("count", [1, 8])
def test_dependence_on_the_batch(images, count):
    centred = Wrapped(before=lambda x: x - 0.5 * x.mean(0))
    (flag,) = sanity_flags(centred, images[:count], LABELS[:count])
    assert "depend on the other images of the batch" in flag
    assert f"{min(count, 4)} of {min(count, 4)} images tried" in flag


def test_rounding_is_no_dependence(images):
    """What another kernel for another batch size would do."""

    def rounded(logits):
        return logits * (1 + 1e-6 * len(logits))

    assert sanity_flags(Wrapped(after=rounded), images, LABELS) == []


def test_values_that_are_not_finite(images):
    def broken(logits):
        return torch.where(torch.arange(len(logits))[:, None] < 2, logits / 0, logits)

    (flag,) = sanity_flags(Wrapped(after=broken), images, LABELS)
    assert "not finite for 2 of 8 images" in flag


def test_every_flag_is_one_line(images):
    flags = sanity_flags(Wrapped(after=lambda z: z.detach().softmax(1)), images, LABELS)
    assert len(flags) == 2 and not any("\n" in flag for flag in flags)


def test_the_model_is_left_as_it_was_and_bad_arguments_are_refused(images):
    model = linear()
    sanity_flags(model, images, LABELS)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    with refused("255"):
        sanity_flags(model, images * 255, LABELS)
    with refused("training mode"):
        sanity_flags(model.train(), images, LABELS)
