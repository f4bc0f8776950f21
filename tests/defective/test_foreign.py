"""Networks of torchvision and timm by their names: made, converted, saved and loaded."""

import copy
import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from checkpoints import edit
from refusals import refused
from scotoma.defective import (
    convert,
    create_model,
    load_model,
    mask_sites,
    reset_weights,
    save_model,
)
from scotoma.defective.conversion import find_sites
from scotoma.defective.masks import resample_masks
from scotoma.defective.models import foreign
from scotoma.defective.models.base import Network
from scotoma.defective.models.foreign import factory
from scotoma.kernels import fuse
from scotoma.kernels.fuse import Fusion
from torch import nn

pytest.importorskip("torchvision", reason="torchvision is not installed")

convert = partial(convert, verbose=False)
# The smallest with batch norms; what is downsampled to 1 x 1 has no neighbours to differ from.
SMALL, RESNET = "torchvision:shufflenet_v2_x0_5", "torchvision:resnet18"
X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([1, 4])


def made(name, seed=0, num_classes=5):
    """The library's own network, with weights from a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return factory(name)(num_classes=num_classes)


def create(name, *arguments, seed=0, num_classes=5, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return create_model(name, *arguments, num_classes=num_classes, **options)


@pytest.fixture
def unfused(monkeypatch):
    """For tests that ask nothing of it: recording the forwards takes most of the time."""
    monkeypatch.setattr(foreign, "fuse", lambda _: Fusion(()))


def step(model, x):
    """Logits, gradients and buffers of a step in training, and logits in evaluation."""
    leaf = x.clone().requires_grad_()
    with torch.random.fork_rng():
        torch.manual_seed(2)  # of dropout
        logits = model.train()(leaf)
    gradients = torch.autograd.grad(F.cross_entropy(logits, LABELS), [leaf, *model.parameters()])
    buffers = {n: b.clone() for n, b in model.named_buffers() if not n.endswith("mask")}
    return {
        "training": logits.detach(),
        "gradients": gradients,
        "buffers": {n: b for n, b in buffers.items() if n not in ("mean", "std")},
        "evaluation": model.eval()(x).detach(),
    }


class Hooked(nn.Module):
    """The library's network, in which hooks multiply by masks, behind the normalisation."""

    def __init__(self, name, masks, mean, std):
        super().__init__()
        self.network = made(name).double()
        self.normalise = lambda x: (x - mean) / std
        for site, mask in masks.items():
            norm = self.network.get_submodule(site.removeprefix("network."))
            norm.register_forward_hook(lambda _module, _inputs, out, mask=mask: out * mask)

    def forward(self, pixels):
        return self.network(self.normalise(pixels))


