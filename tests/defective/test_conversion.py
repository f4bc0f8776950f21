"""``convert``: fixed masks in anybody's network, and nothing else is different afterwards."""

import copy
import pickle
from functools import partial
from unittest import mock

import pytest
import scotoma.defective
import torch
import torch.distributed as dist
import torch.nn.functional as F
from checkpoints import edit
from forks import in_ranks
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from refusals import refused
from scotoma.defective import (
    convert,
    load_model,
    mask_sites,
    resample_masks,
    sample_mask,
    save_model,
    synchronise_statistics,
    use_backend,
)
from scotoma.defective.attacks import PGD
from scotoma.defective.conversion import find_sites
from scotoma.defective.masks import kept_count, site_generator
from scotoma.kernels import backends, fuse, unfuse
from torch import nn
from torch.optim.swa_utils import AveragedModel

convert = partial(convert, verbose=False)


class BatchNormAct2d(nn.BatchNorm2d):
    """As timm's."""

    __module__ = "timm.layers.norm_act"

    def __init__(self, channels, **options):
        super().__init__(channels, **options)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


class Block(nn.Module):
    """A residual block, with a projection where it shrinks its images."""

    def __init__(self, norm, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, stride, 1, bias=False)
        self.bn1 = norm(4)
        self.conv2 = nn.Conv2d(4, 4, 3, 1, 1, bias=False)
        self.bn2 = norm(4)
        self.shortcut = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(4, 4, 1, stride, bias=False), norm(4))
        self.relu = nn.ReLU(inplace=True)
        for last in (self.bn2, *self.shortcut.children()):
            if hasattr(last, "act"):
                last.act = nn.Identity()

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        y += self.shortcut(x)
        return self.relu(y)


class Net(nn.Module):
    """A stem and residual blocks: of as many stages as there are strides of 2, and one."""

    def __init__(self, norm=nn.BatchNorm2d, strides=(1, 2, 2)):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = norm(4)
        self.blocks = nn.Sequential(*(Block(norm, stride) for stride in strides))
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.blocks(F.relu(self.bn(self.conv(x)))).mean((2, 3)))


