"""APGD and AutoAttack: the library's own results, every pass counted, and nothing left behind."""

import sys

import pytest
import torch
from refusals import refused
from scotoma.defective.attacks import Oracle, Status, make_attack, parse_attack
from scotoma.defective.attacks.autoattack import APGD, AutoAttack, apgd, autoattack
from torch import nn

torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed")
EPS = 4 / 255
LIBRARY_NORMS = {"linf": "Linf", "l2": "L2"}


class Small(nn.Module):
    """A network of two layers for images 3x8x8, fast enough for thousands of queries."""

    def __init__(self, classes=5):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shapes = (64, 192), (classes, 64)
        self.first, self.last = (
            nn.Parameter(torch.randn(shape, generator=generator) / shape[1] ** 0.5)
            for shape in shapes
        )

    def forward(self, pixels):
        return (pixels.flatten(1) - 0.5) @ self.first.T @ self.last.T


class Spent(nn.Module):
    """A model that notes for which images its passes are: those whose clean images are nearest."""

    def __init__(self, model, images):
        super().__init__()
        self.model, self.images = model, images.flatten(1)
        self.forwards = torch.zeros(len(images), dtype=torch.int64)
        self.backwards = self.forwards.clone()
        self.eval()

    def forward(self, pixels):
        rows = torch.cdist(pixels.detach().flatten(1), self.images).argmin(1)
        self._note(self.forwards, rows)
        if pixels.requires_grad:
            pixels = pixels.view_as(pixels)
            pixels.register_hook(lambda gradient: self._note(self.backwards, rows))
        return self.model(pixels)

    @staticmethod
    def _note(counter, rows):
        counter.index_add_(0, rows, torch.ones_like(rows))


def small_batch(count=24, wrong=5, classes=5):
    """A small model, images and labels; the model is wrong on the first ``wrong`` of them."""
    model = Small(classes).eval()
    images = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = model(images).argmax(1)
    labels[:wrong] = (labels[:wrong] + 1) % classes
    return model, images, labels


@pytest.fixture
def network(small_model, randomise):
    return randomise(small_model("resnet18", width=8))


@pytest.fixture
def batch(network):
    """Images as the network sees them, three with a wrong label."""
    images = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = network(images).argmax(1)
    labels[[1, 7, 8]] = (labels[[1, 7, 8]] + 1) % 10
    return images, labels


@pytest.mark.parametrize("norm, eps", [("linf", 1 / 255), ("l2", 0.15)])
@pytest.mark.parametrize("loss, restarts", [("ce", 1), ("dlr", 2)])
def test_apgd_is_the_library_s(network, batch, norm, eps, loss, restarts):
    """On the images that the network has right, at the same seed."""
    images, labels = batch
    right = network(images).argmax(1) == labels
    attack = APGD(eps=eps, norm=norm, steps=8, restarts=restarts, loss=loss, seed=3)
    result = attack(network, images, labels)
    names = {"norm": LIBRARY_NORMS[norm], "n_restarts": restarts}
    theirs = torchattacks.APGD(network, eps=eps, steps=8, seed=3, loss=loss, **names)
    with torch.random.fork_rng():
        expected = theirs(images[right], labels[right])
    assert torch.equal(result.images[right], expected)
    assert torch.equal(result.images[~right], images[~right])
    assert (result.status[~right] == Status.MISCLASSIFIED).all()
    # A test that means something has images of both kinds, and of both outcomes.
    assert 0 < result.fooled.sum() < right.sum()


def test_another_seed_is_another_start(network, batch):
    found = [APGD(eps=EPS, steps=2, seed=seed)(network, *batch).images for seed in (0, 0, 1)]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize("norm, eps", [("linf", 4 / 255), ("l2", 0.4)])
def test_the_set_is_the_library_s_where_that_has_equal_settings(norm, eps):
    """Its class has 10 steps and 5000 queries, which would take long."""
    model, images, labels = small_batch(12, wrong=3)
    attack = AutoAttack(eps=eps, norm=norm, steps=7, queries=300, seed=2)
    result = attack(model, images, labels)
    theirs = torchattacks.AutoAttack(model, norm=LIBRARY_NORMS[norm], eps=eps, n_classes=5, seed=2)
    *others, square = theirs._autoattack.attacks
    square.n_queries = 300
    for part in others:
        part.steps = 7
    with torch.random.fork_rng():
        expected = theirs(images[3:], labels[3:])
    assert torch.equal(result.images[3:], expected)
    assert torch.equal(result.images[:3], images[:3])
    assert 0 < result.fooled.sum() < 9


@pytest.mark.parametrize(
    "attack",
    [
        APGD(eps=2 / 255, steps=6),
        APGD(eps=4 / 255, steps=3, restarts=3, loss="dlr"),
        AutoAttack(eps=4 / 255, steps=4, queries=30),
        AutoAttack(eps=0.4, norm="l2", steps=4, queries=30),
    ],
    ids=str,
)
def test_every_pass_is_counted_for_its_image(attack):
    model, images, labels = small_batch()
    spent = Spent(model, images)
    result = attack(spent, images, labels)
    assert torch.equal(result.forwards, spent.forwards - 2)  # the verdicts are not counted
    assert torch.equal(result.backwards, spent.backwards)
    # One forward pass tells that an image is not to be attacked; others differ in what they take.
    assert (result.forwards[:5] == 1).all() and (result.backwards[:5] == 0).all()
    assert (result.forwards[5:] > 4).all()
    if "restarts=1" not in str(attack):
        assert len(result.forwards[5:].unique()) > 1


