"""PGD: its exact value where one is known, and what its options do."""

import pytest
import torch
import torch.nn.functional as F
from scotoma.defective.attacks import PGD, Status, pgd
from scotoma.defective.attacks.norms import L2

EPS, STEP = 8 / 255, 2 / 255
ROUNDING = 1e-6  # the ball in float32


@pytest.fixture
def model(small_model, randomise):
    return randomise(small_model("resnet18"))


@pytest.fixture
def images():
    """With many pixels at the borders of the box, so that clipping matters."""
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(8, 3, 32, 32, generator=generator) * 1.5 - 0.25).clamp(0, 1)


class Linear(torch.nn.Module):
    """Two classes, logits linear in the pixels: the gradient is the same everywhere."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = torch.nn.Parameter(torch.randn(2, 3 * 4 * 4, generator=generator))
        self.eval()

    def forward(self, pixels):
        return pixels.flatten(1) @ self.weight.T


LABELS = torch.tensor([0, 1, 1, 0])


def linear():
    """The model, images, and the gradient of each but for its length."""
    model, images = Linear(), torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    weight = model.weight.detach()
    return model, images, (weight[1 - LABELS] - weight[LABELS]).view_as(images)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_exact_result_on_a_linear_model(steps):
    """min(steps * step, eps) along sign(w_other - w_true), clipped to [0,1]."""
    model, images, gradient = linear()
    expected = (images + min(steps * 0.02, 0.1) * gradient.sign()).clamp(0, 1)
    found = pgd(model, images, LABELS, 0.1, 0.02, steps)
    torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING)


def test_euclidean_steps_on_a_linear_model():
    """steps * step along the gradient until the ball ends."""
    model, images, gradient = linear()
    images = images * 0.2 + 0.4
    direction = gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    for steps, length in ((1, 0.1), (2, 0.2), (5, 0.25)):
        found = pgd(model, images, LABELS, 0.25, 0.1, steps, norm="l2")
        expected = images + length * direction
        torch.testing.assert_close(found, expected, rtol=0, atol=3 * ROUNDING)


def test_random_start_is_uniform_in_the_ball(model):
    """One step too small to matter shows the start: mean 0, variance eps^2 / 3."""
    images, labels = torch.full((8, 3, 32, 32), 0.5), torch.zeros(8, dtype=torch.int64)
    found = pgd(model, images, labels, 0.1, 1e-7, 1, random_start=True, keys=torch.arange(8))
    delta = (found - images).double() / 0.1
    n = delta.numel()
    assert 0.99 < delta.abs().max() <= 1 + 1e-4
    assert abs(delta.mean().item()) < 5 * (1 / 3 / n) ** 0.5
    assert abs(delta.square().mean().item() - 1 / 3) < 5 * (4 / 45 / n) ** 0.5


@pytest.mark.parametrize("most", [2, 6])
def test_stopping_when_fooled_is_the_first_fooling_step(model, images, most):
    """Each image as far as it has to go, and no pass after that; the others all the way."""
    labels = model(images).argmax(1)
    labels[2] = (labels[2] + 1) % 10
    steps = [pgd(model, images, labels, EPS, STEP / 6, n) for n in range(1, most + 1)]
    fooled = torch.stack([model(x).argmax(1) != labels for x in [images, *steps]])
    attack = PGD(eps=EPS, step=STEP / 6, steps=most, stop_when_fooled=True)
    result = attack(model, images, labels)
    for row in range(8):
        # Whether the last step fools is seen by the verdict alone.
        first = next((n for n in range(most) if fooled[n, row]), most)
        expected = images[row] if first == 0 else steps[first - 1][row]
        # The batch shrinks, and with it the order of a convolution's sums may change.
        assert (result.images[row] - expected).abs().max() < 1e-3
        assert result.forwards[row] == min(first + 1, most)
    assert result.forwards[2] == 1
    assert len(result.forwards.unique()) > (2 if most == 6 else 1)
    assert (result.status == Status.RESISTED).any() == (most == 2)
    assert torch.equal(result.forwards, result.backwards)


def test_restarts_are_never_easier_for_the_model(model, images):
    labels = model(images).argmax(1)
    fooled, losses = [], []
    for restarts in (1, 2, 6):
        attack = PGD(eps=EPS / 16, step=EPS / 64, steps=2, random_start=True, restarts=restarts)
        result = attack(model, images, labels)
        fooled.append(result.fooled)
        losses.append(F.cross_entropy(model(result.images), labels, reduction="none"))
    assert (fooled[1] >= fooled[0]).all() and (fooled[2] >= fooled[1]).all()
    resisted = ~fooled[2]
    assert resisted.any() and (losses[2] >= losses[0] - 1e-5)[resisted].all()
    assert (losses[2] > losses[0] + 1e-5)[resisted].any()


def test_fooled_images_take_no_further_restart(model, images):
    labels = model(images).argmax(1)
    labels[:3] = (labels[:3] + 1) % 10
    attack = PGD(eps=EPS / 8, step=STEP / 8, steps=2, random_start=True, restarts=4)
    result = attack(model, images, labels)
    # A start of two steps and its judgement: three forward passes and two backward.
    assert (result.forwards[:3] == 3).all() and (result.backwards[:3] == 2).all()
    resisted = result.status == Status.RESISTED
    assert resisted.any() and (result.forwards[resisted] == 12).all()


class Regions(torch.nn.Module):
    """Dark images are nearly lost and bright ones fooled, at a smaller loss; flat everywhere."""

    def forward(self, pixels):
        nearly = torch.tensor([0.1, 0.0, 0.0])  # cross entropy 1.03 for class 0, which is right
        fooled = torch.tensor([0.0, 0.1, -9.0])  # 0.74, and wrong
        bright = pixels.mean((1, 2, 3))[:, None] > 0.5
        return torch.where(bright, fooled, nearly) + 0 * pixels.sum((1, 2, 3))[:, None]


@pytest.mark.filterwarnings("ignore:the gradient for the pixels")
def test_a_restart_that_fools_wins_whatever_its_loss():
    images, labels = torch.full((16, 1, 1, 1), 0.5), torch.zeros(16, dtype=torch.int64)
    once = PGD(eps=0.1, step=0.01, steps=1, random_start=True)
    attack = PGD(eps=0.1, step=0.01, steps=1, random_start=True, restarts=16)
    first = once(Regions().eval(), images, labels, torch.arange(16))
    assert 0 < int(first.fooled.sum()) < 16
    assert attack(Regions().eval(), images, labels, torch.arange(16)).fooled.all()


def test_a_euclidean_start_is_uniform_in_volume():
    """The share of the volume nearer than a point is uniform, and no direction is special."""
    images = torch.full((4000, 3, 2, 2), 0.5, dtype=torch.float64)
    delta = (L2.random(images, 0.3, torch.arange(4000), 0, 0) - images).flatten(1) / 0.3
    inside = delta.norm(dim=1) ** 12
    assert inside.max() <= 1 + 1e-9
    for moment in (1, 2):  # of a uniform number: 1 / (moment + 1)
        assert abs((inside**moment).mean() - 1 / (moment + 1)) < 5 * 0.3 / 4000**0.5
    assert (delta.mean(0).abs() < 5 * delta.std() / 4000**0.5).all()
