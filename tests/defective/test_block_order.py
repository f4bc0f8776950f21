"""The order of convolution, BN, mask, addition and ReLU in every kind of block.

Each block is computed again from its raw weights with ``F.conv2d`` and ``F.batch_norm`` in
float64, in training and in evaluation mode.
"""

from functools import cache

import pytest
import torch
import torch.nn.functional as F

MODES = pytest.mark.parametrize("training", [True, False])


@pytest.fixture(scope="module")
def network(small_model, randomise):
    """A small network in float64 with random BN parameters; the statistics stay as they are."""

    @cache
    def make(name, defects="0.5-Bottom", **options):
        model = randomise(small_model(name, defects, **options)).double()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 0.0
        return model

    return lambda *args, **options: make(*args, **options).eval()


def images(channels, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, channels, size, size, dtype=torch.float64, generator=generator)


def conv(layer, x):
    return F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding)


def norm(layer, x, masked=True):
    """BN and then the mask, which must be there or not be there as the caller expects."""
    vectors = layer.running_mean, layer.running_var, layer.weight, layer.bias
    out = F.batch_norm(x, *vectors, layer.training, 0.0, 1e-5)
    assert (layer.mask is not None) == masked
    return out * layer.mask.double() if masked else out


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@MODES
def test_basic_block_with_identity(network, training):
    """The branch is masked before the addition, the shortcut never."""
    block = network("resnet18").train(training).block1[1]
    x = images(4, 32)
    branch = norm(block.bn1, conv(block.conv1, x)).relu()
    expected = (norm(block.bn2, conv(block.conv2, branch)) + x).relu()
    close(block(x), expected)
    # Where the branch is masked, the identity shows through.
    hidden = ~block.bn2.mask
    assert torch.equal(block(x)[:, hidden], x[:, hidden].relu())


@MODES
def test_basic_block_with_projection(network, training):
    """Branch and projection have each their own mask, and one ReLU after the sum."""
    block = network("resnet18").train(training).block2[0]
    x = images(4, 32)
    branch = norm(block.bn1, conv(block.conv1, x)).relu()
    branch = norm(block.bn2, conv(block.conv2, branch))
    shortcut = norm(block.shortcut.bn, conv(block.shortcut.conv, x))
    close(block(x), (branch + shortcut).relu())
    hidden = ~block.bn2.mask & ~block.shortcut.bn.mask
    assert hidden.any()
    assert (block(x)[:, hidden] == 0).all()


@MODES
@pytest.mark.parametrize("name", ["resnet18", "wrn32_4"])
def test_unmasked_projection_of_block_1(network, training, name):
    """In WRN and in x2 networks the first block's projection has no mask."""
    defects = {"resnet18": "0.5-Bottomx2", "wrn32_4": "0.5-Bottom"}[name]
    block = network(name, defects).train(training).block1[0]
    x = images(block.conv1.in_channels, 32)
    branch = norm(block.bn1, conv(block.conv1, x)).relu()
    branch = norm(block.bn2, conv(block.conv2, branch))
    shortcut = norm(block.shortcut.bn, conv(block.shortcut.conv, x), masked=False)
    close(block(x), (branch + shortcut).relu())


@MODES
@pytest.mark.parametrize("place", [(1, 0), (1, 1), (2, 0)])
def test_bottleneck(network, training, place):
    """Only the 3x3's output is masked; stride sits on the 3x3."""
    model = network("resnet50").train(training)
    block = getattr(model, f"block{place[0]}")[place[1]]
    assert block.reduce.conv.kernel_size == (1, 1) and block.reduce.conv.stride == (1, 1)
    stride = 2 if place == (2, 0) else 1
    assert block.spatial.conv.kernel_size == (3, 3) and block.spatial.conv.stride == (stride,) * 2
    x = images(block.reduce.conv.in_channels, 32)
    out = norm(block.reduce.bn, conv(block.reduce.conv, x), masked=False).relu()
    out = norm(block.spatial.bn, conv(block.spatial.conv, out)).relu()
    out = norm(block.bn, conv(block.expand, out), masked=False)
    shortcut = x
    if place != (1, 1):
        shortcut = norm(block.shortcut.bn, conv(block.shortcut.conv, x), masked=False)
    close(block(x), (out + shortcut).relu())


@MODES
@pytest.mark.parametrize("sites", ["release", "paper"])
def test_dense_layer(network, training, sites):
    """The release masks the concatenated input, the paper the new maps, which come first."""
    release = sites == "release"
    layer = network("densenet121", sites=sites).train(training).block1[1]
    x = images(12, 32)
    out = conv(layer.conv1, norm(layer.bn1, x, masked=release).relu())
    new = conv(layer.conv2, norm(layer.bn2, out, masked=False).relu())
    assert (layer.conv2.mask is None) == release
    close(layer(x), torch.cat([new if release else new * layer.conv2.mask, x], 1))


@MODES
def test_transition(network, training):
    transition = network("densenet121").train(training).transition1
    x = images(32, 32)
    out = conv(transition.conv, norm(transition.bn, x).relu())
    pooled = out.view(4, 16, 16, 2, 16, 2).mean((3, 5))
    close(transition(x), pooled)