SLOW = "timm:resnet10t", "torchvision:densenet121", "torchvision:inception_v3"
NETWORKS = [RESNET, "timm:regnetx_002", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_library_s_network_with_masks(name):
    """From the same seed: what the library makes, masks at its bottom, and normalised pixels."""
    if name.startswith("timm:"):
        pytest.importorskip("timm", reason="timm is not installed (extra: timm)")
    size = 75 if "inception" in name else 32
    x = F.interpolate(X, size).double()
    model = create(name, "0.3-Bottom", image_size=size).double()
    assert isinstance(model, Network) and model.spec.name == name
    masks = mask_sites(model)
    assert masks and all(site.startswith("network.") for site in masks)
    assert {model.get_submodule(site).block for site in masks} == set(model.bottom["release"])
    original = Hooked(name, masks, model.mean, model.std)
    found, expected = step(model, x), step(original, x)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    assert (found["evaluation"][0] - found["evaluation"][1]).abs().max() > 1e-6


def test_where_the_bottom_of_a_resnet_is():
    """The stem and layer1; the first block of layer2 belongs to layer2, before its stride, too."""
    original = made(RESNET)
    sites, left, logits = find_sites(original, X)
    assert logits == 5 and not left
    stages = {site.name: site.stage for site in sites}
    for site, stage in stages.items():
        assert stage == (int(site[5]) if site.startswith("layer") else 0)
    assert {site.name: site.shape for site in sites}["layer4.1.bn2"] == (512, 1, 1)
    model = convert(original, X)
    bottom = [f"layer1.{block}.bn{norm}" for block in range(2) for norm in (1, 2)]
    assert list(mask_sites(model)) == ["bn1", *bottom]


def test_batch_norms_of_timm_with_an_activation():
    """Masks come before it; what has something there already, and what was pickled."""
    pytest.importorskip("timm", reason="timm is not installed (extra: timm)")
    original = made("timm:regnetx_002")
    original.s1.b1.conv1.bn.drop = nn.Dropout()
    sites, left, _ = find_sites(original, X)
    assert left == {"s1.b1.conv1.bn": "its drop is a Dropout"} and len(sites) > 40
    model = convert(original, X, "0.5-{1}")
    masks = mask_sites(model)
    assert masks and all(site.endswith(".bn.drop") for site in masks)
    twin = pickle.loads(pickle.dumps(model)).eval()
    fuse(model)
    torch.testing.assert_close(twin(X), model.eval()(X))
    outputs = {}
    for site in masks:
        act = twin.get_submodule(site.removesuffix(".drop")).act
        act.register_forward_hook(lambda _m, _i, out, site=site: outputs.update({site: out}))
    twin(X)
    assert all(not outputs[site][:, ~mask].any() for site, mask in masks.items())


def test_gray_images_and_large_ones(unfused):
    model = create(SMALL, "0.5-Top", in_channels=1, image_size=28).eval()
    gray = X[:, :1, :28, :28]
    same = create(SMALL, "0.5-Top", image_size=28, mean=model.spec.mean * 3, std=model.spec.std * 3)
    torch.testing.assert_close(model(gray), same.eval()(gray.expand(-1, 3, -1, -1)))
    with refused("masks fit one image size", error=ValueError):
        model(X[:, :1])
    standard = create(SMALL, "standard").eval()
    assert standard(F.interpolate(X, 40)).shape == (2, 5)


def test_weights_drawn_anew(unfused):
    model, other = create(SMALL, "0.5-Bottom"), create(SMALL, "0.5-Bottom", seed=3, mask_seed=1)
    masks = copy.deepcopy(mask_sites(model))
    reset_weights(model, 3)
    torch.testing.assert_close(mask_sites(model), masks, rtol=0, atol=0)
    torch.testing.assert_close(dict(model.named_parameters()), dict(other.named_parameters()))


def test_only_networks_of_ours_are_made_anew():
    with refused("ShuffleNetV2; only networks of create_model"):
        reset_weights(converted(), 0)


REFUSED = {
    "library": (("huggingface:resnet18",), {}, ["'huggingface'", "torchvision:NAME or timm:NAME"]),
    "misspelt library": (("torchvison:resnet18",), {}, ["torchvision"]),
    "misspelt": (("torchvision:resnet81",), {}, ["no classifier 'resnet81'", "resnet18"]),
    "no classifier": (("torchvision:fasterrcnn_resnet50_fpn",), {}, ["no classifier"]),
    "no name": (("torchvision:",), {}, ["no classifier ''"]),
    "no batch norm": (("torchvision:squeezenet1_1", "0.3-Bottom"), {}, ["no batch norm"]),
    "too small": (("torchvision:squeezenet1_1",), {"image_size": 8}, ["is 8", "fails on such"]),
    "width": ((SMALL,), {"width": 8}, ["width is 8", "leave it out"]),
    "thermometer": ((SMALL,), {"thermometer": 4}, ["thermometer is 4"]),
    "regularizer": ((SMALL,), {"regularizer": "dropblock"}, ["regularizer"]),
    "placement": ((SMALL, "0.3-Bottom@paper"), {}, ["@paper"]),
    "channels": ((SMALL,), {"in_channels": 4}, ["in_channels is 4", "3 channels"]),
    "stage": ((SMALL, "0.5-{9}"), {}, ["stage 9", "[0, 1, 2, 3]"]),
    "where": ((SMALL, "0.5-Bottom"), {"where": ["conv9"]}, ["'conv9'", "conv5"]),
    "seed": ((SMALL, "0.5-Bottom"), {"mask_seed": None}, ["mask_seed is None"]),
    "DC": ((SMALL, "0.5-BottomDC"), {}, ["no DC variant"]),
}


@pytest.mark.parametrize(("arguments", "options", "words"), REFUSED.values(), ids=REFUSED)
def test_bad_arguments_are_refused(arguments, options, words):
    with refused(*words):
        create_model(*arguments, **options)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("timm:resnet81", {}, ["no classifier 'resnet81'", "resnet18"]),
        ("timm:resnet18.nobody_in1k", {}, ["resnet18.nobody_in1k", "cannot be made"]),
        ("timm:hf-hub:somebody/something", {}, ["no classifier"]),
        ("timm:vit_tiny_patch16_224", {"image_size": 32}, ["image_size is 32"]),
        ("timm:convnext_atto", {"defects": "0.3-Bottom"}, ["no batch norm", "LayerNorm"]),
        (
            "timm:vit_tiny_patch16_224",
            {"image_size": 224, "defects": "0.3-Top"},
            ["VisionTransformer", "no batch norm", "it has LayerNorm"],
        ),
    ],
)
def test_bad_names_of_timm_are_refused(name, options, words):
    pytest.importorskip("timm", reason="timm is not installed (extra: timm)")
    with refused(*words):
        create_model(name, **options)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def same_network(loaded, model):
    assert loaded.spec == model.spec and not any(m.training for m in loaded.modules())
    state, other = loaded.state_dict(), model.state_dict()
    assert list(state) == list(other) and all(torch.equal(state[n], other[n]) for n in state)
    assert torch.equal(loaded(X), model.eval()(X))


