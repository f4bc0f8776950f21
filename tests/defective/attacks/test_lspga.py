"""LS-PGA: the steps as written down by hand, the ball, its strength, and whom it refuses."""

import math

import pytest
import torch
from fitted_networks import pixels, sample
from products import slow
from refusals import refused
from scotoma.defective import Ensemble
from scotoma.defective.attacks import Oracle, Status, draws, pgd
from scotoma.defective.attacks.lspga import LSPGA, lspga, thermometer_levels
from scotoma.defective.thermometer import bins

LEVELS = 8


@pytest.fixture(scope="module")
def trained(small_model):
    """A small network that has learnt the sample in a moment, in evaluation mode."""
    data = sample()
    model = small_model("resnet18", "standard", image_size=28, in_channels=1, thermometer=LEVELS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=60)
    for start in range(0, 6000, 100):
        images = pixels(data.train.images[start : start + 100])
        labels = data.train.labels[start : start + 100]
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="module")
def batch():
    data = sample()
    return pixels(data.test.images[:120]), data.test.labels[:120]


def accuracy(model, images, labels):
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


def by_hand(model, images, labels, attack, keys):
    """The algorithm, level by level, in numbers of one pixel at a time."""
    shape = (1, LEVELS, 28, 28)
    logits = draws.normal(keys, attack.seed, 0, shape, images.dtype)
    number = torch.arange(LEVELS).view(LEVELS, 1, 1)
    low, high = images.unsqueeze(2) - attack.eps, images.unsqueeze(2) + attack.eps
    own = bins(images, LEVELS).unsqueeze(2) == number
    allowed = ((number + 1) / LEVELS > low) & (number / LEVELS <= high) | own
    for step in range(attack.steps):
        temperature = attack.temperature / attack.annealing**step
        free = logits.clone().requires_grad_()
        odds = torch.exp(free / temperature) * allowed
        chances = odds / odds.sum(2, keepdim=True)
        code = [chances[:, :, k:].sum(2) for k in range(LEVELS)]
        outputs = model.forward_encoded(torch.stack(code, 2).flatten(1, 2))
        entropy = torch.nn.functional.cross_entropy(outputs, labels, reduction="sum")
        (gradient,) = torch.autograd.grad(entropy, free)
        logits = logits + attack.step * gradient.sign()
    return torch.where(allowed, logits, -math.inf).argmax(2)


@pytest.mark.parametrize(
    "settings",
    [
        {"eps": 0.1, "steps": 1},
        slow({"eps": 0.1, "steps": 4, "seed": 3}),
        {"eps": 0.2, "steps": 3, "step": 0.3, "temperature": 0.5, "annealing": 1.7},
    ],
)
def test_the_levels_are_those_of_the_algorithm(trained, batch, settings):
    images, labels = batch[0][:5].double(), batch[1][:5]
    # Away from the edges of bins, of which the hand has another opinion.
    images = (images * 0.96 + 0.0123).clamp(0, 1)
    attack, model = LSPGA(**settings), trained.double()
    try:
        keys = torch.arange(5)
        found = attack.images(model, images, labels, keys)
        expected = by_hand(model, images, labels, attack, keys)
        agree = bins(found, LEVELS) == expected
        # Where the picture's rim has no say, a gradient's sign is rounding.
        assert agree.double().mean() > 0.999
        moved = bins(found, LEVELS) != bins(images, LEVELS)
        assert moved.double().mean() > 0.2
        assert torch.equal(found[~moved], images[~moved]), "a pixel moved within its bin"
    finally:
        trained.float()


@pytest.mark.parametrize("eps", [1 / 255, slow(8 / 255), slow(0.1), 0.5])
def test_no_pixel_moves_further_than_eps(trained, batch, eps):
    images, labels = batch[0][:20], batch[1][:20]
    found = lspga(trained, images, labels, eps, 2)
    assert (found - images).abs().max() <= torch.tensor(eps)
    assert found.min() >= 0 and found.max() <= 1
    assert (found != images).any()
    assert found.shape == images.shape and found.dtype == images.dtype


@pytest.mark.filterwarnings("ignore:the gradient for the pixels")
def test_pixels_that_reach_no_other_level_stay(trained):
    """All in the middle of bins, which are 1/8 wide."""
    images = (torch.randint(0, LEVELS, (4, 1, 28, 28)) + 0.5) / LEVELS
    labels = trained(images).argmax(1)
    assert torch.equal(lspga(trained, images, labels, 0.06, 3), images)
    assert not torch.equal(lspga(trained, images, labels, 0.065, 3), images)


