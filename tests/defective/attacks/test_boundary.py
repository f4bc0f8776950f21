"""The boundary attack: what its results satisfy, whom it attacks, and what it spends."""

import math

import pytest
import torch
from boundary_models import Brightness, Curved, HalfSpace, classes, distances, random_images
from refusals import refused
from scotoma.defective.attacks import Status, draws
from scotoma.defective.attacks.boundary import Boundary, boundary

# Images converge after 60 to some hundred steps.
SOON = {"steps": 400, "update_every": 1, "convergence": 2e-3, "source_step": 0.01}


@pytest.fixture(scope="module")
def model():
    return Curved().eval().double()


@pytest.fixture(scope="module")
def batch(model):
    images = random_images(8, dtype=torch.float64)
    return images, classes(model, images)


def test_adversarial_in_the_box_and_nearer_with_every_step(model, batch):
    images, labels = batch
    previous = None
    for steps in (1, 10, 50, 200, 800):
        found, result = boundary(model, images, labels, steps=steps, details=True)
        assert found.min() >= 0 and found.max() <= 1
        assert (classes(model, found) != labels).all()
        assert (result.status == Status.FOOLED).all()
        distance = distances(found, images)
        if previous is not None:
            assert (distance <= previous).all()
        previous = distance
    start = boundary(model, images, labels, steps=1)
    assert (previous < 0.8 * distances(start, images)).all()


def test_nearest_point_of_a_half_space():
    """There the minimal distance is known: that from the plane."""
    model = HalfSpace().eval()
    images = 0.5 + 0.1 * (random_images(6, size=4, dtype=torch.float64) - 0.5)
    labels = classes(model, images)
    # Far enough from the plane, and so near the box's middle that the box is not in the way.
    side = (2 * labels - 1).double()[:, None, None, None]
    images = images + side * 0.3 * model.normal.detach()
    found = boundary(model, images, labels, steps=1500, update_every=1)
    ratio = distances(found, images) / model.height(images).abs().detach()
    assert (ratio >= 1 - 1e-9).all()
    assert (ratio < 1.02).all()


@pytest.mark.parametrize("options", [SOON, {"steps": 300, "max_queries": 70}, {"steps": 35}])
def test_an_image_alone_and_in_any_batch(model, batch, options):
    """Bit for bit, with images that leave at different times."""
    images, labels = batch
    labels = labels.clone()
    labels[3] = (labels[3] + 1) % 5  # misclassified: out from the start
    attack = Boundary(**options)
    together = attack(model, images, labels)
    if "convergence" in options:
        assert len(set(together.forwards.tolist())) > 4
    for rows in ([0], [3], [5], [7], [1, 6]):
        alone = attack(model, images[rows], labels[rows])
        assert torch.equal(alone.images, together.images[rows])
        assert torch.equal(alone.forwards, together.forwards[rows])


def test_misclassified_images_cost_one_query_and_stay(model, batch):
    images, labels = batch
    labels = (labels + (torch.arange(8) % 2)) % 5
    found, result = boundary(model, images, labels, steps=20, details=True)
    assert torch.equal(found[1::2], images[1::2])
    assert (result.status[1::2] == Status.MISCLASSIFIED).all()
    assert (result.forwards[1::2] == 1).all() and (result.forwards[::2] > 20).all()
    assert (result.status[::2] == Status.FOOLED).all()
    assert torch.equal(boundary(model, images, (classes(model, images) + 1) % 5), images)


def test_no_start_is_a_status_of_the_image():
    model = Brightness(0.7).eval()
    images = torch.full((4, 3, 4, 4), 0.2)
    images[1::2] = 0.95
    labels = torch.tensor([0, 1, 0, 1])  # noise is of class 0: no start for the dark ones
    options = {"steps": 30, "start_draws": 7, "keys": torch.arange(4)}
    found, result = boundary(model, images, labels, details=True, **options)
    assert result.status.tolist() == [Status.NO_START, Status.FOOLED] * 2
    assert torch.equal(found[::2], images[::2])
    assert (result.forwards[::2] == 1 + 7).all() and (result.forwards[1::2] > 33).all()
    assert (classes(model, found[1::2]) == 0).all()
    _, result = boundary(model, images[::2], labels[::2], start_draws=3, details=True)
    assert (result.status == Status.NO_START).all()


def test_a_start_that_is_not_adversarial_is_a_status_of_the_image(model, batch):
    images, labels = batch
    starts = boundary(model, images, labels, steps=1)
    starts[2], starts[5] = images[2], images[5]
    labels = labels.clone()
    labels[7] = (labels[7] + 1) % 5
    given_starts = starts.clone()
    found, result = boundary(model, images, labels, steps=50, starts=starts, details=True)
    bad = [2, 5]
    expected = [Status.FOOLED] * 8
    expected[2] = expected[5] = Status.BAD_START
    expected[7] = Status.MISCLASSIFIED
    assert result.status.tolist() == expected
    assert torch.equal(found[[*bad, 7]], images[[*bad, 7]])
    assert result.forwards[bad].tolist() == [2, 2] and result.forwards[7] == 1
    good = [0, 1, 3, 4, 6]
    assert (result.forwards[good] == 2 + 50 + 5).all()
    assert (distances(found, images) < distances(starts, images))[good].all()
    assert torch.equal(starts, given_starts)
    attack = Boundary(steps=50)
    started = attack.starting_from(starts[good])
    assert torch.equal(started.images(model, images[good], labels[good]), found[good])
    assert started.parameters() == attack.parameters() and str(started) == str(attack)


