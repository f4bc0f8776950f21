"""Parameter counts of every network in the specification, sections 1.1 to 1.3.

The networks are built on the meta device, which allocates and initialises nothing.
"""

import pytest
import torch
from scotoma.defective import create_model, mask_sites, model_names

CIFAR = {
    "resnet18": 11_173_962,
    "resnet50": 23_520_842,
    "densenet121": 6_956_298,
    "senet18": 11_260_354,
    "vgg19": 20_040_522,
    "wrn32_4": 7_400_026,
}
MNIST = {
    "resnet18": 11_172_810,
    "resnet50": 23_519_690,
    "densenet121": 6_955_146,
    "senet18": 11_259_202,
    "vgg19": 20_039_370,
}
# The variants of ResNet-18 on CIFAR.
VARIANTS = {
    "0.3-Top": 11_173_962,
    "0.7-Bottom,0.3-Top": 11_173_962,
    "0.1-BottomSM": 11_173_962,
    "0.1-{1,2}": 11_173_962,
    "0.5-BottomDC": 10_505_578,
    "0.1-BottomDC": 10_211_859,
    "0.5-Bottomx2": 13_537_162,
}


def meta_model(*args, **options):
    with torch.device("meta"):
        return create_model(*args, **options)


def count(model):
    return sum(p.numel() for p in model.parameters())


def widths_of(model):
    return {n: m.out_channels for n, m in model.named_modules() if hasattr(m, "out_channels")}


def test_the_six():
    assert model_names() == list(CIFAR)


COUNTS = [
    *(({"name": name}, parameters) for name, parameters in CIFAR.items()),
    *(
        ({"name": name, "in_channels": 1, "image_size": 28}, parameters)
        for name, parameters in MNIST.items()
    ),
    *(
        ({"name": "resnet18", "num_classes": 1000, "image_size": 224, "stem": stem}, parameters)
        for stem, parameters in (("3x3", 11_681_832), ("7x7", 11_689_512))
    ),
    *(({"name": "resnet18", "defects": name}, count) for name, count in VARIANTS.items()),
]


@pytest.mark.parametrize("arguments, parameters", COUNTS)
def test_counts(arguments, parameters):
    assert count(meta_model(**arguments)) == parameters


@pytest.mark.parametrize("regularizer", ["spatial-dropout", "dropblock"])
def test_regularizers_have_no_parameters(regularizer):
    assert count(meta_model("resnet18", regularizer=regularizer)) == CIFAR["resnet18"]
    assert count(meta_model("wrn32_4", regularizer=regularizer)) == CIFAR["wrn32_4"]


@pytest.mark.parametrize("defects", ["0.3-Bottom@paper", "0.3-BottomCM,0.5-Top"])
@pytest.mark.parametrize("name, parameters", CIFAR.items())
def test_masks_have_no_parameters(name, parameters, defects):
    """Nor do they replace any: the names are those of the standard network."""
    model = meta_model(name, defects)
    assert count(model) == parameters
    assert [n for n, _ in model.named_parameters()] == [
        n for n, _ in meta_model(name).named_parameters()
    ]


@pytest.mark.parametrize(
    "defects, stem, second", [("0.5-BottomDC", 32, 64), ("0.1-BottomDC", 7, 13)]
)
def test_dc_removes_channels(defects, stem, second):
    """ceil(p C) channels remain in stem, block 1 and block 2; no masks; a shortcut in block 1."""
    model = meta_model("resnet18", defects)
    widths = widths_of(model)
    assert widths["stem.conv"] == widths["block1.1.conv2"] == stem
    assert widths["block2.0.conv1"] == widths["block2.1.conv2"] == second
    assert widths["block3.0.conv1"] == 256 and widths["block4.1.conv2"] == 512
    assert widths["block1.0.shortcut.conv"] == stem
    assert mask_sites(model) == {}


def test_x2_doubles_the_bottom():
    widths = widths_of(meta_model("resnet18", "0.5-Bottomx2"))
    assert widths["stem.conv"] == widths["block1.0.shortcut.conv"] == 128
    assert widths["block2.0.conv1"] == widths["block3.0.conv1"] == 256
    assert widths["block4.0.conv1"] == 512
