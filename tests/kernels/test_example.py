"""The example of docs/kernels.md runs, imports what it says, and is exact."""

import ast
import copy
import importlib.util
import runpy
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "torchvision_resnet50.py"


def load():
    spec = importlib.util.spec_from_file_location("example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["example"] = module
    spec.loader.exec_module(module)
    return module


def test_it_runs_as_a_script(capsys):
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    said = capsys.readouterr().out
    assert said.startswith("training on") and "evaluation on" in said


def test_it_needs_the_kernels_alone():
    imports = [n for n in ast.walk(ast.parse(EXAMPLE.read_text())) if isinstance(n, ast.ImportFrom)]
    ours = [n.module for n in imports if n.module.startswith("scotoma")]
    assert ours == ["scotoma.kernels"]


def test_it_is_torchvisions_network():
    """Output, every gradient and every buffer, by the eager definition in float64."""
    torch.manual_seed(0)
    example = load()
    original = torchvision.models.resnet50(num_classes=3).double()
    fused = example.fuse(torchvision.models.resnet50(num_classes=3).double())
    fused.load_state_dict(original.state_dict())
    assert sum(type(m) is example.FusedBottleneck for m in fused.modules()) == 16
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    outs = [model(images) for model in (original, fused)]
    torch.testing.assert_close(*outs)
    for out in outs:
        out.square().sum().backward()
    for (name, one), two in zip(original.named_parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, msg=name)
    for (name, one), two in zip(original.named_buffers(), fused.buffers(), strict=True):
        torch.testing.assert_close(two, one, msg=name)
    assert fused.layer1[0].downsample[1].num_batches_tracked == 1


def blocks(change=lambda norm: None, kind=torch.nn.BatchNorm2d):
    """A block with a projection shortcut: torchvision's, and its copy by the operator."""
    torch.manual_seed(0)
    shortcut = torch.nn.Sequential(torch.nn.Conv2d(4, 16, 1), kind(16))
    block = torchvision.models.resnet.Bottleneck(4, 4, downsample=shortcut, norm_layer=kind)
    for norm in block.modules():
        if isinstance(norm, kind):
            change(norm)
    return block.double(), load().fuse(torch.nn.Sequential(copy.deepcopy(block).double()))[0]


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
def test_every_setting_of_a_batch_norm(change):
    assert_equal(*blocks(change))


@pytest.mark.parametrize("setting", [{"eps": 0.1}, {"momentum": 0.7}, {"training": False}], ids=str)
def test_a_shortcut_with_settings_of_its_own(setting):
    original, fused = blocks()
    for block in (original, fused):
        vars(block.downsample[1]).update(setting)
    assert_equal(original, fused)


def assert_equal(original, fused):
    """Over two steps and an evaluation, with all state."""
    for step in range(3):
        if step == 2:
            original.eval(), fused.eval()
        x = torch.randn(3, 4, 5, 5, dtype=torch.float64)
        torch.testing.assert_close(fused(x), original(x))
    torch.testing.assert_close(dict(fused.state_dict()), dict(original.state_dict()))


def test_synchronised_statistics_have_their_group(tmp_path, monkeypatch):
    """The layers' own group, or all ranks. (What the operator does with it is tested elsewhere.)"""
    _, fused = blocks(kind=torch.nn.SyncBatchNorm)
    example = sys.modules[type(fused).__module__]
    asked = []
    monkeypatch.setattr(
        example,
        "bn_mask_add_relu",
        lambda x, *_, group, **options: asked.append(group) or x,
    )
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    fused(x)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        fused(x)
        for norm in fused.modules():
            norm.process_group = "mine"
        fused(x)
        assert asked == [None] * 3 + [dist.group.WORLD] * 3 + ["mine"] * 3
    finally:
        dist.destroy_process_group()


def test_what_it_cannot_fuse_is_refused():
    example = load()
    with pytest.raises(ValueError, match=r"layer1\.0\.bn1 is InstanceNorm2d"):
        example.fuse(torchvision.models.resnet50(norm_layer=torch.nn.InstanceNorm2d))
    with pytest.raises(ValueError, match="ResNet has no block"):
        example.fuse(torchvision.models.resnet18())
