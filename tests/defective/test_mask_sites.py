"""Which outputs carry a mask, in forward order, and its shape: docs/reference.md, 1.

Full-width networks on the meta device: shapes are exact and nothing is computed.
"""

import pytest
import torch
from scotoma.defective import create_model, mask_sites


def found(name, defects, **options):
    with torch.device("meta"):
        masks = mask_sites(create_model(name, defects, **options))
    assert all(mask.dtype == torch.bool for mask in masks.values())
    return {site: tuple(mask.shape) for site, mask in masks.items()}


def basic_blocks(number, depth, shape, projection):
    """conv1 and conv2 of each basic block; the projection's BN after those of the first."""
    sites = {}
    for index in range(depth):
        sites |= {f"block{number}.{index}.bn{conv}": shape for conv in (1, 2)}
        if index == 0 and projection:
            sites[f"block{number}.0.shortcut.bn"] = shape
    return sites


RESNET18_BOTTOM = {
    "stem.bn": (64, 32, 32),
    **basic_blocks(1, 2, (64, 32, 32), projection=False),
    **basic_blocks(2, 2, (128, 16, 16), projection=True),
}
RESNET18_TOP = {
    **basic_blocks(3, 2, (256, 8, 8), projection=True),
    **basic_blocks(4, 2, (512, 4, 4), projection=True),
}
RESNET50_BOTTOM = {
    "stem.bn": (64, 32, 32),
    **{f"block1.{i}.spatial.bn": (64, 32, 32) for i in range(3)},
    **{f"block2.{i}.spatial.bn": (128, 16, 16) for i in range(4)},
}
RESNET50_TOP = {
    **{f"block3.{i}.spatial.bn": (256, 8, 8) for i in range(6)},
    **{f"block4.{i}.spatial.bn": (512, 4, 4) for i in range(3)},
}
DENSENET_BOTTOM = {
    **{f"block1.{i}.bn1": (64 + 32 * i, 32, 32) for i in range(6)},
    "transition1.bn": (256, 32, 32),
    **{f"block2.{i}.bn1": (128 + 32 * i, 16, 16) for i in range(12)},
    "transition2.bn": (512, 16, 16),
}
DENSENET_TOP = {
    **{f"block3.{i}.bn1": (256 + 32 * i, 8, 8) for i in range(24)},
    "transition3.bn": (1024, 8, 8),
    **{f"block4.{i}.bn1": (512 + 32 * i, 4, 4) for i in range(16)},
}
DENSENET_PAPER = {
    "stem": (64, 32, 32),
    **{f"block1.{i}.conv2": (32, 32, 32) for i in range(6)},
    **{f"block2.{i}.conv2": (32, 16, 16) for i in range(12)},
}
SENET_BOTTOM = {
    **{f"block1.{i}.bn{n}": (64, 32, 32) for i in range(2) for n in (1, 2)},
    # Its first BN acts on the input of the stage, still 64 channels of 32x32.
    "block2.0.bn1": (64, 32, 32),
    "block2.0.bn2": (128, 16, 16),
    "block2.1.bn1": (128, 16, 16),
    "block2.1.bn2": (128, 16, 16),
}
SENET_TOP = {
    "block3.0.bn1": (128, 16, 16),
    "block3.0.bn2": (256, 8, 8),
    "block3.1.bn1": (256, 8, 8),
    "block3.1.bn2": (256, 8, 8),
    "block4.0.bn1": (256, 8, 8),
    "block4.0.bn2": (512, 4, 4),
    "block4.1.bn1": (512, 4, 4),
    "block4.1.bn2": (512, 4, 4),
}
SENET_PAPER = {
    "stem.bn": (64, 32, 32),
    **{f"block1.{i}.conv{n}": (64, 32, 32) for i in range(2) for n in (1, 2)},
    **{f"block2.{i}.conv{n}": (128, 16, 16) for i in range(2) for n in (1, 2)},
}
VGG_BOTTOM = {
    **{f"block0.{i}.bn": (64, 32, 32) for i in range(2)},
    **{f"block1.{i}.bn": (128, 16, 16) for i in range(2)},
}
WRN_BOTTOM = {
    "stem.bn": (16, 32, 32),
    **basic_blocks(1, 5, (64, 32, 32), projection=False),
}


def of_blocks(sites, *numbers):
    prefixes = tuple(f"block{number}" for number in numbers)
    return {site: shape for site, shape in sites.items() if site.startswith(prefixes)}


