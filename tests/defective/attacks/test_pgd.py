"""PGD: what its result must satisfy, and its exact value where one is known."""

import pytest
import torch
import torch.nn.functional as F
from scotoma.defective import UserError
from scotoma.defective.attacks import PGD, Status, pgd
from scotoma.defective.attacks.norms import L2

EPS, STEP = 8 / 255, 2 / 255
ROUNDING = 1e-6  # the ball in float32


@pytest.fixture
def model(small_model, randomise):
    return randomise(small_model("resnet18"))


@pytest.fixture
def batch():
    """Images with many pixels at the borders of the box, so that clipping matters."""
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(8, 3, 32, 32, generator=generator) * 1.5 - 0.25).clamp(0, 1)
    return images, torch.randint(10, (8,), generator=generator)


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("eps, step, steps", [(EPS, STEP, 7), (EPS, 1.0, 2), (1.0, 0.3, 3)])
def test_stays_in_the_ball_and_the_box(model, batch, eps, step, steps, random_start):
    images, labels = batch
    found = pgd(model, images, labels, eps, step, steps, random_start)
    assert found.shape == images.shape and found.dtype == images.dtype
    assert (found - images).abs().max() <= eps + ROUNDING
    assert found.min() >= 0 and found.max() <= 1
    # Much of the ball is used.
    assert (found - images).abs().max() > 0.9 * min(eps, step * steps)


def test_increases_the_loss_of_every_image(model, batch):
    images, labels = batch
    before = F.cross_entropy(model(images), labels, reduction="none")
    after = F.cross_entropy(
        model(pgd(model, images, labels, EPS, STEP, 7)), labels, reduction="none"
    )
    assert (after > before).all()
    random = (images + EPS * (2 * torch.rand_like(images) - 1)).clamp(0, 1)
    noise = F.cross_entropy(model(random), labels, reduction="none")
    assert after.sum() - before.sum() > 5 * (noise.sum() - before.sum()).abs()


class Linear(torch.nn.Module):
    """Two classes, logits linear in the pixels: the gradient's sign is the same everywhere."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = torch.nn.Parameter(torch.randn(2, 3 * 4 * 4, generator=generator))

    def forward(self, pixels):
        return pixels.flatten(1) @ self.weight.T


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_exact_result_on_a_linear_model(steps):
    """min(steps * step, eps) along sign(w_other - w_true), clipped to [0,1]."""
    model, generator = Linear().eval(), torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 4, 4, generator=generator)
    labels = torch.tensor([0, 1, 1, 0])
    weight = model.weight.detach()
    direction = (weight[1 - labels] - weight[labels]).sign().view_as(images)
    expected = (images + min(steps * 0.02, 0.1) * direction).clamp(0, 1)
    found = pgd(model, images, labels, 0.1, 0.02, steps)
    torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_an_image_does_not_depend_on_its_batch(model, batch, size):
    """Bit for bit on a CPU: the loss is a sum, so no gradient is scaled by the batch's size."""
    images, labels = batch
    model = model.double()
    images = images.double()
    together = pgd(model, images, labels, EPS, STEP, 5)
    parts = [
        pgd(model, images[i : i + size], labels[i : i + size], EPS, STEP, 5)
        for i in range(0, 8, size)
    ]
    assert torch.equal(torch.cat(parts), together)


def test_result_is_plain_and_inputs_are_untouched(model, batch):
    images, labels = batch
    copies = images.clone(), labels.clone()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = pgd(model, images, labels, EPS, STEP, 2)
    assert not found.requires_grad and not images.requires_grad and images.grad is None
    assert found.data_ptr() != images.data_ptr()
    assert torch.equal(images, copies[0]) and torch.equal(labels, copies[1])
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    assert not model.training


def test_parameters_collect_no_gradient(model, batch):
    images, labels = batch
    pgd(model, images, labels, EPS, STEP, 2)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    pgd(model, images, labels, EPS, STEP, 2)
    assert all((p.grad == 1).all() for p in model.parameters())