def net(*arguments, **options):
    """With weights from a fixed seed, and affine parameters that are not those of the start."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Net(*arguments, **options)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    return model


def images(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


X = images(3, 3, 8, 8)
LABELS = torch.tensor([0, 4, 2])


def with_hooks(original, masks):
    """The network itself, in which hooks multiply what the sites give by their masks."""
    model = copy.deepcopy(original)
    for name, mask in masks.items():
        site = model.get_submodule(name)
        site.register_forward_hook(lambda _module, _inputs, out, mask=mask: out * mask)
    return model


def steps(model, x, modes=(True, True, False)):
    """Outputs, loss, gradients and buffers of steps in training and in evaluation."""
    found = {}
    for step, training in enumerate(modes):
        model.train(training)
        leaf = x.clone().requires_grad_()
        logits = model(leaf)
        loss = F.cross_entropy(logits, LABELS[: len(x)])
        parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        leaves = [leaf, *parameters.values()]
        gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)
        values = {"logits": logits.detach(), "loss": loss.detach()}
        values |= dict(zip(["images", *parameters], gradients, strict=True))
        buffers = {n: b.clone() for n, b in model.named_buffers() if not n.endswith(".mask")}
        found |= {f"{step} {n}": v for n, v in (values | buffers).items()}
    return found


def assert_same(found, expected, **tolerance):
    assert list(found) == list(expected)
    torch.testing.assert_close(found, expected, **tolerance)


COPIES = {"itself": lambda model: model, "deepcopy": copy.deepcopy}
COPIES["pickle"] = lambda model: pickle.loads(pickle.dumps(model))
DEFECTS = "0.3-Bottom", "0.5-Bottom,0.7-Top", "0.5-TopSM", "0.5-{1}CM", "0.5-{0},0.5-{1}SM"
WHERE = None, ["blocks.1"], ["bn", "blocks.0.bn2"], lambda _name, norm: norm.num_features == 4


def check_network(kind, momentum, affine, tracked, size, defects, where, exact, fused, copied):
    assume(kind is not BatchNormAct2d or copied != "pickle")  # it is not where it says
    options = {"momentum": momentum, "affine": affine, "track_running_stats": tracked}
    original = net(partial(kind, **options), strides=(1, 2)).double()
    x = images(2, 3, *size)
    model = copy.deepcopy(original)
    if fused == "before, and after":
        fuse(model)
        unfuse(model)
    if where is not None:  # takes the place of one region
        defects = defects.rpartition(",")[2]
    assert convert(model, x, defects, where, exact_masks=exact, mask_seed=7) is model
    if fused != "no":
        assert fuse(model).fused == len(find_sites(original, x)[0])
    model = COPIES[copied](model)
    masks = mask_sites(model)
    assert masks and not all(bool(mask.all()) for mask in masks.values())
    added = {f"{site}.mask" for site in masks}
    assert list(original.state_dict()) == [n for n in model.state_dict() if n not in added]
    assert added < set(model.state_dict())
    parameters = [name for name, _ in original.named_parameters()]
    assert [name for name, _ in model.named_parameters()] == parameters
    assert_same(steps(model, x), steps(with_hooks(original, masks), x), rtol=1e-9, atol=1e-9)


drawn = given(
    kind=st.sampled_from([nn.BatchNorm2d, nn.SyncBatchNorm, BatchNormAct2d]),
    momentum=st.sampled_from([0.1, None]),
    affine=st.booleans(),
    tracked=st.booleans(),
    size=st.sampled_from([(8, 8), (12, 8), (9, 15)]),
    defects=st.sampled_from(DEFECTS),
    where=st.sampled_from(WHERE),
    exact=st.booleans(),
    fused=st.sampled_from(["no", "after", "before, and after"]),
    copied=st.sampled_from(sorted(COPIES)),
)


@settings(max_examples=12)
@drawn
def test_any_network_is_itself_with_masks(**drawn_values):
    check_network(**drawn_values)


@pytest.mark.slow
@settings(max_examples=500, derandomize=False)
@drawn
def test_many_networks_are_themselves_with_masks(**drawn_values):
    check_network(**drawn_values)


def kinds_of(mask):
    """Kept units of a mask, if each is a neuron, a place or a channel."""
    return mask.flatten(), mask[0].flatten(), mask[:, 0, 0]


@pytest.mark.parametrize(("kind", "unit"), [("", 0), ("SM", 1), ("CM", 2)])
@pytest.mark.parametrize("exact", [True, False])
def test_masks_are_those_of_their_seed_and_site(kind, unit, exact):
    """Drawn by (seed, network, site), of the kind and the count that the notation says."""
    model = convert(net(), X.float(), f"0.3-Top{kind}", mask_seed=11, exact_masks=exact)
    masks = mask_sites(model)
    assert list(masks) == ["blocks.2.bn1", "blocks.2.bn2", "blocks.2.shortcut.1"]
    name = {"SM": "shared", "CM": "channel"}.get(kind, "neuron")
    for site, mask in masks.items():
        expected = sample_mask((4, 2, 2), 0.3, name, exact, site_generator(11, "Net", site))
        assert torch.equal(mask, expected) and mask.dtype == torch.bool
        units = kinds_of(mask)[unit]
        assert not exact or units.sum() == kept_count(units.numel(), 0.3)
    again = mask_sites(convert(net(), X.float(), f"0.3-Top{kind}", mask_seed=12))
    assert any(not torch.equal(masks[site], again[site]) for site in masks)
    resample_masks(model, 12)
    assert model.spec.mask_seed == 12
    other = convert(net(), X.float(), f"0.3-Top{kind}", mask_seed=12, exact_masks=exact)
    assert_same(mask_sites(model), mask_sites(other))


class Layers(nn.Module):
    """Calls functions of (module, values so far); ``norms`` are registered by these names."""

    def __init__(self, *names, forward):
        super().__init__()
        for name in names:
            self.add_module(name, nn.BatchNorm2d(3))
        self.steps = forward

    def forward(self, x):
        return self.steps(self, x)


def pooled(x, times):
    return F.avg_pool2d(x, 2**times) if times else x


def dense_layers(m, x):
    """A DenseNet's: each batch norm is before a convolution, also that of a transition."""
    return m.last(pooled(m.norm1(pooled(m.stem(x), 1)), 1))


def branches(m, x):
    """HRNet's: a branch at a high resolution beside lower ones."""
    high = m.stem(x)
    low = m.low(pooled(high, 1))
    return m.high(high).mean((2, 3)) + m.lower(pooled(low, 1)).mean((2, 3))