@pytest.mark.parametrize(
    "options", [{"defects": "0.3-Bottom", "mask_seed": 4}, {"where": ["stage2", "conv1"]}], ids=str
)
def test_a_created_network_comes_back(unfused, path, options):
    model = create(SMALL, **{"defects": "0.5-TopCM"} | options)
    step(model, X)
    save_model(model, path)
    generator = torch.get_rng_state()
    same_network(load_model(path), model)
    assert torch.equal(torch.get_rng_state(), generator)


def test_masks_of_no_seed_come_back(unfused, path):
    model = create(SMALL, "0.5-Top")
    model.load_state_dict(create(SMALL, "0.5-Top", mask_seed=3).state_dict())
    assert model.spec.mask_seed is None
    save_model(model, path)
    same_network(load_model(path), model)


def converted(**options):
    return convert(made(SMALL), X, "0.5-Bottom", name=SMALL, **options)


def test_a_converted_network_of_a_library_needs_no_module(path):
    """Also with another last layer than it had when it was converted, and fused."""
    model = converted(mask_seed=2)
    model.fc = nn.Linear(1024, 3)
    step_labels = torch.tensor([0, 2])
    F.cross_entropy(model.train()(X), step_labels).backward()
    fuse(model)
    save_model(model, path)
    loaded = load_model(path)
    assert loaded.spec.num_classes == 3 and loaded.spec.mask_seed == 2
    torch.testing.assert_close(loaded(X), model.eval()(X))
    same_network(load_model(path, module=made(SMALL, 1, num_classes=3)), load_model(path))


def test_another_network_than_its_name_says_is_not_saved(path):
    """A layer may have been replaced after the name was given."""
    model = convert(made(SMALL), X, name=SMALL)
    model.fc = nn.Sequential(nn.Flatten(), model.fc)
    with refused("is not written", SMALL, "'fc.1.bias'", "module="):
        save_model(model, path)
    assert not path.exists()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("converted") / "model.safetensors"
    save_model(converted(), path)
    return path.read_bytes()


