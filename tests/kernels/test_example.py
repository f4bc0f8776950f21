"""The examples of docs/kernels.md run, and import what they say."""

import ast
import os
import subprocess
import sys

import pytest
import torch
from examples import FOLDER, run_example

SMALL = ("--size", "32", "--steps", "2")


def test_a_network_is_fused_in_a_loop(capsys):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    run_example("fuse_in_your_loop.py", *SMALL)
    check_loop(capsys.readouterr().out)


@pytest.mark.slow
def test_a_network_is_fused_in_a_loop_of_two_ranks():
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *torchrun, str(FOLDER / "fuse_in_your_loop.py"), *SMALL],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "SCOTOMA_BACKEND": "eager"},
    )
    assert done.returncode == 0, done.stderr
    check_loop(done.stdout)


def check_loop(output):
    assert "20 of 20 batch norms fused" in output and "step 2: loss" in output
    assert float(output.split()[-1]) < 1e-4


def test_one_layer_alone_learns(capsys):
    made = run_example("one_layer_alone.py", "--size", 8, "--steps", 12)
    assert made["losses"][-1] < made["losses"][0] / 2
    mask, silent = made["model"].norm1.mask, made["silent"]
    assert bool(silent[~mask].all()) and not bool(silent[mask].all())
    assert torch.equal(made["other"].norm1.mask, mask.cpu())
    assert capsys.readouterr().out.endswith("masks are equal after loading: True\n")


@pytest.mark.parametrize("name", ["fuse_in_your_loop.py", "one_layer_alone.py"])
def test_they_need_the_kernels_alone(name):
    tree = ast.parse((FOLDER / name).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = [node.module for node in imports if node.module.startswith("scotoma")]
    assert ours == ["scotoma.kernels"]
