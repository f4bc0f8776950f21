"""The images' random numbers: their bits, their distribution, and whom they belong to."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scotoma.defective.attacks import draws

M64 = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def finalise(z):
    """SplitMix64's output function (Steele, Lea and Flood, 2014), on unsigned integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M64
    return z ^ (z >> 31)


def split_mix(state, count):
    """The generator as published: add the golden gamma, then finalise."""
    words = []
    for _ in range(count):
        state = (state + GOLDEN) & M64
        words.append(finalise(state))
    return words


def begin(key, seed, draw):
    seeded = finalise((key + finalise((seed + 1) & M64)) & M64)
    return finalise((seeded + (draw + 1) * GOLDEN) & M64)


def signed(word):
    return word - 2**64 if word >= 2**63 else word


keys_st = st.integers(-(2**63), 2**63 - 1)
seeds_st = st.integers(0, 2**40)
draws_st = st.integers(0, 2**20)


def test_published_output_of_the_generator():
    """The first numbers from seed 1234567, as other implementations of SplitMix64 list them."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert split_mix(1234567, 3) == expected
    words = draws._stream(torch.tensor([1234567]), 3)[0]
    assert [int(w) & M64 for w in words] == expected


@given(keys_st, seeds_st, draws_st, st.integers(1, 9))
def test_uniform_has_the_generator_s_bits(key, seed, draw, count):
    words = split_mix(begin(key, seed, draw), count)
    keys = torch.tensor([key])
    found = draws.uniform(keys, seed, draw, (count,))[0]
    assert found.dtype == torch.float32
    assert found.tolist() == [(w >> 40) / 2**24 for w in words]
    found = draws.uniform(keys, seed, draw, (count,), torch.float64)[0]
    assert found.tolist() == [(w >> 11) / 2**53 for w in words]


@given(keys_st, seeds_st, draws_st, st.integers(1, 9))
def test_normal_is_box_and_muller_of_the_generator_s_bits(key, seed, draw, count):
    half = (count + 1) // 2
    words = split_mix(begin(key, seed, draw), half)
    radii = [math.sqrt(-2 * math.log(((w >> 40) + 1) / 2**24)) for w in words]
    angles = [2 * math.pi * (w & (2**24 - 1)) / 2**24 for w in words]
    parts = zip(radii, angles, strict=True)
    both = [(r * math.cos(a), r * math.sin(a)) for r, a in parts]
    expected = [c for c, _ in both] + [s for _, s in both]
    for dtype, error in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        found = draws.normal(torch.tensor([key]), seed, draw, (count,), dtype)[0]
        assert found.dtype == dtype
        assert found.tolist() == pytest.approx(expected[:count], abs=error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [draws.uniform, draws.normal])
def test_the_distribution(kind, dtype):
    """Over many keys with few numbers each, and over one key with many."""
    for keys, shape in ((torch.arange(4096), (17,)), (torch.tensor([-7]), (2**16,))):
        numbers = kind(keys, 5, 2, shape, dtype).double().flatten()
        if kind is draws.normal:
            assert numbers.abs().max() < 5.8
            numbers = torch.special.ndtr(numbers)
        n = len(numbers)
        assert numbers.min() >= 0 and numbers.max() < 1
        counts = torch.histc(numbers, 64, 0, 1)
        chi2 = ((counts - n / 64).square() / (n / 64)).sum()
        assert abs(chi2 - 63) < 5 * math.sqrt(2 * 63)
        found, places = numbers.sort()[0], torch.arange(n)
        gap = torch.maximum((places + 1) / n - found, found - places / n).max()
        assert gap < 2.2 / math.sqrt(n)  # Kolmogorov and Smirnov; 2.2 has a chance of 1e-4


@pytest.mark.parametrize("kind", [draws.uniform, draws.normal])
def test_streams_are_independent(kind):
    """Streams of neighbouring keys, seeds and draws, and the two halves of a stream."""
    n = 2**15
    keys = torch.tensor([0, 1, 2, 2**62, -1])
    streams = [*kind(keys, 0, 0, (n,), torch.float64)]
    streams += [kind(keys[:1], seed, 0, (n,), torch.float64)[0] for seed in (1, 2)]
    streams += [kind(keys[:1], 0, draw, (n,), torch.float64)[0] for draw in (1, 2, 25000)]
    table = torch.corrcoef(torch.stack(streams)) - torch.eye(len(streams))
    assert table.abs().max() < 5 / math.sqrt(n)
    squares = torch.corrcoef(torch.stack(streams).square()) - torch.eye(len(streams))
    assert squares.abs().max() < 5 / math.sqrt(n)
    for stream in streams:
        for lag in (1, 2, n // 2):
            pair = torch.corrcoef(torch.stack([stream[lag:], stream[:-lag]]))[0, 1]
            assert abs(pair) < 5 / math.sqrt(n - lag)


def test_neighbouring_keys_have_uniform_first_numbers():
    """A weak hash would show here: one number for each of many successive keys and draws."""
    for numbers in (
        draws.uniform(torch.arange(2**14), 0, 0, (1,)),
        torch.stack([draws.uniform(torch.tensor([3]), 0, draw, (1,)) for draw in range(1200)]),
        torch.stack([draws.uniform(torch.tensor([3]), seed, 0, (1,)) for seed in range(1200)]),
    ):
        numbers = numbers.double().flatten()
        n = len(numbers)
        chi2 = ((torch.histc(numbers, 32, 0, 1) - n / 32).square() / (n / 32)).sum()
        assert abs(chi2 - 31) < 5 * math.sqrt(2 * 31)
        assert abs(torch.corrcoef(torch.stack([numbers[1:], numbers[:-1]]))[0, 1]) < 5 / n**0.5


@pytest.mark.parametrize("kind", [draws.uniform, draws.normal])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5, 5), (3, 8, 8)])
def test_an_image_s_numbers_do_not_depend_on_its_batch(kind, dtype, shape):
    """Bit for bit, in any order, also where a batch ends in the middle of a vector register."""
    keys = torch.arange(13) * 7919 - 40000
    together = kind(keys, 3, 1, shape, dtype)
    assert together.shape == (13, *shape) and together.dtype == dtype
    order = torch.tensor([4, 12, 0, 7, 7, 1])
    assert torch.equal(kind(keys[order], 3, 1, shape, dtype), together[order])
    for i in range(13):
        assert torch.equal(kind(keys[i : i + 1], 3, 1, shape, dtype)[0], together[i])
    assert len({tuple(row.flatten().tolist()) for row in together}) == 13


def test_torch_s_generator_is_left_alone():
    state = torch.get_rng_state()
    draws.uniform(torch.arange(3), 0, 0, (4,))
    draws.normal(torch.arange(3), 0, 0, (4,))
    assert torch.equal(torch.get_rng_state(), state)


@given(st.integers(2**63, 2**80))
def test_seeds_of_any_size(seed):
    found = draws.uniform(torch.tensor([5]), seed, 0, (3,))[0]
    words = split_mix(begin(5, seed, 0), 3)
    assert found.tolist() == [(w >> 40) / 2**24 for w in words]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (3, 32, 32)])
def test_content_keys(dtype, shape):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(9, *shape, generator=generator).to(dtype)
    images[4] = images[2]
    keys = draws.content_keys(images)
    assert keys.dtype == torch.int64 and keys.shape == (9,)
    assert keys[4] == keys[2] and len(set(keys.tolist())) == 8
    for i in range(9):
        assert draws.content_keys(images[i : i + 1])[0] == keys[i]
    order = torch.randperm(9, generator=generator)
    assert torch.equal(draws.content_keys(images[order]), keys[order])
    # The pixels count, not how they lie in memory.
    layout = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(draws.content_keys(layout), keys)
    assert torch.equal(draws.content_keys(images.clone().requires_grad_()), keys)


@given(st.integers(0, 74), st.integers(0, 74))
def test_content_keys_see_every_pixel_and_its_place(first, second):
    images = torch.rand(1, 75, generator=torch.Generator().manual_seed(1))
    changed, swapped = images.clone(), images.clone()
    changed[0, first] = torch.nextafter(images[0, first], torch.tensor(2.0))
    swapped[0, [first, second]] = images[0, [second, first]]
    pictures = [t.view(1, 3, 5, 5) for t in (images, changed, swapped)]
    keys = [int(draws.content_keys(t)) for t in pictures]
    assert keys[0] != keys[1]
    assert (keys[0] != keys[2]) == (first != second)
