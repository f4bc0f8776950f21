"""Mask buffers follow their model, and a convolution handed to its batch norm changes nothing."""

import copy

import pytest
import torch
from launches import launches
from norm_layers import DEVICE
from scotoma.defective import (
    UserError,
    create_model,
    load_model,
    mask_sites,
    save_model,
    use_backend,
)
from scotoma.defective.layers import BNMaskReLU, ConvBNMaskReLU, MaskSite, PointwiseConv2d
from scotoma.kernels import measure_convolutions
from torch import nn


def channels_last_order(mask):
    return mask.permute(1, 2, 0).is_contiguous()


def test_masks_take_the_memory_order_of_the_model(tmp_path):
    """Shape, values and what a checkpoint holds stay; only the order in memory changes."""
    model = create_model("resnet18", "0.3-Bottom", width=4)
    before = {name: mask.clone() for name, mask in mask_sites(model).items()}
    model.to(memory_format=torch.channels_last)
    masks = mask_sites(model)
    assert masks and all(channels_last_order(mask) for mask in masks.values())
    assert not all(channels_last_order(mask) for mask in before.values())
    for name, mask in masks.items():
        assert torch.equal(mask, before[name]) and mask.shape == before[name].shape
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    for name, mask in mask_sites(loaded).items():
        assert torch.equal(mask, before[name])
    # Loading into a channels_last model and copying it keep the order.
    model.load_state_dict(loaded.state_dict())
    for twin in (model, copy.deepcopy(model)):
        assert all(channels_last_order(mask) for mask in mask_sites(twin).values())
    model.to(memory_format=torch.contiguous_format)
    assert all(mask.is_contiguous() for mask in mask_sites(model).values())


@pytest.mark.parametrize("move", [nn.Module.half, nn.Module.double, nn.Module.cpu])
def test_masks_stay_bool(move):
    model = move(create_model("resnet18", "0.3-Bottom", width=4))
    assert all(mask.dtype == torch.bool and mask.dim() == 3 for mask in mask_sites(model).values())


def test_a_convolution_may_be_handed_over():
    """``bn(x, conv=conv)`` is ``bn(conv(x))``, and the convolution's hooks run."""
    torch.manual_seed(0)
    layer = ConvBNMaskReLU(3, 4, 3, stride=2, padding=1, bias=True)
    layer.bn.mask = torch.rand(4, 3, 3) < 0.5
    seen = []
    layer.conv.register_forward_hook(lambda *_: seen.append(1))
    x = torch.randn(2, 3, 6, 6)
    expected = copy.deepcopy(layer.bn)(layer.conv(x))
    assert torch.equal(layer(x), expected)
    assert len(seen) == 2


def test_while_convolutions_are_measured_the_layer_passes_everything_on():
    torch.manual_seed(0)
    layer = ConvBNMaskReLU(3, 4, 3, stride=2, padding=1, dilation=2, bias=True)
    layer.bn.mask = torch.rand(4, 2, 2) < 0.5
    x, residual = torch.randn(2, 3, 6, 6), torch.randn(2, 4, 2, 2)
    twin = copy.deepcopy(layer)
    expected = layer.bn(x, conv=layer.conv, residual=residual, relu=False)
    with measure_convolutions():
        assert torch.equal(twin.bn(x, conv=twin.conv, residual=residual, relu=False), expected)
    assert torch.equal(twin.bn.running_var, layer.bn.running_var)


def test_other_padding_modes_are_the_modules_own():
    conv = nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")
    bn = BNMaskReLU(2).eval()
    x = torch.randn(1, 2, 4, 4)
    with measure_convolutions():
        assert torch.equal(bn(x, conv=conv), bn(conv(x)))


def test_the_cumulative_average_needs_no_number_from_the_device():
    """momentum=None as in ``torch.nn.BatchNorm2d``, by a factor that stays a tensor."""
    ours, theirs = BNMaskReLU(3, momentum=None), nn.BatchNorm2d(3, momentum=None)
    for step in range(4):
        x = torch.randn(5, 3, 2, 2) * (step + 1)
        ours(x)
        theirs(x)
    assert isinstance(ours._momentum(), torch.Tensor)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_use_backend_reaches_every_layer():
    model = create_model("densenet121", "0.5-Bottom", width=4)
    use_backend(model, "triton")
    sites = [m for m in model.modules() if isinstance(m, MaskSite)]
    assert len(sites) > 100 and {m.backend for m in sites} == {"triton"}
    use_backend(model, None)
    assert {m.backend for m in sites} == {None}
    with pytest.raises(UserError, match=r"backend is 'tritn'.*'eager' or 'triton'"):
        use_backend(model, "tritn")


def test_backends_of_a_network_agree():
    """In Triton's interpreter on a CPU; the same weights, the same images."""
    torch.manual_seed(0)
    model = create_model("resnet18", "0.5-Bottom", width=4, image_size=32).train()
    images, found = torch.rand(2, 3, 32, 32, device=DEVICE), {}
    model.to(DEVICE)
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
