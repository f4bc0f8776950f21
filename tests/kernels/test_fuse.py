"""``fuse``: any network's batch norms as operators, and nothing else is different afterwards."""

import copy
import pickle
import random
import sys
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scotoma.kernels import BNMaskAddReLU, backends, batch_norm, bn_mask_add_relu, fuse, unfuse
from torch import nn

STEPS = [
    *("conv", "norm", "norm", "norm", "ending", "relu", "shared relu_", "F.relu", "x.relu_"),
    *("silu_", "dropout", "identity", "add", "torch.add", "iadd", "x.add_", "view", "mul_"),
]


class Program(nn.Module):
    """Runs steps, each on one or two of the last values: makes a new one, or changes one."""

    def __init__(self, steps, middle=False, **norm_options):
        super().__init__()
        self.steps, self.middle = tuple(map(tuple, steps)), middle
        self.relu, self.relu_ = nn.ReLU(), nn.ReLU(inplace=True)
        self.silu_, self.identity = nn.SiLU(inplace=True), nn.Identity()
        self.layers = nn.ModuleList()
        for name, *_ in steps:
            conv, norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4, **norm_options)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias)
            made = {"conv": conv, "norm": norm, "ending": nn.Sequential(conv, norm)}
            self.layers.append(made.get(name, self.identity))

    def forward(self, x):
        values = [x.clone()]
        for (name, first, second), layer in zip(self.steps, self.layers, strict=True):
            a, b = (values[-min(k, len(values))] for k in (first, second))
            if name in ("conv", "norm", "ending", "identity"):
                a = layer(a)
            elif name == "relu":
                a = self.relu(a)
            elif name == "shared relu_":
                a = self.relu_(a)
            elif name == "silu_":
                a = self.silu_(a)
            elif name == "F.relu":
                a = F.relu(a)
            elif name == "x.relu_":
                a = a.relu_()
            elif name == "dropout":
                a = F.dropout(a, 0.5, self.training)
            elif name == "add":
                a = a + b
            elif name == "torch.add":
                a = torch.add(a, b)
            elif name == "iadd":
                a += b
            elif name == "x.add_":
                a = a.add_(b)
            elif name == "view":
                a = a.view(a.shape)
            elif name == "mul_":
                a.mul_(0.7)
            values.append(a)
        return (values[-1], values[len(values) // 2]) if self.middle else values[-1]


def results(model, x):
    """Outputs, gradients, and buffers, after two steps."""
    x, found = x.clone().requires_grad_(), []
    for _ in range(2):
        torch.manual_seed(3)
        outputs = model(x)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        upstream = [torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y) for y in outputs]
        leaves = [x, *model.parameters()]
        found += [y.detach().clone() for y in outputs]
        found += torch.autograd.grad(outputs, leaves, upstream, materialize_grads=True)
    return found + [buffer.clone() for buffer in model.buffers()]


def assert_same(original, fused, x, **tolerance):
    """In training and in evaluation."""
    for training in (True, False):
        pairs = zip(
            results(original.train(training), x), results(fused.train(training), x), strict=True
        )
        for expected, found in pairs:
            torch.testing.assert_close(found, expected, **tolerance)


COPIES = {"itself": lambda model: model, "deepcopy": copy.deepcopy}
COPIES["pickle"] = lambda model: pickle.loads(pickle.dumps(model))
recent = st.sampled_from([1, 1, 1, 2, 2, 3, 9])
programs = st.lists(st.tuples(st.sampled_from(STEPS), recent, recent), min_size=2, max_size=9)


def check_program(steps, middle, momentum, affine, tracked, copied):
    assume(any(name in ("norm", "ending") for name, *_ in steps))
    torch.manual_seed(0)
    options = {"momentum": momentum, "affine": affine, "track_running_stats": tracked}
    model = Program(steps, middle, **options).double()
    x = torch.randn(3, 4, 4, 4, dtype=torch.float64)
    try:
        for training in (True, False):
            results(copy.deepcopy(model).train(training), x)
    except RuntimeError:  # something that backward needs was changed in place
        assume(False)
    fused = copy.deepcopy(model)
    fusion = fuse(fused)
    fused = COPIES[copied](fused)
    if fusion.fused == len(fusion.sites):
        with mock.patch.object(nn.BatchNorm2d, "forward", side_effect=AssertionError):
            copy.deepcopy(fused)(x)
    assert list(fused.state_dict()) == list(model.state_dict())
    assert [n for n, _ in fused.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert_same(model, fused, x, rtol=1e-9, atol=1e-9)  # sums in another order, at most


drawn = given(
    steps=programs,
    middle=st.booleans(),
    momentum=st.sampled_from([0.1, None]),
    affine=st.booleans(),
    tracked=st.booleans(),
    copied=st.sampled_from(sorted(COPIES)),
)


@settings(max_examples=60)
@drawn
def test_any_block_is_the_same(**drawn_values):
    check_program(**drawn_values)


@pytest.mark.slow
@settings(max_examples=2000, derandomize=False)
@drawn
def test_many_blocks_are_the_same(**drawn_values):
    check_program(**drawn_values)


def block(*steps):
    torch.manual_seed(0)
    return Program([(step if isinstance(step, tuple) else (step, 1, 1)) for step in steps])


def operators(model):
    return [site.operator for site in fuse(model).sites]


BOTH = "BN and BN of the projection"


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (["norm", "F.relu"], ["BN + ReLU"]),
        (["norm", "shared relu_", "norm", "shared relu_"], ["BN + ReLU"] * 2),
        (["norm", "identity", "x.relu_"], ["BN + ReLU"]),
        (["norm", ("iadd", 1, 2), "relu"], ["BN + add + ReLU"]),
        (["norm", ("torch.add", 1, 2)], ["BN + add"]),
        (["conv", ("norm", 2, 2), ("iadd", 2, 1), "F.relu"], ["BN + add + ReLU"]),
        (["norm", "silu_"], ["BN"]),
        (["ending", ("ending", 2, 2), ("add", 1, 2), "relu"], [f"{BOTH} + add + ReLU"] * 2),
        # The value before ReLU is used, too; the sum goes into another's tensor; x changes between.
        (["norm", "F.relu", ("add", 1, 2)], ["BN"]),
        ([("view", 9, 9), ("norm", 9, 9), ("iadd", 2, 1), "F.relu"], ["BN"]),
        (["conv", "norm", ("mul_", 2, 2), ("F.relu", 2, 2)], ["BN"]),
    ],
)  # fmt: skip
def test_patterns(steps, expected):
    assert operators(block(*steps)) == expected


