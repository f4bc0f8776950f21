"""The geometry of a step, and the adaptation of step sizes, each against its definition."""

import math
from collections import deque

import pytest
import torch
from boundary_models import distances, random_images
from hypothesis import given, settings
from hypothesis import strategies as st
from scotoma.defective.attacks.boundary import Walk, Window


def walk_of(images, best, spherical, source):
    count = len(images)
    return Walk(
        images=images,
        best=best,
        rows=torch.arange(count),
        keys=torch.arange(count),
        last=torch.full((count,), 9),
        distance=distances(images, best),
        spherical=torch.as_tensor(spherical, dtype=images.dtype).expand(count).clone(),
        source=torch.as_tensor(source, dtype=images.dtype).expand(count).clone(),
        around=Window.empty(images, 100),
        ahead=Window.empty(images, 30),
    )


@pytest.mark.parametrize("spherical", [0.001, 0.05, 0.7])
@pytest.mark.parametrize("source", [1e-6, 0.02, 0.5])
def test_a_step_inside_the_box(spherical, source):
    """The first part turns by atan(spherical); the second shortens by the factor 1 - source."""
    images = 0.5 + 0.01 * random_images(5, dtype=torch.float64)
    best = images + 0.05 * (random_images(5, seed=4, dtype=torch.float64) - 0.5)
    walk = walk_of(images, best, spherical, source)
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(images.shape, generator=generator, dtype=torch.float64)
    sphere, candidates, distance = walk.propose(directions.clone())
    torch.testing.assert_close(distances(sphere, images), walk.distance)
    torch.testing.assert_close(distance, distances(candidates, images))
    torch.testing.assert_close(distance, (1 - source) * walk.distance)
    before, after = (best - images).flatten(1), (sphere - images).flatten(1)
    angle = torch.cosine_similarity(before, after, dim=1)
    torch.testing.assert_close(angle, torch.full_like(angle, math.cos(math.atan(spherical))))
    ahead = (candidates - images).flatten(1)
    torch.testing.assert_close(ahead, (1 - source) * after)
    # The turn is in the plane of the old line and the random direction, and along the latter.
    turned = after - before * (after * before).sum(1, True) / before.square().sum(1, True)
    flat = directions.flatten(1)
    across = flat - before * (flat * before).sum(1, True) / before.square().sum(1, True)
    torch.testing.assert_close(torch.cosine_similarity(turned, across), torch.ones(5).double())


def test_a_step_at_the_borders_of_the_box():
    """Clipping shortens the first part; the second still ends no farther than it should."""
    images, best = random_images(5, dtype=torch.float64), random_images(5, 8, 9, torch.float64)
    walk = walk_of(images, best, 0.5, 0.01)
    directions = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)).double()
    sphere, candidates, distance = walk.propose(directions)
    for points in (sphere, candidates):
        assert points.min() >= 0 and points.max() <= 1
    assert (distances(sphere, images) < 0.99 * walk.distance).any()
    assert (distance <= (1 - 0.01) * walk.distance * (1 + 1e-12)).all()


def test_only_nearer_adversarial_candidates_are_accepted():
    images, best = torch.zeros(4, 3, 8, 8), torch.full((4, 3, 8, 8), 0.5)
    walk = walk_of(images, best.clone(), 0.1, 0.1)
    before = walk.distance.clone()
    candidates = torch.full_like(best, 0.25)
    distance = torch.tensor([0.5, 0.5, 2.0, math.nan]) * before
    walk.accept(candidates, distance, torch.tensor([True, False, True, True]))
    assert torch.equal(walk.best[0], candidates[0]) and torch.equal(walk.best[1:], best[1:])
    assert walk.distance[0] == 0.5 * before[0] and torch.equal(walk.distance[1:], before[1:])


class Plain:
    """One image's step sizes, written down from the rule, with a queue for each trial."""

    def __init__(self):
        self.spherical, self.source = 0.01, 0.02
        self.around, self.ahead = deque(maxlen=100), deque(maxlen=30)

    def adapt(self, around, ahead, factor):
        self.around.append(around)
        self.ahead.append(ahead)
        for queue, low, high, both in (
            (self.around, (20, 100), (50, 100), True),
            (self.ahead, (1, 10), (1, 4), False),
        ):
            if len(queue) < queue.maxlen:
                continue
            hits, change = sum(queue), 1.0
            if hits * high[1] > high[0] * len(queue):
                change = factor
            elif hits * low[1] < low[0] * len(queue):
                change = 1 / factor
            if change != 1.0:
                queue.clear()
                self.source *= change
                if both:
                    self.spherical *= change


@settings(max_examples=12)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0]), st.sampled_from([0, 0.1, 0.25, 0.6])),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 2**30),
    st.integers(1, 260),
)
def test_step_sizes_follow_the_rule(rates, seed, leaving):
    """Each image on its own, also after its neighbours have left."""
    count = len(rates)
    walk = walk_of(torch.zeros(count, 1, 1, 2), torch.ones(count, 1, 1, 2), 0.01, 0.02)
    plain = [Plain() for _ in rates]
    chances = torch.tensor(rates, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(300, count, 2, generator=generator) < chances
    for number in range(1, 301):
        if number == leaving:
            walk.keep(walk.rows % 2 == 0)
        outcomes = drawn[number - 1]
        walk.adapt(outcomes[walk.rows, 0], outcomes[walk.rows, 1], number, 1.5)
        for row in walk.rows.tolist():
            plain[row].adapt(bool(outcomes[row, 0]), bool(outcomes[row, 1]), 1.5)
    for place, row in enumerate(walk.rows.tolist()):
        assert walk.spherical[place] == pytest.approx(plain[row].spherical, rel=1e-4)
        assert walk.source[place] == pytest.approx(plain[row].source, rel=1e-4)
