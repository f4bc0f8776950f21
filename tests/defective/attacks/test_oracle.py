"""The oracle: counts, checks, and what it leaves as it found it."""

import pytest
import torch
import torch.nn.functional as F
from scotoma.defective import Ensemble, UserError
from scotoma.defective.attacks import PGD, Oracle, fgsm, pgd
from scotoma.defective.attacks.oracle import loss_gradient
from torch import nn


@pytest.fixture
def model(small_model, randomise):
    return randomise(small_model("resnet18"))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return (
        torch.rand(6, 3, 32, 32, generator=generator),
        torch.randint(10, (6,), generator=generator),
    )


class Returns(nn.Module):
    """A model whose output is a function of 3x32x32 pixels' sums."""

    def __init__(self, output):
        super().__init__()
        self.output = output
        self.eval()

    def forward(self, pixels):
        return self.output(pixels.flatten(1)[:, :10])


def test_the_gradient_is_that_of_the_summed_cross_entropy(model, batch):
    images, labels = batch
    leaf = images.clone().requires_grad_()
    logits = model(leaf)
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), leaf)
    found, gradient = loss_gradient(model, images, labels)
    assert torch.equal(found, logits.detach()) and torch.equal(gradient, expected)
    # A power of two as factor on the way back changes no digit.
    assert torch.equal(loss_gradient(model, images, labels, scale=512.0)[1], expected)


def test_passes_are_counted_for_the_images_that_are_passed(model, batch):
    images, labels = batch
    oracle = Oracle(model)
    with oracle.attacking(images, labels), torch.no_grad():
        oracle(images)
        oracle.loss_gradient(images[1:3], labels[1:3], torch.tensor([1, 2]))
        with torch.enable_grad():
            leaf = images[:1].clone().requires_grad_()
            total = oracle(leaf, torch.tensor([5])).sum()
            oracle.gradient(total, leaf, torch.tensor([5]))
    assert oracle.forwards.tolist() == [1, 2, 2, 1, 1, 2]
    assert oracle.backwards.tolist() == [0, 1, 1, 0, 0, 1]
    with oracle.attacking(images[:2], labels[:2]):
        assert oracle.forwards.tolist() == [0, 0]


@pytest.mark.parametrize("fails", [False, True])
def test_parameters_are_frozen_inside_and_as_before_outside(model, batch, fails):
    images, labels = batch
    some = next(model.parameters())
    some.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    seen = []
    try:
        with Oracle(model).attacking(images, labels):
            seen = [p.requires_grad for p in model.parameters()]
            if fails:
                raise ArithmeticError
    except ArithmeticError:
        pass
    assert not any(seen)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before


def test_a_part_in_training_mode_is_named(model, batch):
    model.bn1.train() if hasattr(model, "bn1") else list(model.modules())[3].train()
    with pytest.raises(UserError, match=r"its part '.+' is in training mode: call model\.eval"):
        fgsm(model, *batch, 8 / 255)
    with pytest.raises(UserError, match=r"it is in training mode"):
        fgsm(model.train(), *batch, 8 / 255)
    oracle = Oracle(model.eval())
    model.train()
    with pytest.raises(UserError, match=r"training mode"):
        fgsm(oracle, *batch, 8 / 255)


@pytest.mark.parametrize(
    "output, words",
    [
        (lambda x: x.softmax(1), ["probabilities", "softmax"]),
        (lambda x: x.sum(1), ["(6,)", "[N,K]"]),
        (lambda x: x[:, :1], ["(6, 1)", "two or more"]),
        (lambda x: x * float("nan"), ["not finite", "diverged"]),
        (lambda x: x[:, :7], ["labels has", "7 classes, 0 to 6"]),
    ],
    ids=["probabilities", "vector", "one class", "nan", "few classes"],
)
def test_what_a_model_may_not_return(batch, output, words):
    images, _ = batch
    labels = torch.full((6,), 8)
    with pytest.raises(UserError) as error:
        pgd(Returns(output), images, labels, 8 / 255, 2 / 255, 3)
    assert all(word in str(error.value) for word in words)