def test_while_something_else_traces():
    """A debugger, or what counts the lines that tests reach."""

    def tracer(*_):
        return tracer

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        found = operators(block("norm", "F.relu"))
    finally:
        sys.settrace(before)
    assert found == ["BN + ReLU"]


class BatchNormAct2d(nn.BatchNorm2d):
    """As timm's."""

    __module__ = "timm.layers.norm_act"

    def __init__(self, channels, act):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), act

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


@pytest.mark.parametrize(
    ("act", "expected"),
    [(nn.ReLU(), "BN + ReLU"), (nn.SiLU(), "BN"), (nn.Identity(), "BN + add")],
)
def test_batch_norms_with_an_activation(act, expected):
    model = block("conv", "norm", ("add", 1, 2)).double()
    model.layers[1] = BatchNormAct2d(4, act).double()
    fused = copy.deepcopy(model)
    assert operators(fused) == [expected]
    assert_same(model, fused, torch.randn(3, 4, 4, 4, dtype=torch.float64))


@pytest.fixture
def calls(monkeypatch):
    """Counts the operator's calls."""
    counted, operator = SimpleNamespace(number=0), batch_norm.bn_mask_add_relu

    def count(*arguments, **options):
        counted.number += 1
        return operator(*arguments, **options)

    monkeypatch.setattr(batch_norm, "bn_mask_add_relu", count)
    return counted


def projection_block():
    return block("ending", "relu", "ending", ("ending", 9, 9), ("add", 1, 2), "relu")


X = torch.linspace(-2, 3, 256).view(4, 4, 4, 4)