def test_the_start_is_the_first_blend_that_is_adversarial(model, batch):
    images, labels = batch
    keys = torch.arange(8) + 40
    _, result = boundary(model, images, labels, steps=1, keys=keys, seed=3, details=True)
    found = boundary(
        model, images, labels, steps=1, keys=keys, seed=3, source_step=1e-9, convergence=0
    )
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        for number in range(50):
            noise = draws.uniform(keys[i : i + 1], 3, number, (3, 8, 8), torch.float64)[0]
            if classes(model, noise[None]) != label:
                break
        blends = [torch.lerp(image, noise, k / 50) for k in range(1, 51)]
        first = (classes(model, torch.stack(blends)) != label).nonzero()[0].item()
        start = blends[first]
        # One spherical step of 1 % keeps the distance.
        assert distances(found[i : i + 1], image[None]) == pytest.approx(
            (start - image).norm().item(), rel=2e-2
        )
        assert (found[i] - start).norm() < 0.02 * (start - image).norm()
        assert result.forwards[i] == 1 + (number + 1) + min(first + 1, 49) + 1


@pytest.mark.parametrize("steps, every", [(1, 1), (9, 10), (10, 10), (12, 5)])
def test_passes_are_counted(model, batch, steps, every):
    images, labels = batch
    seen = []
    handle = model.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
    options = {"steps": steps, "update_every": every}
    _, result = boundary(model, images, labels, details=True, **options)
    assert sum(seen) == result.forwards.sum() + 2 * len(images)  # and two verdicts
    assert (result.backwards == 0).all()
    seen.clear()
    starts = boundary(model, images, labels, **options)
    seen.clear()
    _, result = boundary(model, images, labels, starts=starts, details=True, **options)
    handle.remove()
    assert (result.forwards == 2 + steps + steps // every).all()
    assert sum(seen) == result.forwards.sum() + 2 * len(images)
    assert len(seen) == 2 + 2 + steps  # both kinds of candidates are judged in one pass


@pytest.mark.parametrize("every", [1, 4])
def test_nobody_uses_more_queries_than_allowed(model, batch, every):
    images, labels = batch
    options = {"steps": 60, "update_every": every, "details": True}
    _, free = boundary(model, images, labels, **options)
    for most in (2, 3, 8, 9, 12, 13, 14, 30, 200):
        found, result = boundary(model, images, labels, max_queries=most, **options)
        assert (result.forwards <= most).all()
        # Only a step of two passes can leave one over.
        assert (result.forwards >= free.forwards.clamp(max=most - 1)).all()
        started = result.status == Status.FOOLED
        assert (classes(model, found) != labels)[started].all()
        assert (result.status[~started] == Status.NO_START).all()
        enough = free.forwards <= most
        assert torch.equal(found[enough], free.images[enough])


def test_converged_images_leave(model, batch):
    images, labels = batch
    passes = []
    for convergence in (0.0, 1e-3, 5e-3):
        options = {**SOON, "convergence": convergence, "details": True}
        starts = boundary(model, images, labels, steps=1)
        passes.append(boundary(model, images, labels, starts=starts, **options)[1].forwards)
    assert (passes[0] == 2 + 2 * 400).all()
    assert (passes[2] <= passes[1]).all() and (passes[1] <= passes[0]).all()
    assert (passes[2] < passes[0]).sum() > 2 and len(set(passes[2].tolist())) > 3
    assert passes[2].min() >= 2 + 2 * 30  # not before a window is full


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_pixels(dtype):
    """What counts is the image that comes back: the model judged it in its own precision."""
    model = Curved().eval().to(dtype)
    images = random_images(6).to(dtype)
    labels = classes(model, images)
    found, result = boundary(model, images, labels, steps=200, details=True)
    one = boundary(model, images, labels, steps=1)
    assert found.dtype == dtype and (result.status == Status.FOOLED).all()
    assert (distances(found.float(), images.float()) < distances(one.float(), images.float())).all()


@pytest.mark.parametrize(
    "starts, words",
    [
        (torch.zeros(7, 3, 8, 8, dtype=torch.float64), ["(7, 3, 8, 8)", "(8, 3, 8, 8)"]),
        (torch.zeros(8, 3, 8, 8), ["float32", "float64"]),
        (torch.full((8, 3, 8, 8), 1.5, dtype=torch.float64), ["1.5", "[0,1]"]),
        (torch.full((8, 3, 8, 8), math.nan, dtype=torch.float64), ["nan", "[0,1]"]),
        ([1, 2], ["list", "tensor"]),
    ],
)
def test_starts_refused(model, batch, starts, words):
    with refused("starts", *words):
        boundary(model, *batch, starts=starts)