HOSTILE = {
    "huge images": ({"input_shape": [3, 10**6, 10**6]}, "do not fit"),
    "large images": ({"input_shape": [3, 4096, 4096]}, "do not fit"),
    "no images": ({"input_shape": [3, 0, 32]}, "input_shape"),
    "flat images": ({"input_shape": [3, 32]}, "(C, H, W)"),
    "shape of another type": ({"input_shape": "wide"}, "input_shape is 'wide'"),
    "half a pixel": ({"input_shape": [3, 32.5, 32]}, "input_shape is 32.5"),
    "huge layer": ({"num_classes": 10**12}, "do not fit"),
    "too huge layer": ({"num_classes": 10**30}, ""),
    "huge layer of a RegNet": (
        {"name": "torchvision:regnet_x_400mf", "num_classes": 10**12},
        "do not fit",
    ),
    "no classes": ({"num_classes": 0}, "num_classes"),
    "classes of another type": ({"num_classes": "5"}, "num_classes"),
    "unknown factory": ({"name": "torchvision:resnet81"}, "no classifier"),
    "unknown library": ({"name": "os:system"}, "library 'os'"),
    "other network": ({"name": RESNET}, "do not fit"),
    "name of another type": ({"name": [SMALL]}, "name"),
    "no name": ({"name": ""}, "module="),
    "class": ({"name": "Net"}, "module="),
    "where of nothing": ({"where": ["nothing"]}, "'nothing'"),
    "empty where": ({"where": []}, "where is []"),
    "where of another type": ({"where": "conv1"}, "where is 'conv1'"),
    "other sites": ({"where": ["conv5"]}, "do not fit"),
    "unknown stage": ({"defects": "0.5-{9}"}, "stage 9"),
    "other defects": ({"defects": "0.5-Top"}, "do not fit"),
    "defects of another type": ({"defects": 3}, "defects"),
    "seed": ({"mask_seed": "x"}, "mask_seed"),
    "exactness of another type": ({"exact_masks": "yes"}, "exact_masks"),
    "stages": ({"stages": [0, -1]}, "stages"),
    "many stages": ({"stages": "01234"}, "stages"),
    "unknown field": ({"run": "rm"}, "unknown run"),
}


@pytest.mark.parametrize(("fields", "word"), HOSTILE.values(), ids=HOSTILE)
def test_edited_files_are_refused(file, path, fields, word):
    path.write_bytes(file)

    def change(record, tensors):
        return {"format": 1, "spec": record["spec"] | fields}

    edit(path, change)
    with refused(str(path), word):
        load_model(path)


def test_a_name_is_one_whose_factory_makes_the_same_layers():
    from torchvision.models import resnet18

    for name, message in (
        ("torchvision:resnet34", "name is 'torchvision:resnet34', but what that makes has another"),
        ("torchvision:resnett18", "no classifier 'resnett18'. Did you mean 'resnet18'"),
        ("mine:Net", "is of library 'mine'"),
    ):
        model = resnet18(num_classes=5)
        with refused(message):
            convert(model, torch.zeros(1, 3, 32, 32), name=name)
        assert not hasattr(model, "spec") and not mask_sites(model)
    model = convert(resnet18(num_classes=5), torch.zeros(1, 3, 32, 32), name="torchvision:resnet18")
    assert model.spec.num_classes == 5


def test_masks_of_a_network_that_has_none_are_not_drawn_anew():
    with refused("model is a Linear without masks"):
        resample_masks(nn.Linear(2, 2), 1)


@pytest.mark.parametrize("module", [lambda: None, nn.Linear, "converted"])
def test_a_module_to_load_into_is_a_new_network(path, module):
    save_model(converted(), path)
    what = "converted already" if module == "converted" else f"module is a {type(module).__name__}"
    with refused(what, "expected a new network"):
        load_model(path, module=converted() if module == "converted" else module)


def test_masks_of_timm_are_not_lost_to_synchronised_batch_norms():
    """Torch's function would drop them silently, with the activation; timm's keeps both."""
    layers = pytest.importorskip("timm", reason="timm is not installed (extra: timm)").layers
    network = nn.Sequential(nn.Conv2d(3, 4, 3), layers.BatchNormAct2d(4), nn.AvgPool2d(2))
    x = torch.randn(2, 3, 12, 12)
    model = convert(network, x, "0.5-{0}").eval()
    before = model(x)
    with pytest.raises(ValueError, match=r"timm\.layers\.convert_sync_batchnorm\(model\)"):
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert torch.equal(model(x), before)
    found = layers.convert_sync_batchnorm(model)
    assert torch.equal(found(x), before) and [*mask_sites(found)] == ["1.drop"]
