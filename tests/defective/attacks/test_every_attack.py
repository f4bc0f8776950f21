"""What holds for every attack: the box, the ball, independence, names, results."""

import copy
import inspect
import json
from dataclasses import fields
from functools import cache

import numpy as np
import pytest
import torch
from scotoma.defective import UserError, attacks, create_model, use_backend
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


FLOATS = {
    "fgsm": ["eps"],
    "pgd": ["eps", "step"],
    "mifgsm": ["eps", "step", "decay"],
    "gaussian-noise": ["sigma", "limit"],
    "cw-l2": ["confidence", "lr", "initial_const", "tolerance"],
    "boundary": ["spherical_step", "source_step", "convergence", "step_adaptation"],
    "ls-pga": ["eps", "step", "temperature", "annealing"],
    "apgd": ["eps"],
    "autoattack": ["eps"],
}


@pytest.mark.parametrize("name", attack_names())
def test_settings_that_are_no_numbers_are_named(name):
    kind = attack_class(name)
    values = {item.name: item.default for item in fields(kind)}
    assert sorted(FLOATS[name]) == sorted(k for k, v in values.items() if type(v) is float)
    for key, default in values.items():
        for wrong in ("8/255", [0.1], torch.tensor(0.1), 1j) + (None,) * (default is not None):
            with pytest.raises(UserError, match=rf"^{key} is .*expected"):
                kind(**{key: wrong})
        if type(default) in (float, int):
            with pytest.raises(UserError, match=f"^{key} is True; expected"):
                kind(**{key: True})


def test_numbers_of_numpy_are_numbers():
    attack = attack_class("pgd")(eps=np.float32(0.5), step=np.float64(0.25), steps=np.int64(3))
    assert (
        attack.parameters()
        == make_attack("pgd", {"eps": 0.5, "step": 0.25, "steps": 3}).parameters()
    )
    assert json.loads(json.dumps(attack.parameters()))["eps"] == 0.5


@pytest.mark.parametrize(
    "function, name",
    [
        (attacks.fgsm, "fgsm"),
        (attacks.pgd, "pgd"),
        (attacks.mifgsm, "mifgsm"),
        (attacks.cw_l2, "cw-l2"),
        (attacks.boundary, "boundary"),
        (attacks.lspga, "ls-pga"),
        (attacks.apgd, "apgd"),
        (attacks.autoattack, "autoattack"),
        (attacks.gaussian_noise, "gaussian-noise"),
    ],
)
def test_functions_have_the_defaults_of_the_classes(function, name):
    mine = {item.name: item.default for item in fields(attack_class(name))}
    given = inspect.signature(function).parameters
    for key in given.keys() & mine.keys():
        assert given[key].default == mine[key], key
    assert given.keys() & mine.keys()


@pytest.mark.parametrize("name", ["fgsm", "pgd", "mifgsm", "cw-l2", "boundary"])
def test_towards_a_goal(batch, name):
    """Labels are goals: the status says which are reached, and images that are there stay."""
    model, (images, _) = network_for(0), batch
    with torch.no_grad():
        best, second = model(images).topk(2).indices.T
    goals = second.clone()
    goals[3] = best[3]
    starts = images[(best[:, None] == goals).double().argmax(0)]
    settings = SHORT[name] if name in ("cw-l2", "boundary") else {"eps": 0.01}
    attack = make_attack(name, settings)
    attack = attack.starting_from(starts) if name == "boundary" else attack
    result = attack(model, images, goals, targeted=True)
    with torch.no_grad():
        now = model(result.images).argmax(1)
    assert torch.equal(result.predictions, now)
    for row in range(len(images)):
        reached = Status.FOOLED if now[row] == goals[row] else Status.RESISTED
        expected = Status.AT_GOAL if row == 3 else reached
        bad_start = name == "boundary" and row != 3 and goals[row] not in best
        assert result.status[row] == (Status.BAD_START if bad_start else expected)
    assert result.fooled.any() and result.fooled.equal(result.status == Status.FOOLED)
    if name in ("cw-l2", "boundary"):
        assert torch.equal(result.images[3], images[3])
    rows = torch.tensor([5, 3])
    again = make_attack(name, settings)
    again = again.starting_from(starts[rows]) if name == "boundary" else again
    again = again(model, images[rows], goals[rows], targeted=True)
    assert torch.equal(again.images, result.images[rows])
    assert torch.equal(again.status, result.status[rows])
    # The same labels as true classes: away from them.
    away = attack(model, images, goals)
    assert not (away.status == Status.AT_GOAL).any()
    assert torch.equal(away.status == Status.MISCLASSIFIED, best != goals)


