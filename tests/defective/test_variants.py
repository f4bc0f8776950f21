"""Masks and weights are drawn apart: new masks on old weights, new weights on old masks."""

import copy

import pytest
import torch
from scotoma.defective import UserError, mask_sites, model_names, resample_masks, reset_weights

NAMES = model_names()


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def is_mask(name):
    return name.rpartition(".")[2] == "mask"


def rest(state):
    return {name: value for name, value in state.items() if not is_mask(name)}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("name", NAMES)
def test_resampled_masks_are_those_of_a_network_of_that_seed(small_model, randomise, name):
    model = randomise(small_model(name, "0.7-Bottom,0.3-Top"))
    before = snapshot(model)
    old = {site: mask.clone() for site, mask in mask_sites(model).items()}
    resample_masks(model, 7)
    expected = mask_sites(small_model(name, "0.7-Bottom,0.3-Top", mask_seed=7))
    assert same(mask_sites(model), expected)
    assert not any(torch.equal(mask, old[site]) for site, mask in mask_sites(model).items())
    assert same(rest(snapshot(model)), rest(before))
    assert model.spec.mask_seed == 7
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


def test_resampling_happens_in_place(small_model):
    """Whoever holds the buffers, such as a captured graph, sees the new masks."""
    model = small_model("resnet18")
    held = mask_sites(model)
    addresses = {site: mask.data_ptr() for site, mask in held.items()}
    before = torch.get_rng_state()
    resample_masks(model, 1)
    assert {site: mask.data_ptr() for site, mask in mask_sites(model).items()} == addresses
    assert torch.equal(torch.get_rng_state(), before)


def test_a_refused_seed_changes_nothing(small_model):
    model = small_model("resnet18")
    before, spec = snapshot(model), model.spec
    with pytest.raises(UserError, match="mask_seed is -1"):
        resample_masks(model, -1)
    assert same(snapshot(model), before) and model.spec == spec


@pytest.mark.parametrize("name", NAMES)
def test_reset_weights_are_those_of_the_global_seed(small_model, randomise, name):
    """Statistics too; masks stay, also those of a resampled network."""
    model = randomise(small_model(name))
    resample_masks(model, 5)
    masks = {site: mask.clone() for site, mask in mask_sites(model).items()}
    torch.manual_seed(99)
    before = torch.get_rng_state()
    reset_weights(model, 11)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(mask_sites(model), masks)
    expected = snapshot(small_model(name, seed=11))
    assert same(rest(snapshot(model)), rest(expected))


def test_reset_weights_keeps_mode_dtype_and_parameters(small_model):
    """The optimiser's references stay valid, and a float64 network stays one."""
    model = small_model("vgg19").double().eval()
    parameters = list(model.parameters())
    reset_weights(model, 11)
    assert not model.training
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    expected = small_model("vgg19", seed=11).double()
    assert same(snapshot(model), snapshot(expected))


@pytest.mark.parametrize("name", NAMES)
def test_masks_are_persistent_buffers(small_model, name):
    model = small_model(name)
    sites = mask_sites(model)
    saved = {k: v for k, v in model.state_dict().items() if is_mask(k)}
    assert saved.keys() == {f"{site}.mask" for site in sites}
    assert all(torch.equal(saved[f"{site}.mask"], mask) for site, mask in sites.items())
    # A network of other masks takes them over.
    other = small_model(name, mask_seed=1)
    other.load_state_dict(model.state_dict())
    assert same(mask_sites(other), sites)


@pytest.mark.parametrize(
    "convert",
    [
        lambda m: m.half(),
        lambda m: m.bfloat16(),
        lambda m: m.double(),
        lambda m: m.to(torch.float16),
    ],
    ids=["half", "bfloat16", "double", "to"],
)
def test_masks_stay_bool_in_any_dtype(small_model, convert):
    model = small_model("resnet18")
    before = {site: mask.clone() for site, mask in mask_sites(model).items()}
    model = convert(model)
    assert same(mask_sites(model), before)
    assert all(mask.dtype == torch.bool for mask in mask_sites(model).values())


def test_masks_follow_the_device(small_model):
    """The meta device stands in for a GPU."""
    model = small_model("resnet18").to("meta")
    assert mask_sites(model)
    assert all(mask.device.type == "meta" for mask in mask_sites(model).values())
    assert all(mask.dtype == torch.bool for mask in mask_sites(model).values())


@pytest.mark.parametrize("name", NAMES)
def test_training_leaves_the_masks(small_model, name):
    model = small_model(name)
    before = {site: mask.clone() for site, mask in mask_sites(model).items()}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        model(torch.rand(2, 3, 32, 32)).square().sum().backward()
        optimiser.step()
    assert same(mask_sites(model), before)


@pytest.mark.parametrize("name", NAMES)
def test_two_forwards_agree_in_evaluation(small_model, randomise, name):
    model = randomise(small_model(name))
    images = torch.rand(2, 3, 32, 32)
    state = snapshot(model)
    first = model(images)
    assert torch.equal(model(images), first)
    assert (first[0] - first[1]).abs().max() > 1e-4  # the logits do depend on the image
    assert same(snapshot(model), state)


def test_deepcopy_has_its_own_equal_masks(small_model):
    model = small_model("resnet18")
    twin = copy.deepcopy(model)
    assert same(snapshot(twin), snapshot(model)) and twin.spec == model.spec
    resample_masks(twin, 1)
    assert model.spec.mask_seed == 0
    fresh = small_model("resnet18")
    assert same(mask_sites(model), mask_sites(fresh))
