"""The oracle: counts, checks, and what it leaves as it found it."""

import warnings
from contextlib import suppress
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from refusals import refused
from scotoma.defective import Ensemble, UserError
from scotoma.defective.attacks import (
    CWL2,
    FGSM,
    PGD,
    Boundary,
    GaussianNoise,
    Oracle,
    apgd,
    boundary,
    cw_l2,
    fgsm,
    mifgsm,
    pgd,
)
from scotoma.defective.attacks.oracle import loss_gradient
from scotoma.defective.robustness import sanity_flags
from torch import nn


@pytest.fixture
def model(small_model, randomise):
    return randomise(small_model("resnet18"))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, 3, 32, 32, generator=generator)
    return images, torch.randint(10, (6,), generator=generator)


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
    with suppress(ArithmeticError), Oracle(model).attacking(images, labels):
        assert not any(p.requires_grad for p in model.parameters())
        if fails:
            raise ArithmeticError
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before


def test_a_part_in_training_mode_is_named(model, batch):
    list(model.modules())[3].train()
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
        (lambda x: (x, x), ["returns a tuple", "[N,K]", "lambda pixels: model(pixels)[0]"]),
        (lambda x: {"logits": x}, ["returns a dict"]),
        (lambda x: None, ["returns a NoneType"]),
        (lambda x: x.detach().numpy(), ["returns a ndarray"]),
        (lambda x: x.long(), ["returns torch.int64", "floating"]),
        (lambda x: torch.cat([x, x[:1]]), ["(7, 10) for 6 images"]),
        (lambda x: x.to("meta"), ["on meta", "on cpu"]),
        (lambda x: x.detach(), ["no gradient for the pixels", "boundary"]),
        (lambda x: torch.eye(10)[[8] * len(x)] * 9, ["no gradient for the pixels"]),
        (lambda x: nn.Parameter(torch.eye(10)[8]).expand(len(x), 10) * 9, ["no gradient for"]),
    ],
)
def test_what_a_model_may_not_return(batch, output, words):
    images, _ = batch
    labels = torch.full((6,), 8)
    with refused(*words):
        pgd(Returns(output), images, labels, 8 / 255, 2 / 255, 3)


def test_logits_without_a_gradient(batch):
    model, labels = Returns(lambda x: (x * 0 + torch.eye(10)[8] * 9).detach()), torch.full((6,), 8)
    for attack in (mifgsm, cw_l2, *([apgd] if find_spec("torchattacks") else [])):
        with refused("no gradient for the pixels"):
            attack(model, batch[0], labels)


def test_decisions_are_all_that_a_boundary_attack_needs(batch):
    images = batch[0][:2]
    labels = images.flatten(1)[:, :10].argmax(1)
    _, result = boundary(
        lambda pixels: pixels.flatten(1)[:, :10].detach() * 9, images, labels, steps=2, details=True
    )
    assert result.fooled.all()


def test_a_function_is_a_model(model, batch):
    def function(pixels):
        return model(pixels)

    for attack in (fgsm, lambda *b: boundary(*b, steps=2), lambda *b: cw_l2(*b, steps=2)):
        assert torch.equal(attack(function, *batch), attack(model, *batch))
    assert sanity_flags(function, *batch) == sanity_flags(model, *batch)
    mean = Ensemble([function, model])
    assert torch.equal(mean(batch[0]), model(batch[0])) and not mean.training


def test_what_is_no_model_and_no_precision(model, batch):
    for wrong, words in ((None, "None"), (nn.Linear, "the class Linear"), ("net", "'net'")):
        for use in (fgsm, sanity_flags):
            with refused(f"the model is {words}; expected an nn.Module"):
                use(wrong, *batch)
    for dtype in ("bfloat16", torch.float32, torch.int8):
        with refused("dtype is ", "; expected torch.bfloat16"):
            Oracle(model, dtype)


@pytest.mark.parametrize("pixels, weights", [("float64", "float32"), ("float32", "float16")])
def test_a_model_of_another_dtype(small_model, batch, pixels, weights):
    model = small_model("resnet18").eval().to(getattr(torch, weights))
    for attack in (fgsm, boundary, sanity_flags):
        with refused(f"images are torch.{pixels} and the model has torch.{weights}"):
            attack(model, batch[0].to(getattr(torch, pixels)), batch[1])


