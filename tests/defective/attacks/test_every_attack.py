"""What holds for every attack: the box, the ball, independence, names, results."""

import copy
from functools import cache

import pytest
import torch
from scotoma.defective import UserError, create_model, use_backend
from scotoma.defective.attacks import (
    Status,
    attack_class,
    attack_names,
    make_attack,
    parse_attack,
)

# Short enough for a test, long enough to move: settings of every attack that is our own.
SHORT = {
    "fgsm": {"eps": 0.03},
    "pgd": {"eps": 0.03, "step": 0.01, "steps": 3},
    "mifgsm": {"eps": 0.03, "step": 0.01, "steps": 3},
    "gaussian-noise": {"sigma": 0.1},
    "cw-l2": {"search_steps": 3, "steps": 6, "lr": 0.05, "initial_const": 1.0},
    "boundary": {"steps": 12},
    "ls-pga": {"eps": 0.05, "steps": 3},
}
VARIANTS = [
    ("pgd", {"eps": 1.0, "step": 0.3, "steps": 3, "norm": "l2"}),
    ("pgd", {"eps": 0.03, "step": 0.01, "steps": 2, "random_start": True, "restarts": 3}),
    ("pgd", {"eps": 0.5, "step": 0.2, "steps": 2, "norm": "l2", "random_start": True}),
    ("pgd", {"eps": 0.05, "step": 0.01, "steps": 5, "stop_when_fooled": True}),
    ("gaussian-noise", {"sigma": 0.2, "tails": "truncate"}),
]
LIBRARY = ("apgd", "autoattack")
CASES = [*SHORT.items(), *VARIANTS]


@cache
def network_for(thermometer):
    """In float64, where the size of a batch changes no sign."""
    torch.manual_seed(0)
    options = {"width": 4, "image_size": 16, "thermometer": thermometer}
    network = create_model("resnet18", "0.3-Bottom", **options)
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
            module.bias.data.copy_(torch.randn(module.bias.shape, generator=generator) * 0.3)
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.rand(16, 3, 16, 16, generator=generator))
    return network.eval().double()


