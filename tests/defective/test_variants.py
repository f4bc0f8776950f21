"""Masks and weights are drawn apart: new masks on old weights, new weights on old masks."""

import copy

import pytest
import torch
from scotoma.defective import UserError, mask_sites, model_names, resample_masks, reset_weights

EACH = pytest.mark.parametrize("name", model_names())


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def rest(model):
    """All but the masks."""
    return {k: v for k, v in snapshot(model).items() if k.rpartition(".")[2] != "mask"}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@EACH
def test_resampled_masks_are_those_of_a_network_of_that_seed(small_model, randomise, name):
    model = randomise(small_model(name, "0.7-Bottom,0.3-Top"))
    before, others = snapshot(model), rest(model)
    old = {site: mask.clone() for site, mask in mask_sites(model).items()}
    resample_masks(model, 7)
    expected = mask_sites(small_model(name, "0.7-Bottom,0.3-Top", mask_seed=7))
    assert same(mask_sites(model), expected)
    assert not any(torch.equal(mask, old[site]) for site, mask in mask_sites(model).items())
    assert same(rest(model), others) and model.spec.mask_seed == 7
    resample_masks(model, 0)
    assert same(snapshot(model), before)


@pytest.mark.parametrize(
    "defects, options",
    [("0.1-BottomSM", {}), ("0.5-BottomCM", {}), ("0.3-Bottom", {"exact_masks": False})],
)
def test_every_kind_resamples_as_it_was_drawn(small_model, defects, options):
    model = small_model("resnet18", defects, width=16, **options)
    resample_masks(model, 3)
    expected = small_model("resnet18", defects, width=16, mask_seed=3, **options)
    assert same(mask_sites(model), mask_sites(expected))


def test_resampling_happens_in_place_or_not_at_all(small_model):
    """Whoever holds the buffers, such as a captured graph, sees the new masks; a copy does not."""
    model = small_model("resnet18")
    twin, before, generator = copy.deepcopy(model), snapshot(model), torch.get_rng_state()
    with pytest.raises(UserError, match="mask_seed is -1"):
        resample_masks(model, -1)
    assert same(snapshot(model), before) and model.spec == twin.spec
    addresses = {site: mask.data_ptr() for site, mask in mask_sites(model).items()}
    resample_masks(model, 1)
    assert {site: mask.data_ptr() for site, mask in mask_sites(model).items()} == addresses
    assert torch.equal(torch.get_rng_state(), generator)
    assert same(snapshot(twin), before) and twin.spec.mask_seed == 0


@EACH
def test_reset_weights_are_those_of_the_global_seed(small_model, randomise, name):
    """Statistics too; masks stay, also those of a resampled network. The mode, the dtype and the
    optimiser's references to parameters stay."""
    model = randomise(small_model(name)).double()
    resample_masks(model, 5)
    masks = {site: mask.clone() for site, mask in mask_sites(model).items()}
    parameters, generator = list(model.parameters()), torch.get_rng_state()
    reset_weights(model, 11)
    assert torch.equal(torch.get_rng_state(), generator) and not model.training
    assert same(mask_sites(model), masks)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert same(rest(model), rest(small_model(name, seed=11).double()))
