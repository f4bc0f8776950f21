"""What holds for every attack: the box, the ball, independence, names, results."""

import copy
import inspect
import json
from dataclasses import fields
from functools import cache

import numpy as np
import pytest
import torch
from refusals import refused
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
    ("cw-l2", {**SHORT["cw-l2"], "warm_start": True}),
    ("gaussian-noise", {"sigma": 0.2, "tails": "truncate"}),
]
LIBRARY = ("apgd", "autoattack")
CASES = {"-".join([n, *map(str, s.values())]): (n, s) for n, s in [*SHORT.items(), *VARIANTS]}
EVERY = pytest.mark.parametrize("case", CASES)
PARTS = ("images", "predictions", "status", "forwards", "backwards")


@cache
def network(thermometer=0):
    """In float64, where the size of a batch changes no sign."""
    torch.manual_seed(0)
    options = {"width": 4, "image_size": 16, "thermometer": thermometer}
    model = create_model("resnet18", "0.3-Bottom", **options)
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
            module.bias.data.copy_(torch.randn(module.bias.shape, generator=generator) * 0.3)
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.rand(16, 3, 16, 16, generator=generator))
    return model.eval().double()


def batch_for(model):
    """Seven images; the model is wrong on one of them."""
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(7, 3, 16, 16, generator=generator, dtype=torch.float64) * 1.2 - 0.1
    images = images.clamp(0, 1)
    with torch.no_grad():
        labels = model(images).argmax(1)
    labels[4] = (labels[4] + 1) % 10
    return images, labels


def set_up(case):
    """The attack, a network for it, images and labels."""
    model = network(16 if CASES[case][0] == "ls-pga" else 0)
    return make_attack(*CASES[case]), model, *batch_for(model)


@cache
def attacked(case):
    attack, *given = set_up(case)
    return attack(*given)


@pytest.fixture
def batch():
    return batch_for(network())


def test_every_attack_is_here():
    assert {*SHORT, *LIBRARY} == set(attack_names())


@EVERY
def test_an_image_alone_in_a_batch_or_in_another_order(case):
    attack, model, images, labels = set_up(case)
    together, same = attacked(case), torch.equal
    if CASES[case][1].get("norm") == "l2":  # steps by the gradient: last digits know the batch

        def same(a, b):
            return torch.allclose(a, b, rtol=0, atol=1e-9)

    for rows in ([3, 6, 0, 5, 1, 4, 2], [0], [4], [5, 1]):
        part = attack(model, images[rows], labels[rows])
        for name in PARTS:
            assert same(getattr(part, name), getattr(together, name)[rows]), name


@EVERY
def test_pixels_stay_in_the_box_and_the_inputs_as_they_are(case):
    """Also where images require gradients, or lie in another order."""
    attack, model, images, labels = set_up(case)
    copies, generator = (images.clone(), labels.clone()), torch.get_rng_state()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    leaf = images.contiguous(memory_format=torch.channels_last).requires_grad_()
    found, expected = attack.images(model, leaf, labels), attacked(case).images
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    for result in (found, expected):
        assert result.shape == images.shape and result.dtype == images.dtype
        assert not result.requires_grad and result.min() >= 0 and result.max() <= 1
    assert leaf.grad is None and found.data_ptr() != leaf.data_ptr()
    assert not torch.equal(found, images)
    assert torch.equal(leaf, copies[0]) and torch.equal(labels, copies[1])
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator) and not model.training
    settings = attack.parameters()
    if "eps" in settings:
        norm = 2 if settings.get("norm") == "l2" else float("inf")
        assert ((found - images).flatten(1).norm(norm, dim=1) <= settings["eps"] + 1e-12).all()


@EVERY
def test_the_result_says_what_happened(case):
    _, model, images, labels = set_up(case)
    result = attacked(case)
    with torch.no_grad():
        clean, now = model(images).argmax(1), model(result.images).argmax(1)
    assert torch.equal(result.predictions, now) and torch.equal(result.clean_predictions, clean)
    expected = torch.where(now != labels, Status.FOOLED, Status.RESISTED)
    expected[clean != labels] = Status.MISCLASSIFIED
    assert ((result.status == expected) | (result.status == Status.NO_START)).all()
    assert torch.equal(result.fooled, result.status == Status.FOOLED)
    assert result.status[4] == Status.MISCLASSIFIED


RANDOM = [c for c in CASES if "seed" in make_attack(*CASES[c]).parameters()]
RANDOM = [c for c in RANDOM if CASES[c][0] != "pgd" or CASES[c][1].get("random_start")]


@pytest.mark.parametrize("case", RANDOM)
def test_random_numbers_follow_seed_and_key(case):
    attack, *given = set_up(case)
    name, settings = CASES[case]
    keys = torch.arange(7)
    first = attack.images(*given, keys)
    assert torch.equal(attack.images(*given, keys), first)
    # All but the image that may not move because the model is wrong on it.
    right = keys != 4
    other = make_attack(name, {**settings, "seed": 1}).images(*given, keys)
    for changed in (other, attack.images(*given, keys + 7)):
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
    assert parse_attack("boundary:max_queries=50").max_queries == 50
    assert parse_attack("boundary:max_queries=none").max_queries is None