def attention(m, x):
    """Selective kernels: a batch norm of a pooled vector between those of images."""
    y = m.stem(x)
    y = y * m.vector(y.mean((2, 3), keepdim=True)).sigmoid()
    return m.last(pooled(y, 1))


STAGES = [
    (dense_layers, {"stem": 0, "norm1": 1, "last": 2}),
    (branches, {"stem": 0, "low": 1, "high": 1, "lower": 2}),
    (attention, {"stem": 0, "last": 1}),
    # As many steps as 5 x 5 pixels allow: the last images have one pixel.
    (lambda m, x: m.last(F.avg_pool2d(m.first(x), 5)), {"first": 0, "last": 1}),
]


@pytest.mark.parametrize(("forward", "stages"), STAGES)
def test_stages_are_what_runs_at_one_resolution(forward, stages):
    model = Layers("vector", *stages, forward=forward)
    sites, left, _ = find_sites(model, images(1, 3, 10, 10, dtype=torch.float32))
    assert {site.name: site.stage for site in sites} == stages
    why = "pooled vectors" if forward is attention else "does not run it"
    assert list(left) == ["vector"] and why in left["vector"]


class Around(nn.Module):
    """Another network as a whole, which is no block that shrinks its images."""

    def __init__(self, inner):
        super().__init__()
        self.net = inner

    def forward(self, x):
        return self.net(x)


def test_a_block_belongs_to_the_stage_that_it_leads_to():
    """Also its part before the stride: blocks of the second and the third stride of 2."""
    model = net(strides=(1, 2, 1, 2))
    for block in model.blocks[1], model.blocks[3]:
        block.conv1.stride, block.conv2.stride = (1, 1), (2, 2)
    sites, _, logits = find_sites(model, X.float())
    stages = {site.name: site.stage for site in sites}
    assert stages["bn"] == stages["blocks.0.bn2"] == 0
    assert stages["blocks.1.bn1"] == stages["blocks.2.bn1"] == 1 and stages["blocks.3.bn1"] == 2
    assert {site.name: site.shape for site in sites}["blocks.1.bn1"] == (4, 8, 8)
    assert logits == 5
    inside = Around(model)
    assert {f"net.{n}": s for n, s in stages.items()} == {
        site.name: site.stage for site in find_sites(inside, X.float())[0]
    }


@pytest.mark.parametrize(
    ("strides", "bottom", "top"),
    [((2,), {0}, {1}), ((2, 2), {0}, {2}), ((2, 2, 2), {0}, {3}), ((2, 2, 2, 2), {0, 1}, {3, 4})],
)
def test_bottom_and_top_are_thirds(strides, bottom, top):
    example = images(1, 3, 15, 15, dtype=torch.float32)  # then 8, 4, 2 and 1 a side
    for region, expected in (("Bottom", bottom), ("Top", top)):
        original = Around(net(strides=strides))
        stages = {site.name: site.stage for site in find_sites(original, example)[0]}
        model = convert(original, example, f"0.5-{region}")
        assert {stages[name] for name in mask_sites(model)} == expected
        assert model.spec.stages == tuple(range(len(strides) + 1))


def test_one_resolution_has_no_stages_but_may_have_sites(example):
    chosen = convert(copy.deepcopy(ONE_SIZE), example, where=["last"])
    numbered = convert(copy.deepcopy(ONE_SIZE), example, "0.5-{0}")
    assert list(mask_sites(chosen)) == ["last"]
    assert list(mask_sites(numbered)) == ["first", "last"]


@pytest.mark.parametrize(
    ("where", "sites"),
    [
        (["bn"], ["bn"]),
        (("blocks.1.shortcut", "bn"), ["bn", "blocks.1.shortcut.1"]),
        ([""], "all"),
        (lambda name, norm: name.endswith("bn1") and isinstance(norm, nn.BatchNorm2d), "bn1"),
    ],
)
def test_where_takes_the_place_of_the_region(where, sites):
    model = convert(net(), X.float(), "0.5-TopCM", where)
    names = [site.name for site in find_sites(net(), X.float())[0]]
    expected = {"all": names, "bn1": [n for n in names if n.endswith("bn1")]}.get(str(sites), sites)
    assert list(mask_sites(model)) == expected == list(model.spec.where)
    assert all(bool((mask == mask[:, :1, :1]).all()) for mask in mask_sites(model).values())