def gated(gate, x):
    weight = x.mean((2, 3), keepdim=True)
    weight = conv(gate.excite, conv(gate.squeeze, weight).relu())
    return x / (1 + (-weight).exp())


@MODES
def test_pre_activation_block_with_identity(network, training):
    """The shortcut is the raw input; the gate acts before the addition; no ReLU after it."""
    block = network("senet18", width=16).train(training).block1[1]
    x = images(16, 32)
    out = conv(block.conv1, norm(block.bn1, x).relu())
    out = conv(block.conv2, norm(block.bn2, out).relu())
    close(block(x), gated(block.gate, out) + x)
    assert (block(x) < 0).any()


@MODES
def test_pre_activation_block_with_projection(network, training):
    """The 1x1 shortcut, without BN, reads the masked pre-activation."""
    block = network("senet18", width=16).train(training).block2[0]
    x = images(16, 32)
    activated = norm(block.bn1, x).relu()
    out = conv(block.conv2, norm(block.bn2, conv(block.conv1, activated)).relu())
    assert block.shortcut.bias is None
    close(block(x), gated(block.gate, out) + conv(block.shortcut, activated))


@MODES
def test_pre_activation_block_in_the_papers_placement(network, training):
    """Masks on both 3x3 outputs: before the second BN, and before the gate."""
    block = network("senet18", "0.5-Bottom@paper", width=16).train(training).block1[0]
    x = images(16, 32)
    out = conv(block.conv1, norm(block.bn1, x, masked=False).relu()) * block.conv1.mask
    out = conv(block.conv2, norm(block.bn2, out, masked=False).relu()) * block.conv2.mask
    close(block(x), gated(block.gate, out) + x)


@MODES
def test_vgg_layers(network, training):
    """Two convolutions with bias, then a max-pool."""
    block = network("vgg19").train(training).block0
    x = images(3, 32)
    out = x
    for layer in block[:2]:
        assert layer.conv.bias is not None
        out = norm(layer.bn, conv(layer.conv, out)).relu()
    close(block(x), F.max_pool2d(out, 2))


@MODES
@pytest.mark.parametrize(
    "name, masked",
    [("resnet18", True), ("resnet50", True), ("senet18", False), ("wrn32_4", True)],
)
def test_stem(network, training, name, masked):
    stem = network(name).train(training).stem
    x = images(3, 32)
    assert stem.conv.bias is None and stem.conv.kernel_size == (3, 3)
    close(stem(x), norm(stem.bn, conv(stem.conv, x), masked).relu())


def test_densenet_stem_is_a_bare_convolution(network):
    stem, x = network("densenet121").stem, images(3, 32)
    close(stem(x), F.conv2d(x, stem.weight, None, 1, 1))
    stem = network("densenet121", "0.5-Bottom@paper").stem
    close(stem(x), F.conv2d(x, stem.weight, None, 1, 1) * stem.mask)


@pytest.mark.parametrize("stem", ["3x3", "7x7"])
def test_imagenet_stem_masks_before_the_max_pool(network, stem):
    layer = network("resnet18", image_size=128, stem=stem).eval().stem
    x = images(3, 128)
    size = int(stem[0])
    out = F.conv2d(x, layer.conv.weight, None, 2, size // 2)
    close(layer(x), F.max_pool2d(norm(layer.bn, out).relu(), 3, 2, 1))


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "densenet121", "senet18", "vgg19", "wrn32_4"]
)
def test_head(network, name):
    """Mean over positions, one Linear. DenseNet has BN and ReLU before it, SENet has neither."""
    model = network(name).eval()
    last = {"vgg19": "block4", "wrn32_4": "block3"}.get(name, "block4")
    seen = {}
    model.get_submodule(last).register_forward_hook(lambda *call: seen.update(maps=call[2]))
    found = model(images(3, 32).sigmoid())
    maps = seen["maps"]
    if name == "densenet121":
        maps = norm(model.bn, maps, masked=False).relu()
    expected = maps.flatten(2).mean(2) @ model.head.weight.T + model.head.bias
    close(found, expected)
    assert (maps < 0).any() == (name == "senet18")


@MODES
@pytest.mark.parametrize("kind", ["spatial-dropout", "dropblock"])
def test_regularised_block(network, kind, training):
    """BN, drop, ReLU, conv, drop, BN: the second drop comes before BN2; none on the shortcut."""
    block = network("resnet18", "standard", regularizer=kind).train(training).block3[0]
    x = images(8, 16)
    torch.manual_seed(5)
    found = block(x)
    torch.manual_seed(5)
    branch = block.drop(norm(block.bn1, conv(block.conv1, x), masked=False)).relu()
    branch = norm(block.bn2, block.drop(conv(block.conv2, branch)), masked=False)
    shortcut = norm(block.shortcut.bn, conv(block.shortcut.conv, x), masked=False)
    close(found, (branch + shortcut).relu())