def test_images_that_require_gradients(model, batch):
    images, labels = batch
    expected = pgd(model, images, labels, EPS, STEP, 2)
    leaf = images.clone().requires_grad_()
    found = pgd(model, leaf, labels, EPS, STEP, 2)
    assert torch.equal(found, expected) and leaf.grad is None and not found.requires_grad


def test_without_random_start_nothing_is_random(model, batch):
    images, labels = batch
    before = torch.get_rng_state()
    first = pgd(model, images, labels, EPS, STEP, 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(pgd(model, images, labels, EPS, STEP, 3), first)


def test_random_start_follows_its_seed(model, batch):
    images, labels = batch

    def run(seed):
        return pgd(model, images, labels, EPS, STEP, 2, random_start=True, seed=seed)

    before = torch.get_rng_state()
    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_random_start_is_uniform_in_the_ball(model):
    """One step too small to matter shows the start: mean 0, variance eps^2 / 3."""
    images, labels = torch.full((8, 3, 32, 32), 0.5), torch.zeros(8, dtype=torch.int64)
    found = pgd(model, images, labels, 0.1, 1e-7, 1, random_start=True, keys=torch.arange(8))
    delta = (found - images).double() / 0.1
    n = delta.numel()
    assert delta.abs().max() <= 1 + 1e-4
    assert delta.abs().max() > 0.99
    assert abs(delta.mean().item()) < 5 * (1 / 3 / n) ** 0.5
    assert abs(delta.square().mean().item() - 1 / 3) < 5 * (4 / 45 / n) ** 0.5


@pytest.mark.parametrize("steps", [1, 4])
def test_every_step_is_taken(model, batch, steps):
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    pgd(model, *batch, EPS, STEP, steps)
    assert len(calls) == steps


@pytest.mark.parametrize(
    "eps, step, steps, words",
    [
        (8, 2 / 255, 7, ["eps is 8", "<= 1", "8/255"]),
        (8 / 255, 2, 7, ["step is 2", "<= 1", "8/255"]),
        (16.0, 1.0, 7, ["eps is 16.0", "<= 1"]),
        (0, 2 / 255, 7, ["eps is 0", "<= 1"]),
        (-8 / 255, 2 / 255, 7, ["eps is -0.03", "<= 1"]),
        (8 / 255, 0, 7, ["step is 0", "<= 1"]),
        (float("nan"), 2 / 255, 7, ["eps is nan", "<= 1"]),
        (8 / 255, 2 / 255, 0, ["steps is 0", "at least 1"]),
    ],
)
def test_refused(model, batch, eps, step, steps, words):
    with pytest.raises(UserError) as error:
        pgd(model, *batch, eps, step, steps)
    for word in words:
        assert word in str(error.value)


def test_euclidean_steps_on_a_linear_model():
    """steps * step along the gradient, which is the same everywhere, until the ball ends."""
    model, generator = Linear().eval(), torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 4, 4, generator=generator) * 0.2 + 0.4
    labels = torch.tensor([0, 1, 1, 0])
    weight = model.weight.detach()
    direction = (weight[1 - labels] - weight[labels]).view_as(images)
    direction = direction / direction.flatten(1).norm(dim=1)[:, None, None, None]
    for steps, length in ((1, 0.1), (2, 0.2), (5, 0.25)):
        found = pgd(model, images, labels, 0.25, 0.1, steps, norm="l2")
        expected = images + length * direction
        torch.testing.assert_close(found, expected, rtol=0, atol=3 * ROUNDING)


@pytest.mark.parametrize("most", [2, 6])
def test_stopping_when_fooled_is_the_first_fooling_step(model, batch, most):
    """Each image as far as it has to go, and no pass after that; the others all the way."""
    images, _ = batch
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


def test_restarts_are_never_easier_for_the_model(model, batch):
    images, _ = batch
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


def test_fooled_images_take_no_further_restart(model, batch):
    images, _ = batch
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
    attack = PGD(eps=0.1, step=0.01, steps=1, random_start=True, restarts=16)
    once = PGD(eps=0.1, step=0.01, steps=1, random_start=True)
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