def test_a_failure_of_the_models_own_is_not_explained_away(batch):
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        fgsm(nn.Sequential(nn.Flatten(), nn.Linear(7, 10)).eval(), *batch)


@pytest.mark.parametrize("attack", [fgsm, cw_l2, boundary])
def test_inference_mode(batch, attack):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).eval()
    images, labels = batch[0], model(batch[0]).argmax(1)
    options = {} if attack is fgsm else {"steps": 3}
    expected = attack(model, images, labels, **options)
    with torch.inference_mode():
        made_inside = images.clone(), labels.clone()
        for pair in (made_inside, (images, labels)):
            assert torch.equal(attack(model, *pair, **options), expected)
        assert sanity_flags(model, *made_inside) == []
    assert torch.equal(attack(model, *made_inside, **options), expected)
    assert all(p.requires_grad for p in model.parameters())


def test_a_model_that_was_made_in_inference_mode(batch):
    with torch.inference_mode():
        model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).eval()
    for inside in (True, False):
        with torch.inference_mode(inside), refused("made in torch.inference_mode"):
            fgsm(model, *batch)


@pytest.mark.parametrize(
    "attack", [FGSM(), CWL2(search_steps=1, steps=3), Boundary(steps=2), GaussianNoise()], ids=str
)
def test_what_is_not_finite_where_an_attack_leads_is_said(batch, attack):
    """The model is sound on the images themselves."""
    images = batch[0].clamp(0.1, 0.9)

    def model(pixels):
        logits = pixels.flatten(1)[:, :10] * 9
        moved = (pixels != images[: len(pixels)]).flatten(1).any(1, keepdim=True)
        return torch.where(moved, torch.nan, logits)

    labels = images.flatten(1)[:, :10].argmax(1)
    with pytest.raises(UserError, match="not finite"):
        attack(model, images, labels)


def test_pixels_that_are_not_finite_are_said(batch, monkeypatch):
    monkeypatch.setattr(GaussianNoise, "noisy", lambda self, images, keys: images * torch.nan)
    with pytest.raises(UserError, match="a pixel was not finite for 6 of 6"):
        GaussianNoise().images(lambda x: x.flatten(1)[:, :10].nan_to_num(), *batch)


@pytest.mark.parametrize("scale, flat", [(0.0, 6), (1e-14, 6), (1.0, 0)])
def test_images_without_a_slope_bring_a_warning(batch, scale, flat):
    """As the sanity checks of an evaluation do; whoever makes an oracle asks it."""
    model = Returns(lambda x: x * scale - torch.arange(10.0))
    attack = PGD(norm="l2", eps=0.5, step=0.1, steps=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        attack(model, *batch)
        attack.images(model, *batch)
        oracle = Oracle(model)
        attack(oracle, *batch)
    words = f"for {flat} of 6 images"
    assert len(caught) == (2 if flat else 0) and all(words in str(w.message) for w in caught)
    assert all(w.filename == __file__ for w in caught)
    if flat:
        with pytest.warns(UserWarning, match=words):
            oracle.warn_of_flatness()


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
        (lambda x, y: (x.numpy(), y), ["images is ndarray", "floating tensor"]),
        (lambda x, y: (x.to(torch.float8_e5m2), y), ["float8_e5m2", "floating tensor"]),
        (lambda x, y: (x, y, [0] * 6), ["keys is list", "6 images"]),
        (lambda x, y: (x, y, y[:5]), ["keys is (5,)", "6 images"]),
        (lambda x, y: (x, y, y / 2), ["keys is (6,) torch.float32", "int64"]),
    ],
)
def test_bad_batches(model, batch, change, words):
    for attack in (lambda x, y, k=None: fgsm(model, x, y, keys=k), lambda *b: PGD()(model, *b)):
        with refused(*words):
            attack(*change(*batch))


def test_the_verdict_is_without_autocast(model, batch):
    images, labels = batch
    oracle = Oracle(model, dtype=torch.bfloat16)
    result = PGD(eps=0.1, step=0.03, steps=3)(oracle, images, labels)
    with torch.no_grad():
        assert torch.equal(result.predictions, model(result.images).argmax(1))
        assert torch.equal(result.clean_predictions, model(images).argmax(1))
    plain = PGD(eps=0.1, step=0.03, steps=3)(model, images, labels)
    assert not torch.equal(result.images, plain.images)


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