@pytest.mark.filterwarnings("ignore:the gradient for the pixels")
def test_it_is_stronger_than_chance_and_than_pgd(trained, batch):
    """Random levels and random signs within the same ball; PGD, which gets no gradient."""
    images, labels = batch
    eps, generator = 0.15, torch.Generator().manual_seed(0)
    clean = accuracy(trained, images, labels)
    assert clean > 0.6
    noise = torch.rand(images.shape, generator=generator) * 2 - 1
    uniform = accuracy(trained, (images + eps * noise).clamp(0, 1), labels)
    signs = accuracy(trained, (images + eps * noise.sign()).clamp(0, 1), labels)
    # The attack's own random start: no step to speak of, so that levels stay random.
    start = lspga(trained, images, labels, eps, 1, step=1e-6)
    with pytest.warns(RuntimeWarning, match="ls-pga"):
        blind = accuracy(trained, pgd(trained, images, labels, eps, eps / 4, 7), labels)
    attacked = accuracy(trained, lspga(trained, images, labels, eps), labels)
    assert blind == clean
    assert attacked < min(uniform, signs, accuracy(trained, start, labels)) - 0.2
    assert attacked < 0.25 * clean


def test_annealing_and_steps_help(trained, batch):
    images, labels = batch
    # Weights differ a little between processors; here the steps are worth about 0.19.
    robust = [accuracy(trained, lspga(trained, images, labels, 0.1, n), labels) for n in (1, 10)]
    assert robust[1] < robust[0] - 0.1


def test_passes_are_counted_and_results_judged(trained, batch):
    images, labels = batch[0][:30], batch[1][:30]
    found, result = lspga(trained, images, labels, 0.1, 3, details=True)
    assert (result.forwards == 3).all() and (result.backwards == 3).all()
    assert torch.equal(found, result.images)
    wrong = trained(images).argmax(1) != labels
    assert torch.equal(result.status == Status.MISCLASSIFIED, wrong)
    assert result.fooled.sum() > 5 and (result.status == Status.RESISTED).any()
    assert all(p.grad is None and p.requires_grad for p in trained.parameters())


def test_half_precision_passes_find_about_the_same(trained, batch):
    images, labels = batch
    exact = accuracy(trained, lspga(trained, images, labels, 0.05), labels)
    oracle = Oracle(trained, torch.bfloat16)
    found = LSPGA(eps=0.05).images(oracle, images, labels)
    assert found.dtype == torch.float32
    assert accuracy(trained, found, labels) == pytest.approx(exact, abs=0.1)


@pytest.mark.filterwarnings("ignore:the gradient for the pixels")
def test_very_many_steps_do_not_overflow(trained, batch):
    images, labels = batch[0][:2], batch[1][:2]
    attack = LSPGA(eps=0.1, steps=60, annealing=1e6, temperature=1e-30)
    found = attack.images(trained, images, labels)
    assert found.isfinite().all() and (found - images).abs().max() <= 0.1


def test_models_without_levels_are_refused(trained, batch, small_model):
    plain = small_model("resnet18", image_size=28, in_channels=1).eval()
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10)).eval()
    for model in (plain, Ensemble([trained, trained]), linear):
        with refused("this model has none: attack it with pgd"):
            lspga(model, *(t[:2] for t in batch), 0.1)
    assert thermometer_levels(trained) == LEVELS


def test_bad_models_and_labels_are_refused(trained, batch, small_model):
    """As by every other attack, also where no verdict is asked for."""
    images, labels = batch[0][:3], batch[1][:3]
    with refused("labels has 10; the model has 10 classes"):
        lspga(trained, images, torch.tensor([1, 2, 10]), 0.1)
    broken = small_model("resnet18", image_size=28, in_channels=1, thermometer=LEVELS).eval()
    broken.head.bias.data.fill_(math.nan)
    with refused("logits are not finite"):
        lspga(broken, images, labels, 0.1)
    with refused("training mode"):
        lspga(broken.train(), images, labels, 0.1)


def test_a_gradient_that_is_not_finite_is_refused(trained, batch, monkeypatch):
    """Logits may be finite all the same: a root at zero has an infinite slope."""
    original = trained.forward_encoded

    def rooted(code):
        return original(code) + (code.flatten(1).sum(1, keepdim=True) * 0).sqrt()

    monkeypatch.setattr(trained, "forward_encoded", rooted)
    with refused("was not finite for 3 of 3 images"):
        lspga(trained, *(t[:3] for t in batch), 0.1)
