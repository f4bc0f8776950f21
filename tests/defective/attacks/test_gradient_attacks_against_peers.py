"""FGSM, PGD and MI-FGSM give the peers' very bits.

On a CPU, at batches of a power of two: torchattacks averages the loss over the batch, and only a
division by a power of two leaves every digit of a gradient as it was.
"""

import copy
import warnings

import pytest
import torch
from products import slow
from scotoma.defective.attacks import fgsm, mifgsm, pgd

foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed (extra: crosscheck)")
torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed")
warnings.filterwarnings("ignore", category=DeprecationWarning)

# (eps, step, steps) in levels of 255: the paper's settings, fewer steps of the longest.
SETTINGS = [(8, 2, 7), slow(16, 1, 20), slow(32, 1, 12), (1, 1, 4)]


@pytest.fixture(scope="module")
def cases(small_model, randomise):
    """Networks that look trained, with images on the borders of the box and true labels."""
    made, generator = [], torch.Generator().manual_seed(0)
    for arch, defects in (("resnet18", "0.3-Bottom"), ("vgg19", "standard")):
        model = randomise(small_model(arch, defects))
        images = (torch.rand(32, 3, 32, 32, generator=generator) * 1.4 - 0.2).clamp(0, 1)
        labels = model(images).argmax(1)
        labels[::5] = torch.randint(10, labels[::5].shape, generator=generator)
        made.append((model, images, labels))
    return made


def in_foolbox(model):
    return foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")


@pytest.mark.parametrize("size, eps", [(1, 8), (16, 1), (32, 32)])
def test_fgsm(cases, size, eps):
    for model, images, labels in cases:
        images, labels = images[:size], labels[:size]
        ours = fgsm(model, images, labels, eps / 255)
        attack = foolbox.attacks.LinfFastGradientAttack()
        _, theirs, _ = attack(in_foolbox(model), images, labels, epsilons=eps / 255)
        assert torch.equal(ours, theirs)
        assert torch.equal(ours, torchattacks.FGSM(model, eps=eps / 255)(images, labels))


@pytest.mark.parametrize("eps, step, steps", SETTINGS)
def test_pgd_from_the_image(cases, eps, step, steps):
    for model, images, labels in cases:
        ours = pgd(model, images, labels, eps / 255, step / 255, steps)
        attack = foolbox.attacks.LinfProjectedGradientDescentAttack(
            abs_stepsize=step / 255, steps=steps, random_start=False
        )
        _, theirs, _ = attack(in_foolbox(model), images, labels, epsilons=eps / 255)
        assert torch.equal(ours, theirs)
        attack = torchattacks.PGD(
            model, eps=eps / 255, alpha=step / 255, steps=steps, random_start=False
        )
        assert torch.equal(ours, attack(images, labels))


def test_pgd_from_a_random_start(cases, monkeypatch):
    """From the same starts: foolbox is handed ours."""
    from scotoma.defective.attacks.draws import content_keys
    from scotoma.defective.attacks.norms import Linf

    model, images, labels = cases[0]
    eps, step, steps = 8 / 255, 2 / 255, 5
    ours = pgd(model, images, labels, eps, step, steps, random_start=True, seed=3)
    start = Linf.random(images, eps, content_keys(images), 3, 0)
    kind = foolbox.attacks.LinfProjectedGradientDescentAttack
    monkeypatch.setattr(kind, "get_random_start", lambda self, x0, e: type(x0)(start))
    attack = kind(abs_stepsize=step, steps=steps, random_start=True)
    _, theirs, _ = attack(in_foolbox(model), images, labels, epsilons=eps)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, pgd(model, images, labels, eps, step, steps))


