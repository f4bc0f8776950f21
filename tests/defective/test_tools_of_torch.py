"""What tools of torch that know layers by class make of ours: the same function, or nothing."""

import copy
import inspect

import pytest
import torch
from scotoma.defective import UserError, layers, model_names, synchronise_statistics
from torch import nn
from torch.nn import SyncBatchNorm
from torch.optim.swa_utils import update_bn


def masked(layer, shape):
    for module in layer.modules():
        if isinstance(module, layers.MaskSite):
            generator = torch.Generator().manual_seed(2)
            module.mask = torch.rand(shape, generator=generator) < 0.5
    return layer


def layer_of(kind):
    torch.manual_seed(0)
    if kind is layers.BNMaskReLU:
        return masked(kind(3), (3, 8, 8))
    pointwise = kind in (layers.PointwiseConv2d, layers.ProjectionShortcut)
    return masked(kind(3, 4, **{} if pointwise else {"kernel_size": 1}), (4, 8, 8))


def run(model, images):
    """Output in training, of a copy, so that running statistics stay."""
    model = copy.deepcopy(model).train()
    if isinstance(model, layers.ProjectionShortcut):  # is computed by the batch norm of its block
        main = layers.BNMaskReLU(4)
        return main(torch.zeros(len(images), 4, 8, 8), projection=model.branch(images))
    return model(images)


LAYERS = [
    kind
    for _, kind in inspect.getmembers(layers, inspect.isclass)
    if issubclass(kind, nn.Module) and kind.__module__ == layers.__name__
    if kind is not layers.MaskSite  # which has no function of its own
]


@pytest.fixture(params=[*LAYERS, *model_names()], ids=lambda p: getattr(p, "__name__", p))
def model_and_images(request, small_model):
    """Each class of layers that we have, and each network."""
    generator = torch.Generator().manual_seed(1)
    if isinstance(request.param, str):
        images = torch.rand(4, 3, 32, 32, generator=generator)
        return small_model(request.param, "0.3-Bottom,0.5-Top"), images
    return layer_of(request.param), torch.randn(4, 3, 8, 8, generator=generator)


def test_all_layers_are_here():
    assert {"BNMaskReLU", "ConvMask", "ConvBNMaskReLU", "ProjectionShortcut"} <= {
        kind.__name__ for kind in LAYERS
    }


def test_synchronised_batch_norm(model_and_images):
    """Refused by name before anything is replaced; what has no batch norm is left as it is."""
    model, images = model_and_images
    before, found = run(model, images), model
    if any(isinstance(module, layers.BNMaskReLU) for module in model.modules()):
        with pytest.raises(UserError, match=r"BNMaskReLU .*synchronise_statistics\(model\)"):
            SyncBatchNorm.convert_sync_batchnorm(model)
    else:
        found = SyncBatchNorm.convert_sync_batchnorm(model)
    assert torch.equal(run(found, images), before)
    assert not any(isinstance(module, SyncBatchNorm) for module in found.modules())


def test_batch_norms_without_running_statistics(model_and_images):
    """``torch.func``'s way to take gradients of each image: batch statistics, nothing updated."""
    model, images = model_and_images
    before = run(model, images)
    torch.func.replace_all_batch_norm_modules_(model)
    assert torch.equal(run(model, images), before)


@pytest.mark.parametrize("name", model_names())
def test_statistics_of_averaged_weights(small_model, name):
    """``update_bn`` averages over the batches that it is given, by momentum=None."""
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    once, again = small_model(name), small_model(name)
    update_bn([images], once)
    update_bn([images, images], again)
    fresh = small_model(name).state_dict()
    for key, value in once.state_dict().items():
        if "running" in key:
            assert not torch.equal(value, fresh[key])
            torch.testing.assert_close(again.state_dict()[key], value)


def test_qconfig_is_an_attribute_like_any_other():
    """Quantisation of a network's other layers reads and sets it."""
    layer = layers.BNMaskReLU(3)
    assert not hasattr(layer, "qconfig") and not hasattr(layers.BNMaskReLU, "qconfig")
    layer.qconfig = "mine"
    assert layer.qconfig == "mine" and not hasattr(layers.BNMaskReLU(3), "qconfig")


def test_statistics_are_synchronised_within_a_group(small_model):
    with pytest.raises(UserError, match="init_process_group"):
        synchronise_statistics(small_model("resnet18"))