@pytest.fixture
def model(request):
    """A network for the attack of this case."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    return network_for(16 if parameters.get("case", ("",))[0] == "ls-pga" else 0)


@pytest.fixture
def batch(model):
    """Seven images; the model is wrong on one of them."""
    generator = torch.Generator().manual_seed(2)
    images = (torch.rand(7, 3, 16, 16, generator=generator, dtype=torch.float64) * 1.2 - 0.1).clamp(
        0, 1
    )
    with torch.no_grad():
        labels = model(images).argmax(1)
    labels[4] = (labels[4] + 1) % 10
    return images, labels


def name_of(case):
    return "-".join([case[0], *map(str, case[1].values())])


def test_every_attack_is_here():
    assert {*SHORT, *LIBRARY} == set(attack_names())


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_an_image_alone_in_a_batch_or_in_another_order(model, batch, case):
    images, labels = batch
    attack = make_attack(*case)
    together = attack(model, images, labels)
    order = torch.tensor([3, 6, 0, 5, 1, 4, 2])
    turned = attack(model, images[order], labels[order])
    same = torch.equal
    if case[1].get("norm") == "l2":  # steps by the gradient, whose last digits know the batch

        def same(a, b):
            return torch.allclose(a, b, rtol=0, atol=1e-9)

    for field in ("images", "predictions", "status", "forwards", "backwards"):
        assert same(getattr(turned, field), getattr(together, field)[order]), field
    for row in (0, 4, 5):
        alone = attack(model, images[row : row + 1], labels[row : row + 1])
        for field in ("images", "predictions", "status", "forwards", "backwards"):
            assert same(getattr(alone, field)[0], getattr(together, field)[row]), field


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_pixels_stay_in_the_box_and_the_inputs_as_they_are(model, batch, case):
    images, labels = (t.clone() for t in batch)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    attack = make_attack(*case)
    generator = torch.get_rng_state()
    found = attack.images(model, images, labels)
    assert found.shape == images.shape and found.dtype == images.dtype
    assert not found.requires_grad and found.data_ptr() != images.data_ptr()
    assert found.min() >= 0 and found.max() <= 1
    assert not torch.equal(found, images)
    assert torch.equal(images, batch[0]) and torch.equal(labels, batch[1])
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    settings = attack.parameters()
    if "eps" in settings:
        delta = (found - images).flatten(1)
        norm = 2 if settings.get("norm") == "l2" else float("inf")
        assert (delta.norm(norm, dim=1) <= settings["eps"] + 1e-12).all()


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_the_result_says_what_happened(model, batch, case):
    images, labels = batch
    result = make_attack(*case)(model, images, labels)
    with torch.no_grad():
        clean, now = model(images).argmax(1), model(result.images).argmax(1)
    assert torch.equal(result.predictions, now)
    assert torch.equal(result.clean_predictions, clean)
    for row in range(len(images)):
        if clean[row] != labels[row]:
            expected = Status.MISCLASSIFIED
        else:
            expected = Status.FOOLED if now[row] != labels[row] else Status.RESISTED
        assert result.status[row] in (expected, Status.NO_START)
    assert torch.equal(result.fooled, result.status == Status.FOOLED)
    assert result.status[4] == Status.MISCLASSIFIED


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_channels_last_images_give_the_same(model, batch, case):
    images, labels = batch
    attack = make_attack(*case)
    expected = attack.images(model, images, labels)
    found = attack.images(model, images.contiguous(memory_format=torch.channels_last), labels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


RANDOM = [c for c in CASES if "seed" in make_attack(*c).parameters()]
RANDOM = [c for c in RANDOM if c[0] != "pgd" or c[1].get("random_start")]


@pytest.mark.parametrize("case", RANDOM, ids=name_of)
def test_random_numbers_follow_seed_and_key(model, batch, case):
    images, labels = batch
    name, settings = case
    keys = torch.arange(7)
    first = make_attack(name, settings).images(model, images, labels, keys)
    assert torch.equal(make_attack(name, settings).images(model, images, labels, keys), first)
    other = make_attack(name, {**settings, "seed": 1}).images(model, images, labels, keys)
    moved = make_attack(name, settings).images(model, images, labels, keys + 7)
    # All but the image that may not move because the model is wrong on it.
    right = torch.arange(7) != 4
    for changed in (other, moved):
        assert (changed[right] != first[right]).flatten(1).any(1).all()


@pytest.mark.parametrize("name", [*SHORT, *LIBRARY])
def test_settings_survive_text_and_files(name):
    attack = make_attack(name, SHORT.get(name))
    assert parse_attack(str(attack)) == attack
    values = attack.parameters()
    assert values.pop("attack") == name
    assert make_attack(name, values) == attack


def test_text_is_what_people_write():
    attack = parse_attack("pgd: eps=16/255, step=1/255, steps=20")
    assert (attack.eps, attack.step, attack.steps) == (16 / 255, 1 / 255, 20)
    assert str(attack).startswith("pgd:eps=16/255,step=1/255,steps=20,norm=linf")
    assert parse_attack("pgd") == attack_class("pgd")()
    assert parse_attack("pgd:eps=0.1,random_start=true").random_start is True


@pytest.mark.parametrize(
    "text, words",
    [
        ("pdg", ["'pdg' is unknown", "Did you mean 'pgd'"]),
        ("pgd:epsilon=8/255", ["no setting 'epsilon'", "Did you mean 'eps'"]),
        ("pgd:eps", ["expected key=value", "'eps'", "steps=20"]),
        ("pgd:eps=", ["expected key=value"]),
        ("pgd:eps=8", ["eps is 8", "<= 1", "8/255"]),
        ("pgd:eps=eight", ["eps is 'eight'", "8/255"]),
        ("pgd:eps=8/0", ["eps is '8/0'"]),
        ("pgd:eps=nan", ["eps is nan"]),
        ("pgd:steps=2.5", ["steps is '2.5'", "whole number"]),
        ("pgd:steps=0", ["steps is 0", "at least 1"]),
        ("pgd:random_start=maybe", ["random_start is 'maybe'", "true or false"]),
        ("pgd:norm=l1", ["norm is 'l1'", "linf, l2"]),
        ("pgd:restarts=2", ["restarts is 2 without random_start"]),
        ("pgd:seed=-1", ["seed is -1"]),
        ("mifgsm:decay=-1", ["decay is -1"]),
        ("fgsm:eps=0", ["eps is 0"]),
        ("gaussian-noise:sigma=2", ["sigma is 2"]),
        ("gaussian-noise:tails=cut", ["tails is 'cut'"]),
        ("gaussian-noise:limit=0", ["limit is 0"]),
        ("ls-pga:eps=2", ["eps is 2.0", "<= 1"]),
        ("ls-pga:step=0", ["step is 0.0", "above 0"]),
        ("ls-pga:steps=0", ["steps is 0"]),
        ("ls-pga:temperature=0", ["temperature is 0.0", "above 0"]),
        ("ls-pga:temperature=inf", ["temperature is inf", "finite"]),
        ("ls-pga:annealing=0.9", ["annealing is 0.9", "at least 1"]),
        ("ls-pga:seed=-1", ["seed is -1"]),
    ],
)
def test_bad_text_is_refused(text, words):
    with pytest.raises(UserError) as error:
        parse_attack(text)
    assert all(word in str(error.value) for word in words), error.value


def test_a_euclidean_radius_beyond_the_box_is_refused(model, batch):
    attack = make_attack("pgd", {"eps": 128, "step": 1, "steps": 1, "norm": "l2"})
    with pytest.raises(UserError, match=r"eps is 128\.0; expected 0 < eps <= 27\.7"):
        attack(model, *batch)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_gpu_finds_what_a_cpu_finds(model, batch, case):
    """In float64 and with the eager layers both compute the same, but for the order of sums."""
    images, labels = batch
    attack = make_attack(*case)
    expected = attack(model, images, labels)
    found = attack(copy.deepcopy(model).cuda(), images.cuda(), labels.cuda())
    assert torch.equal(found.status.cpu(), expected.status)
    assert torch.equal(found.forwards.cpu(), expected.forwards)
    torch.testing.assert_close(found.images.cpu(), expected.images, rtol=0, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("case", [("pgd", SHORT["pgd"]), ("mifgsm", SHORT["mifgsm"])], ids=name_of)
def test_the_fused_kernels_attack_as_the_eager_layers_do(model, batch, case):
    """float32 on a GPU: gradients near zero may change their sign, elsewhere nothing changes."""
    images, labels = (batch[0].float().cuda(), batch[1].cuda())
    found = []
    for backend in ("eager", "triton"):
        network = copy.deepcopy(model).float().cuda()
        use_backend(network, backend)
        found.append(make_attack(*case).images(network, images, labels))
    assert (found[0] == found[1]).float().mean() > 0.98