def test_logits_that_sum_to_one_are_no_probabilities(batch):
    images, labels = batch

    def output(x):
        logits = x * 10 - 5
        return logits - logits.mean(1, keepdim=True) + 0.1

    assert fgsm(Returns(output), images, labels, 8 / 255).shape == images.shape


def test_a_gradient_that_is_not_finite_is_said(batch):
    images, labels = batch

    def output(x):  # finite logits; the derivative of the root at 0 is not
        return (x - x.detach()).sqrt() + x

    with pytest.raises(UserError, match=r"not finite for 6 of 6 images, first number 0"):
        pgd(Returns(output), images, labels, 8 / 255, 2 / 255, 3)


def _pixels(change):
    return lambda images, labels: (change(images), labels)


@pytest.mark.parametrize(
    "change, words",
    [
        (_pixels(lambda x: x * 255), ["pixels from", "[0,1]", "divide by 255"]),
        (_pixels(lambda x: x - 0.5), ["pixels from -0.", "normalise inside the model"]),
        (_pixels(lambda x: x / 0), ["pixels from", "[0,1]"]),
        (_pixels(lambda x: (x * 255).byte()), ["torch.uint8", "floating"]),
        (_pixels(lambda x: x[0]), ["(3, 32, 32)", "[N,C,H,W]"]),
        (_pixels(lambda x: x[:0]), ["empty batch"]),
        (lambda x, y: (x, y + 5), ["labels has 1", "0 to 9"]),
        (lambda x, y: (x, y - 9), ["labels has -", "0 to 9"]),
        (lambda x, y: (x, y[:5]), ["labels has shape (5,)", "6 images"]),
        (lambda x, y: (x, y.int()), ["labels is torch.int32", "int64"]),
        (lambda x, y: (x, y.tolist()), ["labels is list", "int64"]),
    ],
)
def test_bad_batches(model, batch, change, words):
    for attack in (lambda *b: fgsm(model, *b, 8 / 255), lambda *b: PGD()(model, *b)):
        with pytest.raises(UserError) as error:
            attack(*change(*batch))
        assert all(word in str(error.value) for word in words), error.value


def test_the_verdict_is_without_autocast(model, batch):
    images, labels = batch
    oracle = Oracle(model, dtype=torch.bfloat16)
    result = PGD(eps=0.1, step=0.03, steps=3)(oracle, images, labels)
    with torch.no_grad():
        assert torch.equal(result.predictions, model(result.images).argmax(1))
        assert torch.equal(result.clean_predictions, model(images).argmax(1))
    plain = PGD(eps=0.1, step=0.03, steps=3)(model, images, labels)
    assert not torch.equal(result.images, plain.images)


def test_an_ensemble_is_a_source(model, small_model, randomise, batch):
    other = randomise(small_model("resnet18", seed=5), 5)
    found = pgd(Ensemble([model, other]), *batch, 0.1, 0.02, 5)

    def mean(pixels):
        return (model(pixels) + other(pixels)) / 2

    before = F.cross_entropy(mean(batch[0]), batch[1])
    assert F.cross_entropy(mean(found), batch[1]) > before


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_a_graph_changes_nothing(model, dtype):
    """The same steps from a CUDA graph, over several batches and a smaller last one."""
    model = model.cuda()
    generator = torch.Generator(device="cuda").manual_seed(0)
    attack = PGD(eps=0.1, step=0.02, steps=6)
    plain, graphed = Oracle(model, dtype), Oracle(model, dtype, cuda_graph=True)
    for size in (8, 8, 3):
        images = torch.rand(size, 3, 32, 32, device="cuda", generator=generator)
        labels = torch.randint(10, (size,), device="cuda", generator=generator)
        expected, found = (attack(oracle, images, labels) for oracle in (plain, graphed))
        share = (expected.images == found.images).float().mean()
        assert share > 0.98  # a library may sum in another order on another stream
        assert torch.equal(expected.forwards, found.forwards)