def test_what_was_done_is_printed(capsys):
    model = nn.Sequential(net(), nn.BatchNorm1d(5))
    convert(model, X.float(), "0.25-{1}", verbose=True)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "0.blocks.1.bn1 stage 1 4x4x4 keeps 0.2500"
    assert "0.bn stage 0 3 sites without masks from here to 0.blocks.0.bn2" in lines
    assert any(line.startswith("1 left alone: BatchNorm1d is no") for line in lines)
    assert lines[-1] == "Sequential 0.25-{1}: masks at 3 of 9 sites, seed 0"
    convert(net(), X.float())
    assert capsys.readouterr().out == ""


def test_the_example_run_leaves_no_trace():
    """Statistics, counters, modes, gradients, hooks and torch's generator are as before."""
    model = nn.Sequential(net(), Layers(forward=lambda _m, x: F.dropout(x))).train()
    model[0].bn.eval()
    model[0].fc.weight.requires_grad_(False)
    state, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    convert(model, X.float(), "0.3-Bottom")
    assert_same({n: v for n, v in model.state_dict().items() if n in state}, state)
    assert torch.equal(torch.get_rng_state(), generator)
    modes = {name: module.training for name, module in model.named_modules()}
    assert [name for name, training in modes.items() if not training] == ["0.bn"]
    assert not any(module._forward_hooks for module in model.modules())
    assert not model[0].fc.weight.requires_grad and all(p.grad is None for p in model.parameters())


@pytest.fixture
def example():
    return X.float()


@pytest.mark.parametrize("how", ["compile", "export"])
def test_compiled_and_exported(how, example):
    model = convert(net(strides=(2,)), example).eval()
    expected = model(example)
    for change in (lambda: None, lambda: fuse(model)):
        change()
        if how == "compile":
            torch._dynamo.reset()
            found = torch.compile(model, backend="aot_eager", fullgraph=True)(example)
        else:
            program = torch.export.export(model, (example,))
            assert "bn.mask" in program.state_dict
            found = program.module()(example)
        torch.testing.assert_close(found, expected)


def test_masks_move_with_the_network(example):
    model = convert(net(), example)
    half = copy.deepcopy(model).to(torch.bfloat16, memory_format=torch.channels_last)
    assert half(example.bfloat16()).dtype == torch.bfloat16
    mask = half.bn.mask
    assert mask.dtype == torch.bool and mask.is_contiguous() is False
    assert mask[None].is_contiguous(memory_format=torch.channels_last)
    assert_same(mask_sites(half), mask_sites(model), check_stride=False)
    assert model.double()(X).dtype == torch.float64
    assert copy.deepcopy(model).to("meta").bn.mask.is_meta


def test_images_of_another_size_are_refused(example):
    model = convert(net(), example).eval()
    for each in (model, copy.deepcopy(model)):
        if each is not model:
            fuse(each)
        with refused("[4, 8, 8]", "10", error=ValueError):
            each(images(2, 3, 10, 8, dtype=torch.float32))


def test_sites_keep_their_names_in_compiled_parts(example):
    model, other = (convert(net(), example, mask_seed=seed) for seed in (1, 2))
    in_part(model)
    model.load_state_dict(model.state_dict())
    assert model.spec.mask_seed == 1
    resample_masks(model, 2)
    assert_same(mask_sites(model), mask_sites(other))


def test_loaded_masks_have_no_seed(example):
    model, other = (convert(net(), example, mask_seed=seed) for seed in (1, 2))
    model.load_state_dict(model.state_dict())
    assert model.spec.mask_seed == 1
    pretrained = {n: v + 1 for n, v in net().state_dict().items()}
    assert set(model.load_state_dict(pretrained, strict=False).missing_keys) == {
        f"{site}.mask" for site in mask_sites(model)
    }
    assert model.spec.mask_seed == 1 and torch.equal(model.fc.bias, pretrained["fc.bias"])
    model.load_state_dict(other.state_dict())
    assert model.spec.mask_seed is None and other.spec.mask_seed == 2
    assert_same(mask_sites(model), mask_sites(other))


def test_a_backend_for_the_whole_network(example):
    model = convert(net(BatchNormAct2d), example, "0.3-Bottom").eval()
    use_backend(model, "triton")
    with mock.patch.object(backends, "use_triton", return_value=False) as asked:
        model(example)
    assert [call.args[0] for call in asked.call_args_list] == ["triton"] * len(mask_sites(model))


