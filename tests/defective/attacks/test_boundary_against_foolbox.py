"""The boundary attack beside foolbox's: from the same starts, with the same number of queries."""

import math

import pytest
import torch
from boundary_models import Curved, classes, distances, random_images
from products import slow
from scotoma.defective.attacks.boundary import boundary

foolbox = pytest.importorskip("foolbox", reason="the boundary attack of foolbox is the reference")


class Counted(torch.nn.Module):
    """Counts the images that the model has seen."""

    def __init__(self, model):
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, pixels):
        self.images += len(pixels)
        return self.model(pixels)


def theirs(model, images, criterion, starts, steps, seed, **options):
    torch.manual_seed(seed)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.BoundaryAttack(steps=steps, **options)
    return attack.run(wrapped, images, criterion, starting_points=starts)


def score(found, images):
    """Median over the images of the squared distance to a pixel."""
    return (distances(found, images).double().square() / images[0].numel()).median().item()


def compare(model, images, labels, starts, steps, targeted=False):
    """Mean over five seeds of log(our score / theirs)."""
    gaps = []
    criterion = foolbox.criteria.TargetedMisclassification(labels) if targeted else labels
    for seed in range(5):
        counted = Counted(model).eval()
        reference = theirs(counted, images, criterion, starts, steps, seed)
        options = {"starts": starts, "steps": steps, "seed": 100 + seed, "details": True}
        found, result = boundary(model, images, labels, targeted=targeted, **options)
        assert ((classes(model, found) == labels) == targeted).all()
        assert result.fooled.all()
        # Both asked once for the starts; we once more for the images.
        assert result.forwards.sum() - len(images) == counted.images
        assert score(found, images) < 0.98 * score(starts, images)
        gaps.append(math.log(score(found, images) / score(reference, images)))
    return sum(gaps) / len(gaps)


@pytest.mark.parametrize("steps", [200, slow(400)])
def test_no_worse_than_foolbox_at_equal_queries(steps):
    """Natural logarithm of the score, mean over five seeds, at most 0.1 above; and not far below:
    it is the same algorithm."""
    model, images = Curved(hidden=24).eval(), random_images(32)
    labels = classes(model, images)
    starts = boundary(model, images, labels, steps=1)
    assert -0.2 < compare(model, images, labels, starts, steps) < 0.1


def test_towards_goals():
    """From images of the goals' classes."""
    model, images = Curved(hidden=24).eval(), random_images(64)
    labels = classes(model, images)
    order = labels.argsort()  # the other end of which is of other classes
    starts, originals = images[order[:24]], images[order[-24:]]
    goals = classes(model, starts)
    assert len(goals.unique()) > 1 and (goals != classes(model, originals)).all()
    assert -0.2 < compare(model, originals, goals, starts, 200, targeted=True) < 0.1


def test_a_residual_network(small_model, randomise):
    """From the nearest image of another class."""
    model = randomise(small_model("resnet18", image_size=16))
    images = random_images(16, size=16)
    labels = classes(model, images)
    between = torch.cdist(images.flatten(1), images.flatten(1))
    between[labels[:, None] == labels] = math.inf
    assert between.isfinite().any(1).all()
    starts = images[between.argmin(1)]
    some = slice(0, 8)
    assert -0.2 < compare(model, images[some], labels[some], starts[some], 40) < 0.1