@pytest.mark.parametrize(
    "text, words",
    [
        ("pdg", ["'pdg' is unknown", "Did you mean 'pgd'"]),
        ("pgd:epsilon=8/255", ["no setting 'epsilon'", "Did you mean 'eps'"]),
        ("pgd:eps", ["expected key=value", "'eps'", "steps=20"]),
        ("pgd:eps=", ["expected key=value"]),
        ("pgd:eps=8", ["eps is 8", "<= 1", "8/255"]),
        ("pgd:eps=0", ["eps is 0", "<= 1"]),
        ("pgd:eps=-8/255", ["eps is -0.03", "<= 1"]),
        ("pgd:eps=eight", ["eps is 'eight'", "8/255"]),
        ("pgd:eps=8/0", ["eps is '8/0'"]),
        ("pgd:eps=nan", ["eps is nan"]),
        ("pgd:step=2", ["step is 2", "<= 1", "8/255"]),
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
        ("cw-l2:confidence=-1", ["confidence is -1.0", "0 or more"]),
        ("cw-l2:confidence=inf", ["confidence is inf", "finite"]),
        ("cw-l2:confidence=nan", ["confidence is nan"]),
        ("cw-l2:search_steps=0", ["search_steps is 0", "at least 1"]),
        ("cw-l2:lr=0", ["lr is 0.0", "positive"]),
        ("cw-l2:lr=nan", ["lr is nan"]),
        ("cw-l2:tolerance=-0.1", ["tolerance is -0.1", "0 or more"]),
        ("cw-l2:initial_const=0", ["initial_const is 0.0", "1e+10"]),
        ("cw-l2:initial_const=1e11", ["initial_const is", "1e+10"]),
        ("boundary:steps=0", ["steps is 0", "at least 1"]),
        ("boundary:update_every=0", ["update_every is 0"]),
        ("boundary:start_draws=0", ["start_draws is 0"]),
        ("boundary:start_steps=-1", ["start_steps is -1"]),
        ("boundary:max_queries=1", ["max_queries is 1", "at least 2"]),
        ("boundary:seed=-1", ["seed is -1"]),
        ("boundary:spherical_step=0", ["spherical_step is 0", "part of the distance"]),
        ("boundary:source_step=1", ["source_step is 1.0", "< 1"]),
        ("boundary:source_step=nan", ["source_step is nan"]),
        ("boundary:convergence=-1e-9", ["convergence is -1e-09", "source_step"]),
        ("boundary:convergence=0.01", ["convergence is 0.01", "no image takes a step"]),
        ("boundary:convergence=nan", ["convergence is nan"]),
        ("boundary:step_adaptation=1", ["step_adaptation is 1.0", "over 1"]),
        ("boundary:step_adaptation=inf", ["step_adaptation is inf"]),
        *(
            (f"{name}:{setting}", [word])
            for name in LIBRARY
            for setting, word in (
                ("eps=8", "eps is 8"),
                ("eps=0", "eps is 0"),
                ("norm=l1", "norm is"),
                ("steps=0", "steps is"),
                ("seed=-1", "seed is"),
            )
        ),
        ("apgd:loss=cw", ["loss is"]),
        ("apgd:restarts=0", ["restarts is"]),
        ("autoattack:version=rand", ["version is"]),
        ("autoattack:queries=0", ["queries is"]),
    ],
)
def test_bad_text_is_refused(text, words):
    with refused(*words):
        parse_attack(text)


@pytest.mark.parametrize("name", attack_names())
def test_settings_that_are_no_numbers_are_named(name):
    kind = attack_class(name)
    for item in fields(kind):
        for wrong in ("8/255", [0.1], torch.tensor(0.1), 1j) + (None,) * (item.default is not None):
            with pytest.raises(UserError, match=rf"^{item.name} is .*expected"):
                kind(**{item.name: wrong})
        if type(item.default) in (float, int):
            with pytest.raises(UserError, match=f"^{item.name} is True; expected"):
                kind(**{item.name: True})


def test_numbers_of_numpy_are_numbers():
    attack = attack_class("pgd")(eps=np.float32(0.5), step=np.float64(0.25), steps=np.int64(3))
    values = attack.parameters()
    assert values == make_attack("pgd", {"eps": 0.5, "step": 0.25, "steps": 3}).parameters()
    assert json.loads(json.dumps(values))["eps"] == 0.5


@pytest.mark.parametrize("name", attack_names())
def test_functions_have_the_settings_of_the_classes(name, batch):
    function = getattr(attacks, {"ls-pga": "lspga"}.get(name, name.replace("-", "_")))
    mine = {item.name: item.default for item in fields(attack_class(name))}
    given = inspect.signature(function).parameters
    assert given.keys() & mine.keys()
    for key in given.keys() & mine.keys():
        assert given[key].default == mine[key], key
    if name in ("fgsm", "pgd", "mifgsm", "cw-l2"):
        found, result = function(network(), *batch, **SHORT[name], details=True)
        expected = make_attack(name, SHORT[name])(network(), *batch)
        assert torch.equal(found, expected.images) and torch.equal(result.images, found)
        with pytest.raises(TypeError, match="unexpected keyword argument 'step_size'"):
            function(network(), *batch, step_size=1)