@pytest.mark.parametrize(
    "place", ["relu", "layers.0.1", "layers.2", "layers.3.0", "layers.3.1", ""]
)
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward"])
def test_hooks_run(calls, place, kind):
    """A hook on what is part of an operator runs, and is right; what remains is hooked as ever."""
    model = projection_block()
    fuse(model)
    seen = []
    module = model.get_submodule(place)
    handle = getattr(module, f"register_{kind}_hook")(lambda module, *_: seen.append(module))
    model(X.clone().requires_grad_()).sum().backward()
    assert seen and all(each is module for each in seen)
    # A convolution and the network itself are called as before.
    assert (calls.number == 2) == (place in ("", "layers.3.0"))
    handle.remove()
    calls.number = 0
    model(X)
    assert calls.number == 2


def test_what_was_recorded_holds_no_longer(calls):
    """An attribute that decided, another batch norm in its place, another kind of argument."""
    for change in (
        lambda model: setattr(model, "steps", (*model.steps[:-1], ("silu_", 1, 1))),
        lambda model: setattr(model.layers[2], "1", nn.BatchNorm2d(4)),
        lambda model: setattr(model, "relu", nn.LeakyReLU()),
    ):
        model = projection_block()
        original = copy.deepcopy(model)
        fuse(model)
        change(model)
        change(original)
        calls.number = 0
        torch.testing.assert_close(model(X), original(X))
        assert calls.number == 0
        model(x=X)


class Optional(nn.Module):
    scale = 1.0

    def __init__(self):
        super().__init__()
        self.norm, self.down = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        y = self.norm(x)
        if self.down is not None:
            y = y + self.down(x)
        more = getattr(self, "more", None)
        if more is not None:
            y = more(y)
        return F.relu(y * self.scale if self.scale != 1.0 else y)


@pytest.mark.parametrize(
    ("name", "value"), [("down", None), ("more", nn.Tanh()), ("scale", 2.0), ("more", None)]
)
def test_what_was_or_was_not_there(calls, name, value):
    """A child that is taken away, one that is added, an attribute of the class."""
    torch.manual_seed(0)
    model = Optional()
    original = copy.deepcopy(model)
    assert operators(model) == ["BN + add + ReLU"]
    for twin in (model, copy.deepcopy(model)):
        calls.number = 0
        twin(X)
        assert calls.number == 1
        twin.load_state_dict(original.state_dict())
        setattr(twin, name, value)
        changed = copy.deepcopy(original)
        setattr(changed, name, value)
        torch.testing.assert_close(twin(X), changed(X))
        assert calls.number == 1


def test_frozen_batch_norms_stay_frozen():
    model = projection_block().double()
    fused = copy.deepcopy(model)
    fuse(fused)
    for each in (model, fused):
        each.train()
        for layer in (each.layers[0], each.layers[3][1]):
            layer.eval()
    for expected, found in zip(results(model, X.double()), results(fused, X.double()), strict=True):
        torch.testing.assert_close(found, expected)
    assert fused.layers[3][1].num_batches_tracked == 0 < fused.layers[2][1].num_batches_tracked


def test_additions_that_broadcast():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x):
            return torch.relu(self.norm(x) + x.mean((2, 3), keepdim=True))

    model = Scaled().double()
    fused = copy.deepcopy(model)
    assert operators(fused) == ["BN + add + ReLU"]
    assert_same(model, fused, X.double())


@pytest.fixture
def bottlenecks():
    """torchvision's block with a projection shortcut, and its fused copy."""
    resnet = pytest.importorskip("torchvision", reason="torchvision is not installed").models.resnet

    def make(change=lambda norm: None, kind=nn.BatchNorm2d):
        torch.manual_seed(0)
        shortcut = nn.Sequential(nn.Conv2d(4, 16, 1), kind(16))
        block = resnet.Bottleneck(4, 4, downsample=shortcut, norm_layer=kind).double()
        for norm in block.modules():
            if isinstance(norm, kind):
                change(norm)
        fused = copy.deepcopy(block)
        assert operators(fused) == ["BN + ReLU"] * 2 + [f"{BOTH} + add + ReLU"] * 2
        return block, fused

    return make


def without_statistics(norm):
    norm.track_running_stats = False
    norm.running_mean = norm.running_var = norm.num_batches_tracked = None