def test_synchronised_statistics(tmp_path, example):
    """The sites' group is the one that is asked for; torch's converter, which knows no masks, is
    refused."""
    model = convert(net(), example)
    with refused("synchronise_statistics", "before", error=ValueError):
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    with refused("no process group"):
        synchronise_statistics(model)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        synchronise_statistics(model)
        groups = {name: getattr(m, "process_group", None) for name, m in model.named_modules()}
        assert {n for n, g in groups.items() if g is dist.group.WORLD} == set(mask_sites(model))
        alone = convert(net(), example)
        assert_same(steps(model, example), steps(alone, example))
        with refused("bn is a BatchNormAct2d", "create_model"):
            synchronise_statistics(convert(net(BatchNormAct2d), example))
    finally:
        dist.destroy_process_group()


def test_two_processes_are_one(tmp_path):
    """SyncBatchNorms that were converted and fused, by the statistics of both ranks' images."""
    original = net().double()
    model = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(original))
    fuse(convert(model, X))

    def work():
        dist.init_process_group("gloo")
        own = [slice(2), slice(2, 3)][dist.get_rank()]
        logits = model.train()(X[own])
        torch.save((logits.detach(), dict(model.named_buffers())), tmp_path / str(dist.get_rank()))

    for status, _, errors in in_ranks(work, tmp_path / "files"):
        assert status == 0, errors
    reference = with_hooks(original, mask_sites(model)).train()
    logits, found = zip(*(torch.load(tmp_path / str(rank)) for rank in range(2)), strict=True)
    torch.testing.assert_close(torch.cat(logits), reference(X).detach())
    for buffers in found:
        torch.testing.assert_close(
            {name: buffers[name] for name, _ in reference.named_buffers()},
            dict(reference.named_buffers()),
        )


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormAct2d])
def test_under_autocast(kind, example):
    """Of the same dtype, and as near as roundings are."""
    original = net(kind)
    model = convert(copy.deepcopy(original), example, where=[""])
    reference = with_hooks(original, mask_sites(model))
    fuse(model)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = model.train()(example), reference.train()(example)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1)
    torch.testing.assert_close(model.bn.running_var, reference.bn.running_var, rtol=0.02, atol=0.02)


@pytest.mark.skipif(not backends.interpreting(), reason="needs TRITON_INTERPRET=1, as on a CPU")
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormAct2d])
def test_in_the_interpreter(monkeypatch, kind, example):
    """Mask, addition and ReLU in the kernels of one operator."""
    modes, example = (True, False), example[:2]
    original = net(kind, strides=(1, 2))
    model = convert(copy.deepcopy(original), example, where=[""])
    fusion = fuse(model)
    assert {"BN + ReLU", "BN + add + ReLU"} < {site.operator for site in fusion.sites}
    masks = mask_sites(model)
    expected = steps(with_hooks(original, masks), example, modes)
    monkeypatch.setattr(backends, "_default", "triton")
    with mock.patch.object(nn.BatchNorm2d, "forward", side_effect=AssertionError):
        found = steps(model, example, modes)
    assert_same(found, expected, rtol=1e-3, atol=1e-3)


def described(model):
    """Classes, names of tensors, attributes and hooks of a network."""
    if not isinstance(model, nn.Module):
        return None
    hooks = [len(m._forward_hooks) for m in model.modules()]
    return list(map(type, model.modules())), list(model.state_dict()), list(vars(model)), hooks


def fused(model):
    fuse(model)
    return model


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


class Fails(Layers):
    """Runs a batch norm, and then out of luck."""

    def __init__(self):
        super().__init__("norm", forward=lambda m, x: m.norm(x) @ x.flatten())