@pytest.mark.parametrize("name", ["fgsm", "pgd", "mifgsm", "cw-l2", "boundary"])
def test_towards_a_goal(batch, name):
    """Labels are goals: the status says which are reached, and images that are there stay."""
    model, (images, _) = network(), batch
    with torch.no_grad():
        best, second = model(images).topk(2).indices.T
    goals = second.clone()
    goals[3] = best[3]
    starts = images[(best[:, None] == goals).double().argmax(0)]
    plain = make_attack(name, SHORT[name] if name in ("cw-l2", "boundary") else {"eps": 0.01})

    def attack(rows):
        started = plain.starting_from(starts[rows]) if name == "boundary" else plain
        return started(model, images[rows], goals[rows], targeted=True)

    result = attack(slice(None))
    with torch.no_grad():
        now = model(result.images).argmax(1)
    assert torch.equal(result.predictions, now)
    expected = torch.where(now == goals, Status.FOOLED, Status.RESISTED)
    if name == "boundary":
        expected[~torch.isin(goals, best)] = Status.BAD_START
    expected[3] = Status.AT_GOAL
    assert torch.equal(result.status.long(), expected) and result.fooled.any()
    if name in ("cw-l2", "boundary"):
        assert torch.equal(result.images[3], images[3])
    rows = torch.tensor([5, 3])
    again = attack(rows)
    assert torch.equal(again.images, result.images[rows])
    assert torch.equal(again.status, result.status[rows])
    # The same labels as true classes: away from them.
    away = plain(model, images, goals)
    assert not (away.status == Status.AT_GOAL).any()
    assert torch.equal(away.status == Status.MISCLASSIFIED, best != goals)


@pytest.mark.parametrize(
    "options", [{"stop_when_fooled": True}, {"random_start": True, "restarts": 4}]
)
def test_pgd_stops_at_a_goal(batch, options):
    model, (images, _) = network(), batch
    with torch.no_grad():
        goals = model(images).topk(2).indices[:, 1]
    settings = {"eps": 0.02, "step": 0.004, "steps": 5}
    plain = make_attack("pgd", settings)(model, images, goals, targeted=True)
    found = make_attack("pgd", settings | options)(model, images, goals, targeted=True)
    assert plain.fooled.any() and (found.fooled >= plain.fooled).all()
    reached, others = (found.forwards[f].double().mean() for f in (found.fooled, ~found.fooled))
    assert reached < others or found.fooled.all()


def test_what_cannot_be_targeted_says_so(batch):
    for name in ("ls-pga", "gaussian-noise", *LIBRARY):
        with pytest.raises(UserError, match=f"^{name} cannot be targeted; use fgsm"):
            make_attack(name)(network(), *batch, targeted=True)
    with refused("the goals are given as labels"):
        attacks.pgd(network(), *batch, targeted=batch[1])


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


GRADIENT = [c for c in CASES if CASES[c][0] not in ("ls-pga", "gaussian-noise", "boundary")]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("case", GRADIENT)
def test_half_precision_without_and_with_a_large_gradient(case, dtype):
    """Without one nothing becomes NaN; with one of a sum over 65504 images move as they should."""
    images, labels = torch.full((2, 3, 32, 32), 0.5, dtype=dtype), torch.zeros(2, dtype=torch.int64)
    attack = make_attack(*CASES[case])
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


def test_a_euclidean_radius_beyond_the_box_is_refused(batch):
    attack = make_attack("pgd", {"eps": 128, "step": 1, "steps": 1, "norm": "l2"})
    with pytest.raises(UserError, match=r"eps is 128\.0; expected 0 < eps <= 27\.7"):
        attack(network(), *batch)


@pytest.mark.gpu
@EVERY
def test_a_gpu_finds_what_a_cpu_finds(case):
    """In float64 and with the eager layers both compute the same, but for the order of sums."""
    attack, model, images, labels = set_up(case)
    expected = attacked(case)
    found = attack(copy.deepcopy(model).cuda(), images.cuda(), labels.cuda())
    assert torch.equal(found.status.cpu(), expected.status)
    assert torch.equal(found.forwards.cpu(), expected.forwards)
    torch.testing.assert_close(found.images.cpu(), expected.images, rtol=0, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["pgd", "mifgsm"])
def test_the_fused_kernels_attack_as_the_eager_layers_do(batch, name):
    """float32 on a GPU: gradients near zero may change their sign, elsewhere nothing changes."""
    images, labels = (batch[0].float().cuda(), batch[1].cuda())
    found = []
    for backend in ("eager", "triton"):
        model = copy.deepcopy(network()).float().cuda()
        use_backend(model, backend)
        found.append(make_attack(name, SHORT[name]).images(model, images, labels))
    assert (found[0] == found[1]).float().mean() > 0.98
