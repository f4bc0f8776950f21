"""The example of docs/kernels.md runs, imports what it says, and is exact."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "torchvision_resnet50.py"


def load():
    spec = importlib.util.spec_from_file_location("example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_runs_as_a_script():
    result = subprocess.run(
        [sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("training on") and "evaluation on" in result.stdout


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
        if "num_batches" not in name:
            torch.testing.assert_close(two, one, msg=name)
