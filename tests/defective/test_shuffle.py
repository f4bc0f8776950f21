"""Shuffled patches: each image's patches, all of them, each once, in an order of its own."""

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scotoma.defective.errors import UserError
from scotoma.defective.robustness.shuffle import check_grid, orders, shuffle_patches

sizes = st.tuples(
    st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.integers(1, 5), st.integers(1, 5)
)


def patches(images, grid):
    """[N, grid * grid, C, h, w], cut out one by one."""
    tall, wide = images.shape[2] // grid, images.shape[3] // grid
    found = [
        images[:, :, i * tall : (i + 1) * tall, j * wide : (j + 1) * wide]
        for i in range(grid)
        for j in range(grid)
    ]
    return torch.stack(found, 1)


@given(size=sizes, seed=st.integers(0, 2**40), first=st.integers(0, 10**6))
@settings(max_examples=60)
def test_the_patches_of_each_image_change_places_and_nothing_else(size, seed, first):
    count, channels, grid, tall, wide = size
    shape = (count, channels, grid * tall, grid * wide)
    images = torch.arange(torch.tensor(shape).prod()).view(shape)  # every value once
    keys = torch.arange(first, first + count)
    shuffled = shuffle_patches(images, grid, seed, keys)
    assert shuffled.shape == images.shape and shuffled.dtype == images.dtype
    before, after = patches(images, grid), patches(shuffled, grid)
    order = orders(keys, grid, seed)
    for number in range(count):
        assert order[number].sort().values.tolist() == list(range(grid * grid))
        assert torch.equal(after[number], before[number][order[number]])


def test_an_image_is_shuffled_alone_as_in_any_batch():
    images, keys = torch.rand(10, 3, 8, 8), torch.randint(0, 10**9, (10,))
    together = shuffle_patches(images, 4, 5, keys)
    for number in (0, 3, 9):
        part = slice(number, number + 1)
        assert torch.equal(shuffle_patches(images[part], 4, 5, keys[part]), together[part])
    turned = torch.arange(9, -1, -1)
    again = shuffle_patches(images[turned], 4, 5, keys[turned])
    assert torch.equal(again[turned], together)


def test_images_seeds_and_grids_have_orders_of_their_own():
    keys = torch.arange(200)
    one = orders(keys, 4, 0)
    assert len(one.unique(dim=0)) == 200
    assert not (one == orders(keys, 4, 1)).all(1).any()
    # Were both grids' orders made of the same numbers, the first 4 would rank the same.
    beginnings = one.argsort(1)[:, :4].argsort(1)
    assert (beginnings == orders(keys, 2, 0)).all(1).float().mean() < 0.2


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_order_of_four_patches_is_as_likely(seed):
    chi2 = pytest.importorskip("scipy.stats", reason="scipy is not installed").chi2
    found = orders(torch.arange(24_000), 2, seed).tolist()
    counts = {order: 0 for order in permutations(range(4))}  # the identity is one of them
    for order in found:
        counts[tuple(order)] += 1
    statistic = sum((count - 1000) ** 2 / 1000 for count in counts.values())
    # The seeds are fixed: within both tails, since even counts would be as wrong as uneven ones.
    assert chi2.ppf(0.001, 23) < statistic < chi2.ppf(0.999, 23)


def test_a_grid_of_one_is_the_identity():
    """And the original stays as it is."""
    images = torch.rand(4, 3, 8, 8)
    before = images.clone()
    assert torch.equal(shuffle_patches(images, 1, 0, torch.arange(4)), images)
    shuffle_patches(images, 2, 0, torch.arange(4))
    assert torch.equal(images, before)


def test_a_grid_that_does_not_divide_the_side_is_refused_with_those_that_do():
    with pytest.raises(UserError, match=r"grid is 8; images of side 28 .* 1, 2, 4, 7, 14, 28$"):
        shuffle_patches(torch.rand(1, 1, 28, 28), 8, 0, torch.zeros(1, dtype=torch.int64))
    with pytest.raises(UserError, match=r"side 8x12 .* only into 1, 2, 4$"):
        check_grid(3, 8, 12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": 0}, "grid is 0"),
        ({"grid": 2.0}, "grid is 2.0"),
        ({"seed": -1}, "seed is -1"),
        ({"images": torch.rand(3, 8, 8)}, r"images is \(3, 8, 8\)"),
        ({"images": "cat"}, "images is str"),
        ({"keys": torch.arange(3)}, r"keys is \(3,\) torch.int64"),
        ({"keys": torch.zeros(2)}, r"keys is \(2,\) torch.float32"),
    ],
)
def test_bad_arguments_are_refused(changes, message):
    good = {"images": torch.rand(2, 1, 8, 8), "grid": 2, "seed": 0, "keys": torch.arange(2)}
    with pytest.raises(UserError, match=message):
        shuffle_patches(**good | changes)