def test_apgd_takes_a_pass_for_each_step(network, batch):
    result = APGD(eps=EPS, steps=7)(network, *batch)
    right = result.clean_predictions == batch[1]
    assert (result.backwards[right] == 8).all()  # the random start is a step more
    assert (result.forwards[right] == 10).all()  # and both sides ask which images are right


def test_the_set_fools_at_least_what_its_first_attack_fools():
    model, images, labels = small_batch(48, wrong=0)
    options = {"eps": 3 / 255, "steps": 5}
    one = APGD(**options)(model, images, labels).fooled
    every = AutoAttack(**options, queries=50)(model, images, labels).fooled
    assert every[one].all() and every.sum() > one.sum()


def test_nothing_is_left_behind(network, batch, capsys):
    """Random state, gradients, flags, inputs, output."""
    images, labels = batch
    copies = images.clone(), labels.clone()
    torch.manual_seed(11)
    before = torch.get_rng_state()
    result = AutoAttack(eps=EPS, steps=2, queries=3)(network, images, labels)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert torch.equal(images, copies[0]) and torch.equal(labels, copies[1])
    assert not network.training and not images.requires_grad and not result.images.requires_grad
    assert capsys.readouterr() == ("", "")


def test_random_state_survives_an_error(monkeypatch):
    model, images, labels = small_batch()

    def fail(self, *arguments):
        torch.manual_seed(0)
        raise RuntimeError("broken")

    monkeypatch.setattr(torchattacks.APGD, "attack_single_run", fail)
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="broken"):
        APGD()(model, images, labels)
    assert torch.equal(torch.get_rng_state(), before)


def test_images_that_are_wrong_already_never_reach_the_library(monkeypatch):
    model, images, labels = small_batch()
    seen = []
    monkeypatch.setattr(
        torchattacks.APGD, "forward", lambda self, x, y: seen.append(len(x)) or x.clone()
    )
    APGD()(model, images, labels)
    assert seen == [19]
    result = APGD()(model, images, (model(images).argmax(1) + 1) % 5)
    assert seen == [19] and torch.equal(result.images, images)
    assert (result.status == Status.MISCLASSIFIED).all()


def test_bfloat16_runs_and_float16_is_refused(network, batch):
    result = APGD(eps=EPS, steps=2)(Oracle(network, dtype=torch.bfloat16), *batch)
    assert (result.images - batch[0]).abs().max() > 0
    with refused("float16", "bfloat16"):
        APGD()(Oracle(network, dtype=torch.float16), *batch)


def test_a_missing_library_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    for name in ("apgd", "autoattack"):
        with refused("torchattacks", "pip install 'scotoma[autoattack]'"):
            make_attack(name)(*small_batch())


@pytest.mark.parametrize(
    "shift, words",
    [(3.0, ["distance", "3.5.1"]), (-0.01, ["pixels from -0.01"]), (float("nan"), ["nan"])],
)
def test_results_that_break_the_promise_are_refused(monkeypatch, shift, words):
    model, images, labels = small_batch()
    images[:, 0, 0, 0] = 0
    labels = model(images).argmax(1)
    monkeypatch.setattr(torchattacks.APGD, "forward", lambda self, x, y: x + shift)
    with refused(*words):
        APGD(eps=8 / 255)(model, images, labels)


def test_a_gradient_that_is_not_finite_is_said():
    class Broken(Small):
        def forward(self, pixels):
            logits = super().forward(pixels)
            # Finite on the way forward; its derivative at zero is not.
            return logits + (pixels.flatten(1)[:, :1] * 0).sqrt()

    _, images, _ = small_batch()
    model = Broken().eval()
    with refused("was not finite for 24 of 24"):
        APGD(steps=2)(model, images, model(images).argmax(1))


def test_losses_need_enough_classes():
    for attack, classes, words in (
        ("apgd:loss=dlr", 2, ["2 classes", "at least 3", "loss=ce"]),
        ("autoattack", 3, ["3 classes", "at least 4"]),
    ):
        with refused(*words):
            parse_attack(attack)(*small_batch(classes=classes))
    for attack, classes in (
        (APGD(loss="dlr", steps=2), 3),
        (AutoAttack(steps=2, queries=3), 4),
        (APGD(steps=2, eps=16 / 255), 2),
    ):
        assert attack(*small_batch(classes=classes)).fooled.any()


def test_no_more_than_nine_targets(monkeypatch):
    found = []
    forward = torchattacks.APGDT.forward

    def note(self, images, labels):
        found.append(self.n_target_classes)
        return forward(self, images, labels)

    monkeypatch.setattr(torchattacks.APGDT, "forward", note)
    for classes in (6, 30):
        model, images, labels = small_batch(classes=classes)
        AutoAttack(eps=1 / 255, steps=1, queries=1)(model, images, labels)
    assert found == [5, 9]


def test_bad_images():
    model, images, labels = small_batch()
    with refused("float64", "float32"):
        APGD()(model.double(), images.double(), labels)
    with refused("eps is 99"):
        AutoAttack(eps=99.0, norm="l2")(model.float(), images, labels)


def test_functions():
    given = small_batch()
    found, result = apgd(*given, EPS, steps=3, details=True)
    assert torch.equal(found, result.images)
    assert autoattack(*given, EPS, steps=2, queries=2).shape == found.shape


def test_equal_images_in_a_batch():
    model, images, labels = small_batch(8, wrong=0)
    images, labels = torch.cat([images, images]), torch.cat([labels, labels])
    result = AutoAttack(eps=EPS, steps=2, queries=5)(model, images, labels)
    assert len(result.images) == 16 and (result.forwards > 1).all()
