"""Defective layers: masks follow their model, batches are counted as torch's batch norm counts
them, and tools of torch that know layers by class make of ours the same function, or nothing."""

import copy
import inspect
from collections import Counter

import pytest
import torch
from launches import launches
from norm_layers import DEVICE
from refusals import refused
from scotoma.defective import (
    create_model,
    layers,
    load_model,
    mask_sites,
    model_names,
    save_model,
    synchronise_statistics,
    use_backend,
)
from scotoma.defective.layers import BNMaskReLU, ConvBNMaskReLU, MaskSite, PointwiseConv2d
from scotoma.kernels import measure_convolutions
from torch import nn
from torch.nn import SyncBatchNorm
from torch.optim.swa_utils import update_bn
from torch.utils._python_dispatch import TorchDispatchMode


def channels_last_order(mask):
    return mask.permute(1, 2, 0).is_contiguous()


def test_masks_take_the_memory_order_of_the_model(small_model, tmp_path):
    """Shape, values and what a checkpoint holds stay; only the order in memory changes."""
    model = small_model("resnet18", "0.3-Bottom")
    before = {name: mask.clone() for name, mask in mask_sites(model).items()}
    model.to(memory_format=torch.channels_last)
    masks = mask_sites(model)
    assert masks and all(channels_last_order(mask) for mask in masks.values())
    assert not all(channels_last_order(mask) for mask in before.values())
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    for name, mask in before.items():
        assert torch.equal(masks[name], mask) and torch.equal(mask_sites(loaded)[name], mask)
    # Loading into a channels_last model and copying it keep the order.
    model.load_state_dict(loaded.state_dict())
    for twin in (model, copy.deepcopy(model)):
        assert all(channels_last_order(mask) for mask in mask_sites(twin).values())
    model.to(memory_format=torch.contiguous_format)
    assert all(mask.is_contiguous() for mask in mask_sites(model).values())


def test_masks_stay_bool_and_follow_the_device(small_model):
    """The meta device stands in for a GPU."""
    before = mask_sites(small_model("resnet18"))
    for move in (nn.Module.half, nn.Module.double, lambda m: m.to(torch.bfloat16)):
        masks = mask_sites(move(small_model("resnet18")))
        assert all(
            masks[k].dtype == torch.bool and torch.equal(masks[k], before[k]) for k in before
        )
    masks = mask_sites(small_model("resnet18").to("meta"))
    assert all(m.is_meta and m.dtype == torch.bool for m in masks.values()) and masks


@pytest.mark.parametrize("measured", [False, True])
def test_a_convolution_may_be_handed_over(measured):
    """``bn(x, conv=conv)`` is ``bn(conv(x))``, also while convolutions are measured."""
    torch.manual_seed(0)
    layer = ConvBNMaskReLU(3, 4, 3, stride=2, padding=1, dilation=2, bias=True)
    layer.bn.mask = torch.rand(4, 2, 2) < 0.5
    x, residual, twin = torch.randn(2, 3, 6, 6), torch.randn(2, 4, 2, 2), copy.deepcopy(layer)
    expected = layer.bn(layer.conv(x), residual=residual, relu=False)
    seen = []
    twin.conv.register_forward_hook(lambda *_: seen.append(1))
    if measured:
        with measure_convolutions():
            found = twin.bn(x, conv=twin.conv, residual=residual, relu=False)
    else:
        found = twin.bn(x, conv=twin.conv, residual=residual, relu=False)
        assert seen  # its hooks run
    assert torch.equal(found, expected)
    assert torch.equal(twin.bn.running_var, layer.bn.running_var)


def test_other_padding_modes_are_the_modules_own():
    conv, bn = nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), BNMaskReLU(2).eval()
    x = torch.randn(1, 2, 4, 4)
    with measure_convolutions():
        assert torch.equal(bn(x, conv=conv), bn(conv(x)))


def test_use_backend_reaches_every_layer(small_model):
    model = small_model("densenet121")
    use_backend(model, "triton")
    sites = [m for m in model.modules() if isinstance(m, MaskSite)]
    assert len(sites) > 100 and {m.backend for m in sites} == {"triton"}
    use_backend(model, None)
    assert {m.backend for m in sites} == {None}
    with refused("backend is 'tritn'", "'eager' or 'triton'"):
        use_backend(model, "tritn")