@pytest.mark.parametrize(
    "options", [{"stop_when_fooled": True}, {"random_start": True, "restarts": 4}]
)
def test_pgd_stops_at_a_goal(batch, options):
    model, (images, _) = network_for(0), batch
    with torch.no_grad():
        goals = model(images).topk(2).indices[:, 1]
    settings = {"eps": 0.02, "step": 0.004, "steps": 5}
    plain = make_attack("pgd", settings)(model, images, goals, targeted=True)
    found = make_attack("pgd", settings | options)(model, images, goals, targeted=True)
    assert plain.fooled.any() and (found.fooled >= plain.fooled).all()
    spared = (
        found.forwards[found.fooled].double().mean() < found.forwards[~found.fooled].double().mean()
    )
    assert spared or found.fooled.all()


@pytest.mark.parametrize("name", ["ls-pga", "gaussian-noise", "apgd", "autoattack"])
def test_what_cannot_be_targeted_says_so(batch, name):
    with pytest.raises(UserError, match=f"^{name} cannot be targeted; use fgsm"):
        make_attack(name)(network_for(0), *batch, targeted=True)


def test_goals_are_labels(batch):
    with pytest.raises(UserError, match="the goals are given as labels"):
        attacks.pgd(network_for(0), *batch, targeted=batch[1])


class Flat(torch.nn.Module):
    """Linear logits of weights of one size: the gradient of half precision is zero, or too large
    for its own sums."""

    def __init__(self, size, dtype):
        super().__init__()
        self.weight = torch.nn.Parameter(
            torch.stack([torch.full((3072,), -size), torch.full((3072,), size)]).to(dtype)
        )
        self.eval()

    def forward(self, pixels):
        return (pixels.flatten(1) - 0.5) @ self.weight.T + self.weight.new_tensor([1e-2, 0])


GRADIENT = [c for c in CASES if c[0] not in ("ls-pga", "gaussian-noise", "boundary")]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("case", GRADIENT, ids=name_of)
def test_half_precision_without_and_with_a_large_gradient(case, dtype):
    """Without one nothing becomes NaN; with one of a sum over 65504 images move as they should."""
    images, labels = torch.full((2, 3, 32, 32), 0.5, dtype=dtype), torch.zeros(2, dtype=torch.int64)
    attack = make_attack(*case)
    with pytest.warns(UserWarning, match="the gradient for the pixels was 0"):
        result = attack(Flat(0.0, dtype), images, labels)
    assert result.images.dtype == dtype and result.images.isfinite().all()
    if attack.parameters().get("random_start"):
        return  # from where the other model is saturated
    assert torch.equal(result.images, images)
    result = attack(Flat(100.0, dtype), images, labels)
    assert result.fooled.all() and (result.images != images).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_half_precision_rounds_nothing_but_pixels(dtype, norm):
    images, labels = torch.full((1, 3, 32, 32), 0.5, dtype=dtype), torch.zeros(1, dtype=torch.int64)
    eps = 2 / 255 if norm == "linf" else 2 / 255 * 3072**0.5
    attack = make_attack("pgd", {"eps": eps, "step": eps, "steps": 1, "norm": norm})
    found = attack.images(Flat(1.0, dtype), images, labels)
    assert torch.equal(found, (images.float() + 2 / 255).to(dtype))


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