CHANGES = {
    "cumulative": lambda norm: setattr(norm, "momentum", None),
    "frozen": lambda norm: norm.eval(),
    "without running statistics": without_statistics,
    "uncounted": lambda norm: vars(norm).update(momentum=None, num_batches_tracked=None),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_setting_of_a_batch_norm(bottlenecks, change):
    assert_same(*bottlenecks(change), X.double())


@pytest.mark.parametrize("setting", [{"eps": 0.1}, {"momentum": 0.7}, {"training": False}], ids=str)
def test_a_shortcut_with_settings_of_its_own(bottlenecks, setting):
    original, fused = bottlenecks()
    for each in (original.train(), fused.train()):
        vars(each.downsample[1]).update(setting)
    for expected, found in zip(
        results(original, X.double()), results(fused, X.double()), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_synchronised_statistics_have_their_group(bottlenecks, tmp_path, monkeypatch):
    """The layers' own group, or all ranks. (What the operator does with it is tested elsewhere.)"""
    _, fused = bottlenecks(kind=nn.SyncBatchNorm)
    asked = []
    monkeypatch.setattr(
        batch_norm,
        "bn_mask_add_relu",
        lambda x, *_, group, **options: asked.append(group) or x,
    )
    fused(X.double())
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        fused(X.double())
        for norm in fused.modules():
            norm.process_group = "mine"
        fused(X.double())
        assert asked == [None] * 3 + [dist.group.WORLD] * 3 + ["mine"] * 3
    finally:
        dist.destroy_process_group()


def test_copies_are_apart():
    model = projection_block()
    fuse(model)
    before = model.eval()(X)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    torch.testing.assert_close(model(X), before)
    assert not twin(X).any()


def test_unfuse_gives_the_original_back(calls):
    model = projection_block()
    classes = [type(module) for module in model.modules()]
    fuse(model)
    assert isinstance(model, Program) and type(model) is not Program
    unfuse(model)
    assert [type(module) for module in model.modules()] == classes
    model(X)
    assert calls.number == 0 and "_fusion" not in vars(model)
    with pytest.raises(ValueError, match="nothing is fused"):
        unfuse(model)


@pytest.mark.parametrize("how", ["compile", "export"])
def test_compiled_and_exported(how):
    model = projection_block().eval()
    expected = model(X)
    fuse(model)
    if how == "compile":
        found = torch.compile(model, backend="aot_eager", fullgraph=True)(X)
    else:
        found = torch.export.export(model, (X,)).module()(X)
    torch.testing.assert_close(found, expected)


@pytest.mark.skipif(not backends.interpreting(), reason="needs TRITON_INTERPRET=1, as on a CPU")
def test_in_the_interpreter(monkeypatch):
    monkeypatch.setattr(backends, "_default", "triton")
    model = projection_block()
    fused = copy.deepcopy(model)
    fuse(fused)
    # Sums in another order, through three batch norms.
    assert_same(model, fused, X, rtol=1e-3, atol=1e-3)


HEAD = "y = torch.relu(self.norm(x))"
REFUSED = {
    f"{HEAD}; return y if y.sum() > 1 else -y": "control flow",
    f"{HEAD}; self.count = 1; return y": "sets count",
    f"{HEAD}; self.kept['y'] = y; return y": "attribute kept, of type dict",
    f"{HEAD}; self.seen.append(1); return y": "attribute seen, of type list",
    "return x if random.random() < 0.5 else self.norm(x)": "uses random",
    "return x if torch.rand(1) < 0.5 else self.norm(x)": "uses rand",
    "return torch.relu(self.norm(x)) if torch.is_grad_enabled() else x": "uses is_grad_enabled",
    f"{HEAD}; return F.dropout(y, self.drop.p, self.drop.training)": "uses p",
    "return self.drop.forward(torch.relu(self.norm(x)))": "uses forward",
    f"{HEAD}; return y.to(self.norm.weight.device)": "uses to",
    f"{HEAD}; return y + torch.zeros(x.size())": "uses zeros",
    "y = self.norm(x); z = self.norm.running_mean.clone(); return torch.relu(y)": "running_mean",
    f"{HEAD}; return y if isinstance(y, torch.Tensor) else x": "asks for types",
    f"{HEAD}; return y if y is not x else x": "asks which object",
    f"{HEAD}; return y if hasattr(self, 'more') else -y": "uses hasattr",
    f"{HEAD}; return torch.mul(y, 2, out=x)": "out=",
    f"{HEAD}; return y * SCALE": "uses SCALE",
    f"{HEAD}; print('seen'); return y": "uses print",
    f"{HEAD}; return Halved.apply(y)": "uses Halved",
    "y = self.norm(x)\n  with torch.no_grad(): return torch.relu(y)": "handles exceptions",
    "return self.twice(torch.relu(self.norm(x)))": "uses its twice",
    f"{HEAD}; return y if f'{{x.size(1)}}' == '4' else x": "makes text",
    f"{HEAD}; return y if x.size(1) in {{4, 5}} else x": "looks a tensor or a size up",
    f"{HEAD}; return self.drop.mul(y)": "uses mul of a module",
    "return self.plain(torch.relu(self.norm(x)))": "uses its plain",
}


class Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x / 2


def odd(body):
    """A module with this forward."""
    names = {"torch": torch, "F": F, "nn": nn, "random": random, "SCALE": 2, "Halved": Halved}
    exec(f"class Odd(nn.Module):\n def forward(self, x):\n  {body}", names)
    names["Odd"].plain = torch.no_grad()(lambda self, x: x)
    names["Odd"].twice = property(lambda self: lambda x: x * 2)
    module = names["Odd"]()
    module.norm, module.drop = nn.BatchNorm2d(4), nn.Dropout()
    module.count, module.kept, module.seen = 0, {}, []
    return module


@pytest.mark.parametrize(("body", "reason"), REFUSED.items(), ids=REFUSED.values())
def test_what_a_recording_would_freeze_is_left_alone(body, reason):
    module = odd(body)
    model = nn.ModuleDict({"known": block("norm", "F.relu"), "other": module})
    fusion = fuse(model)
    assert fusion.fused == 1 and len(fusion.sites) == 2
    assert type(module).__name__ == "Odd" and not hasattr(type(module), "_unfused")
    assert module.count == 0 and not module.kept and not module.seen  # nothing ran to its end
    site = fusion.sites[1]
    assert site.name == "other.norm" and site.operator is None and reason in site.reason
    lines = str(fusion).splitlines()
    assert lines[-1] == "1 of 2 batch norms fused"
    assert "left alone: the forward of other cannot be followed" in lines[1]


def test_classes_that_do_more_are_left_alone():
    class Called(Program):
        def __call__(self, x):
            return 2 * super().__call__(x)

    class Decorated(Program):
        forward = torch.no_grad()(Program.forward)

    steps = (("norm", 1, 1), ("relu", 1, 1))
    for cls, reason in ((Called, "__call__ of its own"), (Decorated, "decorated")):
        site = fuse(cls(steps)).sites[0]
        assert site.operator is None and reason in site.reason
    # As a child of somebody who would call it, too.
    (site,) = fuse(nn.Sequential(Called(steps))).sites
    assert site.operator is None
    model = Program(steps)
    model.relu.forward = lambda x: x
    assert operators(model) == ["BN"]


class Grows(nn.Module):
    """As DenseNet's layers, which get a list; ``at_home`` it changes the list itself."""

    def __init__(self, at_home):
        super().__init__()
        self.norm, self.at_home = nn.BatchNorm2d(4), at_home

    def forward(self, values):
        y = torch.relu(self.norm(values[-1] if isinstance(values, list) else values))
        if self.at_home:
            values.append(y)
        return y


@pytest.mark.parametrize(("at_home", "expected"), [(False, "BN + ReLU"), (True, None)])
def test_lists_of_tensors(at_home, expected):
    class Dense(nn.ModuleDict):
        def forward(self, x):
            values = [x]
            for _, layer in self.items():
                y = layer(values)
                if len(values) < 3:
                    values.append(y)
            return torch.cat(values, 1)

    torch.manual_seed(0)
    model = Dense({"first": Grows(at_home), "second": Grows(at_home)}).double()
    fused = copy.deepcopy(model)
    assert operators(fused) == [expected] * 2
    if not at_home:
        assert_same(model, fused, X.double())


def test_a_batch_norm_of_two_owners_is_left_alone():
    model = nn.Sequential(block("norm", "F.relu"), block("norm", "F.relu"))
    model[1].layers[0] = model[0].layers[0]
    assert operators(model) == [None]


def test_a_piece_of_a_fused_network_is_a_network():
    """Its class makes new instances, which are not fused."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU()).eval()
    fuse(model)
    torch.testing.assert_close(model[2:](model[:2](X)), model(X))
    assert pickle.loads(pickle.dumps(model[:2]))(X).min() == 0


def test_sums_keep_their_dtype_and_shape():
    """What the operator would give another dtype or shape, torch computes."""
    model = block("norm", ("iadd", 1, 2), "F.relu").eval()
    fused = copy.deepcopy(model)
    fuse(fused)
    half = X.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert fused(half).dtype == model(half).dtype
    for wrong in (torch.randn(2, 4, 3), torch.randn(2, 5, 3, 3), X.int()):
        errors = []
        for each in (model, fused):
            with pytest.raises(Exception) as raised:
                each(wrong)
            errors.append((type(raised.value), str(raised.value)))
        assert errors[0] == errors[1]


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize("copied", sorted(COPIES))
def test_a_list_whose_modules_are_called_one_by_one(copied, called):
    """As in RepGhostNet: also where the list, a Sequential, is called elsewhere."""
    model = Steps(called).double()
    fused = copy.deepcopy(model)
    found = {site.name: site.operator for site in fuse(fused).sites}
    if not called:
        assert set(found.values()) == {"BN and BN of the projection + add + ReLU"}
    fused = COPIES[copied](fused)
    x = torch.randn(3, 4, 4, 4, dtype=torch.float64)
    assert_same(model, fused, x, rtol=1e-9, atol=1e-9)
    with mock.patch.object(nn.BatchNorm2d, "forward", side_effect=AssertionError):
        fused(x)


class Steps(nn.Module):
    def __init__(self, called):
        super().__init__()
        self.called = called
        self.first, self.norms = nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4))

    def forward(self, x):
        y = self.first(x)
        for norm in self.norms:
            y = y + norm(x)
        y = torch.relu(y)
        return torch.sigmoid(self.norms(y)) if self.called else y


def test_a_shared_batch_norm_is_left_alone():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x):
            return torch.relu(self.norm(torch.relu(self.norm(x))))

    assert [site.operator for site in fuse(Twice()).sites] == [None]


class ConvNormActivation(nn.Sequential):
    """No norm itself."""


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        ("resnet50", TypeError, ["str", "nn.Module"]),
        (nn.Linear(2, 2), ValueError, ["Linear", "no BatchNorm2d"]),
        (nn.Sequential(nn.LayerNorm(4)), ValueError, ["no BatchNorm2d", "it has LayerNorm"]),
        (ConvNormActivation(nn.ReLU(), nn.LayerNorm(4)), ValueError, ["it has LayerNorm"]),
        (nn.Sequential(nn.BatchNorm3d(4)), ValueError, ["it has BatchNorm3d"]),
    ],
)
def test_networks_without_batch_norm_are_refused(model, error, words):
    with pytest.raises(error) as refused:
        fuse(model)
    assert all(word in str(refused.value) for word in words)


def test_a_fused_network_is_refused():
    model = block("norm", "F.relu")
    fuse(model)
    with pytest.raises(ValueError, match="fused already; unfuse it first"):
        fuse(nn.Sequential(model))


def test_a_layer_of_its_own():
    """BatchNorm2d's parameters, buffers and arguments, and a mask that follows the layout."""
    plain = nn.BatchNorm2d(4, 1e-3, 0.2)
    mask = torch.rand(4, 4, 4) < 0.5
    layer = BNMaskAddReLU(4, 1e-3, 0.2, mask=mask)
    assert layer.load_state_dict(plain.state_dict(), strict=False).missing_keys == ["mask"]
    expected = torch.relu(plain(X) * mask + X)
    torch.testing.assert_close(layer(X, X), expected)
    torch.testing.assert_close(layer.running_var, plain.running_var)
    assert layer.num_batches_tracked == 1
    assert "keeps 0." in repr(layer)
    layer.to(memory_format=torch.channels_last)
    assert layer.mask.stride() == (1, 16, 4) and torch.equal(layer.mask, mask)
    torch.testing.assert_close(
        BNMaskAddReLU(4, relu=False)(X), bn_mask_add_relu(X, *[None] * 4, relu=False, training=True)
    )
    with pytest.raises(ValueError, match="mask has shape"):
        BNMaskAddReLU(4, mask=mask[:, :2])(X)