def test_backends_of_a_network_agree(small_model):
    """In Triton's interpreter on a CPU; the same weights, the same images."""
    model = small_model("resnet18", image_size=16).train().to(DEVICE)
    images, found = torch.rand(2, 3, 16, 16, device=DEVICE), {}
    for backend in ("eager", "triton"):
        own = copy.deepcopy(model)
        use_backend(own, backend)
        with launches() as launched:
            found[backend] = own(images)
        assert ("apply_forward" in launched) == (backend == "triton")
    torch.testing.assert_close(found["triton"], found["eager"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 4, 12])
def test_a_narrow_shortcut_convolution_is_torchs(channels, layout):
    """Torch's own may end this process in its gradient for the weight: see the layer."""
    layer = PointwiseConv2d(channels, 8, stride=2)
    x = torch.randn(32, channels, 57, 56).to(memory_format=layout).requires_grad_()
    wide, weight = (t.detach().double().requires_grad_() for t in (x, layer.weight))
    expected = torch.nn.functional.conv2d(wide.contiguous(), weight, stride=2)
    grad = torch.randn_like(expected)
    for _ in range(3):
        out = layer(x)
        found = torch.autograd.grad(out, (x, layer.weight), grad.to(out.dtype))
    assert out.shape == expected.shape
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)
    for own, other in zip(found, torch.autograd.grad(expected, (wide, weight), grad), strict=True):
        torch.testing.assert_close(own.double(), other, rtol=1e-4, atol=1e-4)


def counts(model):
    return {int(v) for name, v in model.state_dict().items() if name.endswith("batches_tracked")}


def images(batch=4):
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "options", [{}, {"momentum": None}, {"track_running_stats": False}, {"affine": False}], ids=str
)
def test_a_layer_counts_and_averages_as_torchs_does(options):
    ours, theirs = BNMaskReLU(3, **options), nn.BatchNorm2d(3, **options)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for step, training in enumerate((True, True, False, True, False)):
        x = torch.randn(5, 3, 2, 2) * (step + 1)
        ours.train(training)(x)
        theirs.train(training)(x)
        found = ours.state_dict()
        for name, value in theirs.state_dict().items():
            assert found[name].dtype == value.dtype and found[name].shape == value.shape
            torch.testing.assert_close(found[name], value)
    if options == {"momentum": None}:  # by a factor that stays a tensor: nobody waits for it
        assert isinstance(ours.train()._momentum(), torch.Tensor)


def test_a_branch_is_counted_with_the_layer_that_runs_it():
    main, branch = BNMaskReLU(3), BNMaskReLU(3)
    x = torch.randn(5, 3, 2, 2)
    main(x, projection=(x, branch))
    main.eval()(x, projection=(x, branch.eval()))
    assert int(main.num_batches_tracked) == int(branch.num_batches_tracked) == 1


class Operators(TorchDispatchMode):
    """Counts in-place additions to whole numbers."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        first = args[0][0] if args and isinstance(args[0], list) and args[0] else args[:1]
        first = first[0] if isinstance(first, tuple) and first else first
        if isinstance(first, torch.Tensor) and first.dtype == torch.int64:
            self.calls[function._overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", model_names())
def test_a_network_counts_for_all_its_layers_at_once(small_model, name):
    model = small_model(name).train()
    for number in (1, 2):
        with Operators() as operators:
            model(images())
        assert counts(model) == {number}
        assert operators.calls == {"_foreach_add_": 1}
    with Operators() as operators, torch.no_grad():
        model.eval()(images())
    assert counts(model) == {2} and not operators.calls


def test_each_copy_counts_for_itself(small_model):
    """Of a network, and of a part that runs alone; a pass that ended in an error is over."""
    model = small_model("resnet18").train()
    twin, block = copy.deepcopy(model), copy.deepcopy(model.block1)
    twin(images())
    block(torch.randn(2, 4, 32, 32))
    assert counts(twin) == counts(block) == {1} and counts(model) == {0}
    model.block1(torch.randn(2, 4, 32, 32))
    assert counts(model.block1) == {1} and counts(model) == {0, 1}
    model.block4.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(images())
    model.block1(torch.randn(2, 4, 32, 32))
    assert counts(model.block1) == {3}


def test_frozen_layers_are_not_counted(small_model):
    model = small_model("resnet18").train()
    model.stem.bn.eval()
    model(images())
    assert int(model.stem.bn.num_batches_tracked) == 0
    assert int(model.block1[0].bn1.num_batches_tracked) == 1


def test_compiled_networks_count(small_model):
    """In one graph, a thermometer's code included; of few layers, as each takes its time."""
    model = small_model("vgg19", image_size=16, thermometer=4).train()
    for name, block in [*model.named_children()][:-1]:
        setattr(model, name, nn.Sequential(block[0], block[-1]))
    model.count_for_all()
    pixels, plain = images()[..., :16, :16], copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for number in range(1, 4):
        torch.testing.assert_close(compiled(pixels), plain(pixels))
        assert counts(model) == {number}
    with torch.no_grad():
        torch.testing.assert_close(compiled.eval()(pixels), plain.eval()(pixels))
    assert counts(model) == {3}