class Odd(nn.Module):
    """What networks may have: attributes and a buffer called as ours, a parameter that is no float,
    a buffer in float64, two convolutions of one weight, and batch norms that run twice, have two
    names, or run in training alone; and it asks for the version of what it loads, as MNASNet."""

    _version = 2

    def __init__(self, **attributes):
        super().__init__()
        self.count = nn.Parameter(torch.zeros(1, dtype=torch.int64), requires_grad=False)
        self.stem, self.last = (nn.Conv2d(c, 4, 3, padding=1, bias=False) for c in (3, 4))
        self.first, self.other = (nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(2))
        self.other.weight = self.first.weight
        self.twice, self.norm, self.aux = (nn.BatchNorm2d(4) for _ in range(3))
        self.again = self.norm
        self.fc = nn.Linear(4, 5)
        self.register_buffer("mask", torch.rand(5))
        self.register_buffer("scale", torch.rand(5, dtype=torch.float64))
        vars(self).update(attributes)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.again(self.first(x)))
        x = F.avg_pool2d(F.relu(self.twice(self.other(F.relu(self.twice(x))))), 2)
        if self.training:
            x = x + self.aux(x)
        logits = self.fc(self.last(x).mean((2, 3)))
        return logits * self.mask * self.scale.to(x.dtype)

    def _load_from_state_dict(self, state, prefix, metadata, *arguments):
        assert metadata["version"] == 2
        super()._load_from_state_dict(state, prefix, metadata, *arguments)


def test_an_odd_network_is_itself_with_masks(path):
    """And comes back from a file with all that is odd about it."""
    original = Odd().double()
    model = convert(copy.deepcopy(original), X, where=["again", "twice"])
    masks = mask_sites(model)
    assert list(masks) == ["twice", "norm"] and "again.mask" in model.state_dict()
    assert_same(steps(model, X), steps(with_hooks(original, masks), X), rtol=1e-9, atol=1e-9)
    fuse(model)
    model.float()
    model.scale = model.scale.double()
    save_model(model, path)
    loaded = load_model(path, module=Odd())
    same_network(loaded, model)
    assert loaded.again is loaded.norm and loaded.first.weight is loaded.other.weight
    torch.testing.assert_close(loaded(X.float()), model.eval()(X.float()))


def test_what_is_changed_afterwards_counts():
    """Masks set by hand, none, and hooks, in a network that was fused."""
    original = net().double()
    model = convert(copy.deepcopy(original), X, where=[""])
    fuse(model)
    model.bn.mask = ~model.bn.mask
    model.blocks[1].bn2.mask = None
    masks = mask_sites(model)
    assert "bn" in masks and "blocks.1.bn2" not in masks
    reference = with_hooks(original, masks)
    for each in (model, reference):
        each.blocks[1].bn1.register_forward_hook(lambda _module, _inputs, out: out * 2)
        each.blocks[2].register_forward_pre_hook(lambda _module, inputs: (inputs[0] + 1,))
    assert_same(steps(model, X), steps(reference, X), rtol=1e-9, atol=1e-9)


def test_attacks_take_it():
    """As they take the network with hooks, step for step."""
    original = net().double()
    model = convert(copy.deepcopy(original), X, where=[""]).eval()
    fuse(model)
    attack, pixels = PGD(eps=0.1, steps=4), torch.rand(X.shape).double()
    found = attack(model, pixels, LABELS)
    expected = attack(with_hooks(original, mask_sites(model)).eval(), pixels, LABELS)
    torch.testing.assert_close(found.images, expected.images, rtol=0, atol=1e-9)
    assert found.fooled.tolist() == expected.fooled.tolist()
    assert (found.images - pixels).abs().max() > 0.01


def test_a_graph_of_torch_fx(example):
    model = convert(torch.fx.symbolic_trace(net()), example).eval()
    twin = copy.deepcopy(model)
    twin.load_state_dict(model.state_dict())
    torch.testing.assert_close(twin(example), model(example))
    assert_same(mask_sites(twin), mask_sites(model))
    assert list(mask_sites(twin)) == list(mask_sites(convert(net(), example)))


def test_a_network_on_the_meta_device(capsys):
    """Its masks have no values; those of another are drawn on the CPU, whatever the default is."""
    model, other = net(), net()
    scotoma.defective.convert(copy.deepcopy(model).to("meta"), X.float())
    assert "on the meta device" in capsys.readouterr().out
    with torch.device("meta"):
        convert(model, X.float())
    convert(other, torch.empty(X.shape, device="meta"))
    assert_same(mask_sites(model), mask_sites(other))


