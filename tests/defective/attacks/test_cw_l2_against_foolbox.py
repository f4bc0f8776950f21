"""CW-L2 beside foolbox's, at equal budgets."""

import pytest
import torch
from cw_models import Scaled
from products import slow
from scotoma.defective.attacks import Status
from scotoma.defective.attacks.carlini_wagner import cw_l2

foolbox = pytest.importorskip("foolbox", reason="foolbox, the peer to compare with, is missing")

ROUNDING = 1e-3  # logits of about 100 in float32, from batches of two sizes
COUNT = 20


@pytest.fixture
def model(small_model, randomise):
    return Scaled(randomise(small_model("resnet18", image_size=16)))


@pytest.fixture
def images():
    """Images with many pixels at the borders of the box."""
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(COUNT, 3, 16, 16, generator=generator) * 1.5 - 0.25).clamp(0, 1)


def lengths(delta):
    return delta.double().flatten(1).norm(dim=1)


def peer(model, images, criterion, confidence, search_steps, steps, initial_const):
    """foolbox's images, and whether it found any: it returns zeros where it did not."""
    attack = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=search_steps,
        steps=steps,
        stepsize=0.01,
        confidence=confidence,
        initial_const=initial_const,
        abort_early=False,
    )
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    found, _, _ = attack(wrapped, images, criterion, epsilons=None)
    return found, (found != 0).flatten(1).any(1)


@pytest.mark.parametrize(
    "confidence, search_steps, steps, initial_const, least",
    [
        (0.0, 4, 20, 1e-2, 0.95),
        slow(5.0, 4, 20, 1e-2, 0.95),
        # So few steps that some images are never fooled by that much.
        (5.0, 2, 8, 1e-2, 0.3),
        # The last of ten constants is the smallest that succeeded, once more.
        slow(0.0, 10, 6, 1e-3, 0.95),
    ],
)
def test_equals_foolbox(model, images, confidence, search_steps, steps, initial_const, least):
    labels = model(images).argmax(1)
    theirs, won = peer(model, images, labels, confidence, search_steps, steps, initial_const)
    ours, result = cw_l2(
        model,
        images,
        labels,
        confidence,
        search_steps=search_steps,
        steps=steps,
        initial_const=initial_const,
        stop_early=False,
        details=True,
    )
    assert torch.equal(result.fooled, won)
    assert won.double().mean() >= least
    if least < 0.9:
        assert not won.all()
    our_l2, their_l2 = lengths(ours - images)[won], lengths(theirs - images)[won]
    assert (our_l2.median() / their_l2.median() - 1).abs() < 0.005
    assert ((our_l2 / their_l2 - 1).abs() < 0.05).double().mean() >= 0.95
    logits = model(ours[won])
    true = labels[won, None]
    margin = logits.scatter(1, true, -torch.inf).amax(1) - logits.gather(1, true)[:, 0]
    assert (margin >= confidence - ROUNDING).all()
    # And no more of it than needed: the search is for the smallest.
    assert confidence == 0 or margin.median() < confidence + 1


def test_towards_goals(model, images):
    """The least distance at which the goal is ahead of every other class by the confidence."""
    images = images[:10]
    labels = model(images).argmax(1)
    goals = model(images).topk(2).indices[:, 1]
    goals[:2] = labels[:2]
    criterion = foolbox.criteria.TargetedMisclassification(goals)
    theirs, won = peer(model, images, criterion, 2.0, 3, 15, 1e-1)
    settings = {"search_steps": 3, "steps": 15, "initial_const": 1e-1, "stop_early": False}
    ours, result = cw_l2(model, images, goals, 2.0, **settings, targeted=True, details=True)
    assert result.status[:2].tolist() == [Status.AT_GOAL] * 2
    assert torch.equal(ours[:2], images[:2])
    assert torch.equal(result.fooled[2:], won[2:]) and won.double().mean() > 0.6
    some = won.clone()
    some[:2] = False
    our_l2, their_l2 = lengths(ours - images)[some], lengths(theirs - images)[some]
    assert (our_l2.median() / their_l2.median() - 1).abs() < 0.005
    assert ((our_l2 / their_l2 - 1).abs() < 0.05).double().mean() >= 0.9
    logits, goal = model(ours[some]), goals[some, None]
    margin = logits.gather(1, goal)[:, 0] - logits.scatter(1, goal, -torch.inf).amax(1)
    assert (margin >= 2 - ROUNDING).all() and margin.median() < 3
