"""Masks: how many units each kind keeps, how they are spread, and what decides them."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused
from scotoma.defective import create_model, mask_sites, sample_mask
from scotoma.defective.masks import kept_count, site_generator


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Kept neurons of the authors' generators, N - floor(N (1 - p)); docs/reference.md, 2.
@pytest.mark.parametrize(
    "size, counts",
    [
        ((64, 32, 32), {0.7: 45876, 0.5: 32768, 0.3: 19661, 0.1: 6554}),
        ((128, 16, 16), {0.7: 22938, 0.5: 16384, 0.3: 9831, 0.1: 3277}),
        ((256, 8, 8), {0.7: 11469, 0.5: 8192, 0.3: 4916}),
        ((512, 4, 4), {0.7: 5735, 0.5: 4096, 0.3: 2458}),
        # 1000 * (1 - 0.9) is 99.99999999999997 in floating point; 100 have to be dropped.
        ((10, 10, 10), {0.9: 900}),
    ],
)
def test_exact_counts_of_the_release(size, counts):
    for p, kept in counts.items():
        mask = sample_mask(size, p, generator=generator())
        assert mask.dtype == torch.bool and mask.shape == size and mask.is_contiguous()
        assert mask.sum().item() == kept


@given(
    st.tuples(*[st.integers(1, 12)] * 3),
    st.one_of(st.decimals("0.001", "1", places=3).map(float), st.floats(1e-6, 1, exclude_min=True)),
    st.sampled_from(["neuron", "channel", "shared"]),
    st.integers(0, 2**62),
)
def test_exact_count_in_rational_arithmetic(shape, p, kind, seed):
    """kept == n - floor(n (1 - p)), with p the decimal number that was written."""
    units = {"neuron": math.prod(shape), "channel": shape[0], "shared": shape[1] * shape[2]}[kind]
    expected = units - math.floor(units * (1 - Fraction(repr(p))))
    mask = sample_mask(shape, p, kind, generator=generator(seed))
    whole = {"neuron": mask, "channel": mask[:, :1, :1], "shared": mask[:1]}[kind]
    assert mask.shape == shape and torch.equal(mask, whole.expand(shape))
    assert whole.sum().item() == expected
    assert kept_count(units, p) == expected


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("kind", ["neuron", "channel", "shared"])
def test_keep_probability_one_keeps_all(kind, exact):
    assert sample_mask((3, 4, 5), 1, kind, exact, generator()).all()


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_bernoulli_count(p):
    """Within 5 standard errors, and not the exact count: ten draws are not all equal."""
    n = 64 * 32 * 32
    counts = [
        sample_mask((64, 32, 32), p, exact=False, generator=generator(seed)).sum().item()
        for seed in range(10)
    ]
    error = math.sqrt(n * p * (1 - p))
    assert all(abs(count - n * p) < 5 * error for count in counts)
    assert len(set(counts)) > 1


@pytest.mark.parametrize("kind", ["channel", "shared"])
def test_bernoulli_units_are_whole(kind):
    mask = sample_mask((400, 20, 20), 0.3, kind, exact=False, generator=generator())
    units = mask[:, 0, 0] if kind == "channel" else mask[0]
    expanded = units.view(400, 1, 1) if kind == "channel" else units
    assert (mask == expanded).all()
    assert abs(units.float().mean().item() - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 400)


@pytest.mark.parametrize("exact", [True, False])
def test_every_position_is_equally_likely(exact):
    """Kept frequencies over 2000 draws, each within 5 standard errors of p; neighbours too.

    The pair count catches a draw without independence, such as one random offset of a fixed
    pattern: for an exact draw, P(both kept) = p (np - 1) / (n - 1).
    """
    draws, n, p = 2000, 24, 0.25
    source = generator(7)
    masks = torch.stack([sample_mask((2, 3, 4), p, "neuron", exact, source) for _ in range(draws)])
    frequency = masks.double().mean(0)
    assert (frequency - p).abs().max() < 5 * math.sqrt(p * (1 - p) / draws)
    flat = masks.flatten(1)
    both = (flat[:, :-1] & flat[:, 1:]).double().mean(0)
    pair = p * (n * p - 1) / (n - 1) if exact else p * p
    assert (both - pair).abs().max() < 5 * math.sqrt(pair * (1 - pair) / draws)


@pytest.mark.parametrize("exact", [True, False])
def test_the_generator_decides(exact):
    """One of the caller's leaves the global one, which decides where there is none."""
    state = torch.get_rng_state()
    one, same, other = (
        sample_mask((4, 5, 6), 0.5, exact=exact, generator=generator(seed)) for seed in (9, 9, 10)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(sample_mask((4, 5, 6), 0.5, exact=exact))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def sites_of(name, seed, defects="0.5-Bottom"):
    return mask_sites(create_model(name, defects, width=4, mask_seed=seed))


def test_a_site_mask_depends_on_seed_model_and_site():
    """Equal shapes everywhere here, so equal masks could only come from an equal draw."""
    drawn = {
        (seed, model, site): tuple(torch.rand(8, generator=site_generator(seed, model, site)))
        for seed in (0, 1, 11)
        for model in ("resnet18", "resnet50")
        for site in ("stem.bn", "block1.0.bn1")
    }
    assert len(set(drawn.values())) == len(drawn)
    again = torch.rand(8, generator=site_generator(1, "resnet50", "stem.bn"))
    assert tuple(again) == drawn[1, "resnet50", "stem.bn"]


def test_masks_of_a_model_follow_its_seed():
    """Not the global generator; each site by itself, whether or not others are masked as well.

    The release shared mask files between networks and, by mistake, between sites.
    """
    first, other = sites_of("resnet18", 3), sites_of("resnet18", 4)
    torch.manual_seed(2)
    second, both = sites_of("resnet18", 3), sites_of("resnet18", 3, "0.5-Bottom,0.3-Top")
    assert len(both) == 20
    for site, mask in first.items():
        assert torch.equal(mask, second[site]) and torch.equal(mask, both[site])
        assert not torch.equal(mask, other[site])
    masks = [*first.values(), *sites_of("resnet50", 3).values()]
    assert len({tuple(m.flatten().tolist()) for m in masks}) == len(masks) == 18


def test_masks_do_not_consume_the_weights_generator():
    """A defective network starts from the very weights of the standard one."""
    weights = []
    for defects in ("standard", "0.5-Bottom"):
        torch.manual_seed(0)
        weights.append(dict(create_model("resnet18", defects, width=4).named_parameters()))
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name])


@pytest.mark.parametrize(
    "shape, p, kind, words",
    [
        ((3, 4), 0.5, "neuron", ["shape", "[3, 4]", "(C, H, W)"]),
        ((1, 3, 4, 5), 0.5, "neuron", ["shape", "[1, 3, 4, 5]", "(C, H, W)"]),
        ((3, 0, 5), 0.5, "neuron", ["shape", "[3, 0, 5]", "positive"]),
        ((3, 4, 5), 0, "neuron", ["keep_probability", "0", "0 < p <= 1"]),
        ((3, 4, 5), 1.01, "neuron", ["keep_probability", "1.01", "0 < p <= 1"]),
        ((3, 4, 5), -0.5, "neuron", ["keep_probability", "-0.5", "0 < p <= 1"]),
        ((3, 4, 5), float("nan"), "neuron", ["keep_probability", "nan", "0 < p <= 1"]),
        ((3, 4, 5), 0.5, "pixel", ["kind", "'pixel'", "neuron", "channel", "shared"]),
    ],
)
def test_refused(shape, p, kind, words):
    with refused(*words):
        sample_mask(shape, p, kind)