@pytest.mark.parametrize("eps, step, steps", [slow(0.5, 0.1, 8), (2.0, 0.5, 5)])
def test_euclidean_pgd(cases, eps, step, steps):
    """Lengths are sums in another order, so digits differ; the place does not.

    In float64: in float32 a digit can put an image on the other side of a ReLU's edge, and its
    gradient with it, on one processor and not on another.
    """
    for model, images, labels in cases:
        model, images = copy.deepcopy(model).double(), images.double()
        ours = pgd(model, images, labels, eps, step, steps, norm="l2")
        attack = foolbox.attacks.L2ProjectedGradientDescentAttack(
            abs_stepsize=step, steps=steps, random_start=False
        )
        _, theirs, _ = attack(in_foolbox(model), images, labels, epsilons=eps)
        apart = (ours - theirs).flatten(1).norm(dim=1)
        assert (apart < 1e-10 * eps).all()


@pytest.mark.parametrize("decay", [1.0, slow(0.5)])
@pytest.mark.parametrize("eps, step, steps", SETTINGS)
def test_mifgsm(cases, eps, step, steps, decay):
    """Ours divides by the L1 norm (the paper), theirs by the mean: the signs are the same."""
    for model, images, labels in cases[:1]:
        ours = mifgsm(model, images, labels, eps / 255, step / 255, steps, decay)
        attack = torchattacks.MIFGSM(
            model, eps=eps / 255, alpha=step / 255, steps=steps, decay=decay
        )
        assert torch.equal(ours, attack(images, labels))
        if steps > 1:
            assert not torch.equal(ours, pgd(model, images, labels, eps / 255, step / 255, steps))


def targeted(attack, images, goals):
    attack.set_mode_targeted_by_label(quiet=True)
    return attack(images, goals)


@pytest.mark.parametrize("eps, step, steps", [SETTINGS[0], SETTINGS[3]])
def test_towards_goals(cases, eps, step, steps):
    """Labels are the classes to reach; some are what the model sees already."""
    sizes = {"eps": eps / 255, "step": step / 255, "steps": steps}
    theirs = {"eps": eps / 255, "alpha": step / 255, "steps": steps}
    for model, images, labels in cases:
        images, labels = images[:16], labels[:16]
        goals = (labels + 1 + torch.arange(16) % 3) % 10
        goals[::7] = labels[::7]
        ours = fgsm(model, images, goals, eps / 255, targeted=True)
        attack = torchattacks.FGSM(model, eps=eps / 255)
        assert torch.equal(ours, targeted(attack, images, goals))
        ours = mifgsm(model, images, goals, **sizes, targeted=True)
        assert torch.equal(ours, targeted(torchattacks.MIFGSM(model, **theirs), images, goals))
        ours, result = pgd(model, images, goals, **sizes, targeted=True, details=True)
        attack = torchattacks.PGD(model, **theirs, random_start=False)
        assert torch.equal(ours, targeted(attack, images, goals))
        attack = foolbox.attacks.LinfProjectedGradientDescentAttack(
            abs_stepsize=step / 255, steps=steps, random_start=False
        )
        criterion = foolbox.criteria.TargetedMisclassification(goals)
        _, found, reached = attack(in_foolbox(model), images, criterion, epsilons=eps / 255)
        assert torch.equal(ours, found)
        assert torch.equal(result.predictions == goals, reached)


def test_euclidean_pgd_towards_goals(cases):
    """In float64, so that no digit puts an image on the other side of a ReLU's edge."""
    for model, images, labels in cases:
        model, images, goals = copy.deepcopy(model).double(), images[:16].double(), labels[:16] + 3
        goals %= 10
        ours = pgd(model, images, goals, 2.0, 0.5, 5, norm="l2", targeted=True)
        attack = foolbox.attacks.L2ProjectedGradientDescentAttack(
            abs_stepsize=0.5, steps=5, random_start=False
        )
        criterion = foolbox.criteria.TargetedMisclassification(goals)
        _, theirs, _ = attack(in_foolbox(model), images, criterion, epsilons=2.0)
        apart = (ours - theirs).flatten(1).norm(dim=1)
        assert (apart < 1e-9).all()