def test_where_there_is_no_count(small_model):
    """Missing in a state where somebody took it away; on the meta device nothing to count."""
    model = small_model("resnet18").train()
    state = model.state_dict().items()
    model.load_state_dict({name: v for name, v in state if not name.endswith("batches_tracked")})
    model(images())
    assert counts(model) == {1}
    with torch.device("meta"):
        model = create_model("resnet18", width=4).train()
        model(torch.empty(2, 3, 32, 32))
    assert model.stem.bn.num_batches_tracked.is_meta


def layer_of(kind):
    torch.manual_seed(0)
    pointwise = kind in (layers.PointwiseConv2d, layers.ProjectionShortcut)
    options = {} if pointwise else {"kernel_size": 1}
    layer = kind(3) if kind is BNMaskReLU else kind(3, 4, **options)
    for module in layer.modules():
        if isinstance(module, MaskSite):
            generator = torch.Generator().manual_seed(2)
            shape = (3 if kind is BNMaskReLU else 4, 8, 8)
            module.mask = torch.rand(shape, generator=generator) < 0.5
    return layer


def run(model, images):
    """Output in training, of a copy, so that running statistics stay."""
    model = copy.deepcopy(model).train()
    if isinstance(model, layers.ProjectionShortcut):  # is computed by the batch norm of its block
        main = BNMaskReLU(4)
        return main(torch.zeros(len(images), 4, 8, 8), projection=model.branch(images))
    return model(images)


LAYERS = [
    kind
    for _, kind in inspect.getmembers(layers, inspect.isclass)
    if issubclass(kind, nn.Module) and kind.__module__ == layers.__name__
    if kind is not MaskSite  # which has no function of its own
]
assert {BNMaskReLU, layers.ConvMask, ConvBNMaskReLU, layers.ProjectionShortcut} <= {*LAYERS}


@pytest.mark.parametrize("kind", [*LAYERS, *model_names()], ids=lambda k: getattr(k, "__name__", k))
def test_tools_that_replace_batch_norms(small_model, kind):
    """``convert_sync_batchnorm`` is refused by name before anything is replaced, and leaves what
    has no batch norm as it is. ``torch.func``'s way to take gradients of each image: batch
    statistics, nothing updated."""
    if isinstance(kind, str):
        model, given = small_model(kind, "0.3-Bottom,0.5-Top"), images()
    else:
        given = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        model = layer_of(kind)
    before, found = run(model, given), model
    if any(isinstance(module, BNMaskReLU) for module in model.modules()):
        with pytest.raises(ValueError, match=r"BNMaskReLU .*synchronise_statistics\(model\)"):
            SyncBatchNorm.convert_sync_batchnorm(model)
    else:
        found = SyncBatchNorm.convert_sync_batchnorm(model)
    assert torch.equal(run(found, given), before)
    assert not any(isinstance(module, SyncBatchNorm) for module in found.modules())
    torch.func.replace_all_batch_norm_modules_(model)
    assert torch.equal(run(model, given), before)


def test_statistics_of_averaged_weights(small_model):
    """``update_bn`` averages over the batches that it is given, by momentum=None."""
    once, again = small_model("resnet18"), small_model("resnet18")
    update_bn([images()], once)
    update_bn([images(), images()], again)
    fresh = small_model("resnet18").state_dict()
    for key, value in once.state_dict().items():
        if "running" in key:
            assert not torch.equal(value, fresh[key])
            torch.testing.assert_close(again.state_dict()[key], value)


def test_qconfig_is_an_attribute_like_any_other():
    """Quantisation of a network's other layers reads and sets it."""
    layer = BNMaskReLU(3)
    assert not hasattr(layer, "qconfig") and not hasattr(BNMaskReLU, "qconfig")
    layer.qconfig = "mine"
    assert layer.qconfig == "mine" and not hasattr(BNMaskReLU(3), "qconfig")


def test_statistics_are_synchronised_within_a_group(small_model):
    with refused("init_process_group"):
        synchronise_statistics(small_model("resnet18"))