ONE_SIZE = Layers("first", "last", forward=lambda m, x: m.last(m.first(x)))
TWICE = Layers("norm", forward=lambda m, x: m.norm(F.avg_pool2d(m.norm(x), 2)))
LIST = "images [N,C,H,W]"
BAD = {
    "no module": ("resnet50", {}, ["model", "str", "nn.Module"]),
    "TorchScript": (torch.jit.ScriptModule(), {}, ["TorchScript"]),
    "no batch norm": (nn.Conv2d(3, 4, 1), {}, ["Conv2d", "no batch norm"]),
    "transformer": (nn.TransformerEncoderLayer(4, 1), {}, ["no batch norm", "it has LayerNorm"]),
    "3-D": (nn.Sequential(nn.BatchNorm3d(3)), {}, ["BatchNorm3d is no BatchNorm2d"]),
    "one image": (net(), {"example_input": X[0]}, ["[3, 8, 8]", LIST]),
    "no images": (net(), {"example_input": X.float()[:0]}, ["[0, 3, 8, 8]", LIST]),
    "no tensor": (net(), {"example_input": 32}, ["int", LIST]),
    "channels": (net(), {"example_input": X[:, :2]}, ["[3, 2, 8, 8]", "Net fails"]),
    "failing": (Fails(), {}, ["Fails fails"]),
    "unknown stage": (net(), {"defects": "0.5-{0,3}"}, ["stage 3", "[0, 1, 2]"]),
    "a stage twice": (net(), {"defects": "0.5-Bottom,0.5-{0}"}, ["block 0", "both"]),
    "no stages": (ONE_SIZE, {}, ["one size", "no stages", "no bottom", "{0}"]),
    "no top": (ONE_SIZE, {"defects": "0.3-Top"}, ["no top"]),
    "run at two sizes": (TWICE, {}, ["[3, 8, 8], [3, 4, 4]"]),
    "notation": (net(), {"defects": "0.3-Botom"}, ["position"]),
    "DC": (net(), {"defects": "0.3-BottomDC"}, ["no DC variant"]),
    "x2": (net(), {"defects": "0.3-Bottomx2"}, ["no x2 variant"]),
    "placement": (net(), {"defects": "0.3-Bottom@paper"}, ["@paper", "leave it out"]),
    "seed": (net(), {"mask_seed": -1}, ["mask_seed", "-1"]),
    "no seed": (net(), {"mask_seed": None}, ["mask_seed is None"]),
    "exactness": (net(), {"exact_masks": "yes"}, ["exact_masks is 'yes'"]),
    "name": (net(), {"name": 5}, ["name is 5"]),
    "library": (net(), {"name": "huggingface:net"}, ["'huggingface'"]),
    "a spec of its own": (Odd(spec={"width": 3}), {}, ["Odd", "spec is a dict", "wrap it"]),
    "a string": (net(), {"where": "bn"}, ["where", "['bn']"]),
    "unknown name": (net(), {"where": ["block.1"]}, ["'block.1'", "blocks.1"]),
    "no site": (net(), {"where": ["fc"]}, ["'fc'", "no site", "blocks.0.bn1"]),
    "empty": (net(), {"where": []}, ["where is empty"]),
    "no names": (net(), {"where": 5}, ["where is 5"]),
    "chooses none": (net(), {"where": lambda *_: False}, ["chooses none"]),
    "two regions": (net(), {"where": ["bn"], "defects": DEFECTS[1]}, ["one term"]),
    "converted": (convert(net(), X.float()), {}, ["converted already", "resample_masks"]),
    "converted inside": (nn.Sequential(convert(net(), X.float())), {}, ["0.bn", "converted"]),
    "fused": (fused(net()), {}, ["fused", "unfuse"]),
    "parallel": (nn.DataParallel(net()), {}, ["DataParallel around a Net", "inside"]),
    "averaged": (AveragedModel(net()), {}, ["AveragedModel around a Net", "inside"]),
}


