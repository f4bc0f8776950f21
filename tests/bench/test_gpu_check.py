"""``make gpu-check`` where there is nothing to check: it says so, and does not pretend."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "gpu_check.sh"


def run(tmp_path, **environment):
    return subprocess.run(
        ["bash", str(SCRIPT), str(tmp_path / "results")],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu_is_said(tmp_path):
    result = run(tmp_path, PYTHON=sys.executable)
    assert result.returncode == 77
    assert "no NVIDIA GPU" in result.stderr and "nothing was checked" in result.stderr
    assert not list((tmp_path / "results").iterdir())


def test_an_interpreter_without_torch_is_said(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    result = run(tmp_path, PYTHON=str(python))
    assert result.returncode == 2
    assert "PYTHON" in result.stderr