CASES = {
    "resnet18": [
        ("0.5-Bottom", RESNET18_BOTTOM, 10),
        ("0.5-Top", RESNET18_TOP, 10),
        ("0.5-Bottom,0.3-Top", RESNET18_BOTTOM | RESNET18_TOP, 20),
        ("0.1-{1,2}", of_blocks(RESNET18_BOTTOM, 1, 2), 9),
        ("0.1-BottomSM", RESNET18_BOTTOM, 10),
        ("0.5-Bottom@paper", RESNET18_BOTTOM, 10),
    ],
    "resnet50": [
        ("0.5-Bottom", RESNET50_BOTTOM, 8),
        ("0.5-Top", RESNET50_TOP, 9),
        ("0.5-Bottom,0.3-Top", RESNET50_BOTTOM | RESNET50_TOP, 17),
        ("0.1-{1,2}", of_blocks(RESNET50_BOTTOM, 1, 2), 7),
        ("0.5-Bottom@paper", RESNET50_BOTTOM, 8),
    ],
    "densenet121": [
        ("0.5-Bottom", DENSENET_BOTTOM, 20),
        ("0.5-Bottom,0.3-Top", DENSENET_BOTTOM | DENSENET_TOP, 20 + 41),
        ("0.1-{1,2}", DENSENET_BOTTOM, 20),
        ("0.5-Bottom@paper", DENSENET_PAPER, 19),
    ],
    "senet18": [
        ("0.5-Bottom", SENET_BOTTOM, 8),
        ("0.5-Top", SENET_TOP, 8),
        ("0.5-Bottom,0.3-Top", SENET_BOTTOM | SENET_TOP, 16),
        ("0.1-{1,2}", SENET_BOTTOM, 8),
        ("0.5-Bottom@paper", SENET_PAPER, 9),
    ],
    "vgg19": [
        ("0.5-Bottom", VGG_BOTTOM, 4),
        ("0.1-{1}", of_blocks(VGG_BOTTOM, 1), 2),
        ("0.5-Bottom@paper", VGG_BOTTOM, 4),
    ],
    "wrn32_4": [
        ("0.5-Bottom", WRN_BOTTOM, 11),
        ("0.1-{1}", of_blocks(WRN_BOTTOM, 1), 10),
        ("0.5-Bottom@paper", WRN_BOTTOM, 11),
    ],
}


@pytest.mark.parametrize(
    "name, defects, sites, number",
    [(name, *case) for name, cases in CASES.items() for case in cases],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_cifar(name, defects, sites, number):
    masks = found(name, defects)
    assert masks == sites
    assert list(masks) == list(sites)  # forward order
    assert len(masks) == number


@pytest.mark.parametrize("name", CASES)
def test_other_sizes_and_standard_networks(name):
    """The same sites, of twice the size, or 28 and 14 pixels; none in a standard network."""
    bottom, small = CASES[name][0][1], {32: 28, 16: 14}
    assert found(name, "standard") == {}
    doubled = {site: (c, 2 * h, 2 * w) for site, (c, h, w) in bottom.items()}
    assert found(name, "0.5-Bottom", image_size=64) == doubled
    mnist = {site: (c, small[h], small[w]) for site, (c, h, w) in bottom.items()}
    assert found(name, "0.5-Bottom", in_channels=1, image_size=28) == mnist
    if name == "densenet121":  # the top of 28 pixels is seven, then three
        masks = found(name, "0.5-Top", in_channels=1, image_size=28)
        for block, size in (("block3", 7), ("block4", 3)):
            assert {s[1:] for site, s in masks.items() if site.startswith(block)} == {(size, size)}


def test_x2_masks_have_twice_the_channels():
    """The projection that x2 adds to block 1 is not masked."""
    doubled = {site: (2 * c, h, w) for site, (c, h, w) in RESNET18_BOTTOM.items()}
    assert found("resnet18", "0.5-Bottomx2") == doubled


def test_imagenet_resnet18():
    """The stem's mask comes before the max-pool."""
    expected = {
        "stem.bn": (64, 112, 112),
        **basic_blocks(1, 2, (64, 56, 56), projection=False),
        **basic_blocks(2, 2, (128, 28, 28), projection=True),
    }
    for stem in ("3x3", "7x7"):
        assert found("resnet18", "0.1-Bottom", image_size=224, stem=stem) == expected


def test_placement_may_be_given_either_way():
    assert found("senet18", "0.5-Bottom", sites="paper") == SENET_PAPER
    # What the notation says goes first.
    assert found("senet18", "0.5-Bottom@release", sites="paper") == SENET_BOTTOM


def test_each_block_gets_its_own_keep_probability():
    counts = {64: 45876, 128: 22938, 256: 4916, 512: 2458}
    for site, mask in mask_sites(create_model("resnet18", "0.7-Bottom,0.3-Top")).items():
        assert mask.sum().item() == counts[len(mask)], site


def test_kinds_reach_the_masks():
    same = mask_sites(create_model("resnet18", "0.1-BottomSM"))
    for mask in same.values():
        assert (mask == mask[0]).all()
        assert mask[0].sum().item() == {32: 103, 16: 26}[mask.shape[-1]]
    # Different patterns at different sites.
    large = [tuple(m[0].flatten().tolist()) for m in same.values() if m.shape[1:] == (32, 32)]
    assert len(large) == len(set(large)) == 5
    whole = mask_sites(create_model("vgg19", "0.5-BottomCM", width=8))
    for mask in whole.values():
        assert (mask == mask[:, :1, :1]).all()
        assert mask[:, 0, 0].sum().item() == mask.shape[0] / 2


def test_bernoulli_masks_on_request():
    exact = mask_sites(create_model("resnet18", "0.5-Bottom", width=8))
    drawn = mask_sites(create_model("resnet18", "0.5-Bottom", width=8, exact_masks=False))
    assert exact.keys() == drawn.keys()
    assert {mask.float().mean().item() for mask in exact.values()} == {0.5}
    for mask in drawn.values():
        assert abs(mask.float().mean().item() - 0.5) < 5 * 0.5 / mask.numel() ** 0.5
    assert len({mask.sum().item() / mask.numel() for mask in drawn.values()}) > 5