@pytest.mark.parametrize(("model", "options", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_and_changes_nothing(model, options, words):
    before = described(model)
    with refused(*words):
        convert(model, **{"example_input": X.float()} | options)
    assert described(model) == before


def same_network(loaded, model):
    assert loaded.spec == model.spec and not any(m.training for m in loaded.modules())
    assert_same(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_given_module_becomes_the_network(path, example):
    model = convert(net(), example, "0.5-Bottom,0.7-Top", exact_masks=False, mask_seed=3)
    steps(model, example)
    save_model(model, path)
    module = Net()
    loaded = load_model(path, module=module)
    assert loaded is module
    same_network(loaded, model)
    assert torch.equal(loaded(example), model.eval()(example))
    fuse(loaded)
    torch.testing.assert_close(loaded(example), model(example))


@pytest.mark.parametrize("change", ["channels_last", "half", "double"])
def test_layouts_are_saved_by_value_and_dtypes_are_kept(path, example, change):
    model = convert(net(), example).eval()
    if change == "channels_last":
        model.to(memory_format=torch.channels_last)
    else:
        getattr(model, change)()
    save_model(model, path)
    same_network(load_model(path, module=net()), model)


def test_compiled_networks_are_refused(example):
    with refused("OptimizedModule around a Net", "compile it afterwards"):
        convert(torch.compile(net()), example)


def in_part(model):
    model.blocks[0] = torch.compile(model.blocks[0])
    return model


def in_place(model):
    model.compile()
    return model


WRAPS = [nn.DataParallel, AveragedModel, torch.compile, in_part, in_place, fused]


@pytest.mark.parametrize("wrap", WRAPS)
def test_the_network_inside_is_saved(path, example, wrap):
    """And not compiled for that."""
    model = convert(net(), example).eval()
    expected = copy.deepcopy(model)
    with mock.patch("torch._dynamo.convert_frame.compile_frame", side_effect=AssertionError):
        save_model(wrap(model), path)
    same_network(load_model(path, module=net()), expected)


def test_masks_of_no_seed_are_saved(path, example):
    """Those of another network, and those that were drawn anew."""
    model = convert(net(), example)
    model.load_state_dict(convert(net(), example, mask_seed=2).state_dict())
    save_model(model, path)
    loaded = load_model(path, module=net())
    same_network(loaded, model.eval())
    assert loaded.spec.mask_seed is None
    resample_masks(loaded, 5)
    save_model(loaded, path)
    assert load_model(path, module=net()).spec.mask_seed == 5


WRONG_MODULES = {
    "none": (lambda: None, ["Net", "module="]),
    "another": (lambda: net(strides=(1, 2)), ["of another model"]),
    "converted": (lambda: convert(net(), X.float()), ["converted already"]),
    "fused": (lambda: fused(net()), ["unfuse"]),
    "other images": (lambda: net(strides=(2, 2, 2)), ["fit"]),
}


@pytest.mark.parametrize(("module", "words"), WRONG_MODULES.values(), ids=WRONG_MODULES)
def test_a_module_that_is_not_the_network_of_the_file(path, example, module, words):
    save_model(convert(net(), example), path)
    with refused(str(path), *words):
        load_model(path, module=module())


class Values(nn.Module):
    """Normalises by tensors that no device moves, and looks at values."""

    def __init__(self):
        super().__init__()
        self.net, self.scale = net(), torch.full((3, 1, 1), 2.0)

    def forward(self, x):
        y = self.net(x * self.scale)
        return y if y.sum() < 1e9 else -y


def test_a_network_that_runs_on_no_meta_device(path, example):
    model = convert(Values(), example)
    save_model(model, path)
    same_network(load_model(path, module=Values()), model.eval())


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"input_shape": [3, 16, 16]}, "do not fit"),
        ({"input_shape": [3, 10**6, 10**6]}, "do not fit"),
        ({"input_shape": [3, 10**18, 10**18]}, ""),
        ({"input_shape": [4, 8, 8]}, "Net fails"),
        ({"where": ["blocks.1"]}, "do not fit"),
        ({"where": ["nothing"]}, "'nothing'"),
        ({"defects": "0.5-{7}"}, "stage 7"),
        ({"num_classes": 6}, "digest"),
    ],
    ids=str,
)
def test_edited_files_are_refused(path, example, fields, word):
    """The module that was given is left as it was, and nothing large is made or run."""
    save_model(convert(net(), example, "0.5-Bottom"), path)
    edit(path, lambda record, _: record | {"spec": record["spec"] | fields})
    module = net()
    before = described(module)
    with refused(str(path), word):
        load_model(path, module=module)
    assert described(module) == before


def test_only_whole_networks_are_saved(path, example):
    model = nn.Sequential(convert(net(), example))
    with refused("Sequential", "convert"):
        save_model(model, path)
    with mock.patch.object(Net, "get_extra_state", return_value={}, create=True):
        model = convert(net(), example)
        with refused("_extra_state is no tensor"):
            save_model(model, path)
    model = convert(net(), example)
    model.bn.mask = torch.zeros(4, 8, 8, dtype=torch.bool)
    with refused("bn keeps 0.00%", "not written"):
        save_model(model, path)
    assert not path.exists()
