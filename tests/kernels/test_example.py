"""The example of docs/kernels.md runs, alone and in two processes, and imports what it says."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torchvision", reason="torchvision is not installed")
EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "fuse_in_your_loop.py"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.parametrize(
    "launcher", [[], pytest.param(TORCHRUN, marks=pytest.mark.slow)], ids=["alone", "two ranks"]
)
def test_it_runs(launcher):
    done = subprocess.run(
        [sys.executable, *launcher, str(EXAMPLE), "--size", "32", "--steps", "2"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "SCOTOMA_BACKEND": "eager"},
    )
    assert done.returncode == 0, done.stderr
    assert "20 of 20 batch norms fused" in done.stdout and "step 2: loss" in done.stdout
    assert float(done.stdout.split()[-1]) < 1e-4


def test_it_needs_the_kernels_alone():
    imports = [n for n in ast.walk(ast.parse(EXAMPLE.read_text())) if isinstance(n, ast.ImportFrom)]
    ours = [n.module for n in imports if n.module.startswith("scotoma")]
    assert ours == ["scotoma.kernels"]
