"""The scripts for a GPU machine: what they say without one, and that they ask for what exists."""

import importlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scotoma.bench.paper.command import chosen_definitions
from scotoma.bench.paper.options import make_paper_parser

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("gpu_check.sh", "gpu_bench.sh")
# A Python that believes in GPUs, and notes what it is asked to run instead of running it.
PRETENDER = """#!/bin/bash
if [ "$1" = -m ]; then
    printf '%q ' "$@" >> "$ASKED"
    echo >> "$ASKED"
    [ "$2" != "$BROKEN" ]
fi
"""


def run(script, *arguments, **environment):
    return subprocess.run(
        ["bash", str(ROOT / "bench" / script), *map(str, arguments)],
        env={k: v for k, v in os.environ.items() if k not in ("STAGES", "BUDGET")} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def pretend(tmp_path):
    """Run a script as on a machine with a GPU. Returns its result, and what it asked for."""
    python, asked, images = tmp_path / "python", tmp_path / "asked", tmp_path / "images"
    python.write_text(PRETENDER)
    python.chmod(0o755)
    images.mkdir()

    def pretended(script, **environment):
        asked.write_text("")
        environment |= {"PYTHON": str(python), "ASKED": str(asked)}
        result = run(script, tmp_path / "results", images, **environment)
        return result, [shlex.split(line) for line in asked.read_text().splitlines()]

    return pretended


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("script", SCRIPTS)
def test_no_gpu_is_said(tmp_path, script):
    result = run(script, tmp_path / "results", PYTHON=sys.executable)
    assert result.returncode == 77
    assert "no NVIDIA GPU" in result.stderr and "nothing was checked" in result.stderr
    assert not list((tmp_path / "results").iterdir())


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_interpreter_without_torch_is_said(tmp_path, script):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    result = run(script, tmp_path / "results", PYTHON=str(python))
    assert result.returncode == 2
    assert "PYTHON" in result.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_measurement_takes_its_options(pretend, script):
    """A misspelt option would be found on a GPU only, where time is dear."""
    result, asked = pretend(script)
    measured = [words for words in asked if words[1].startswith("scotoma.bench.")]
    assert len(measured) >= 3, result.stdout
    for _, module, *options in measured:
        found = importlib.import_module(module)
        if hasattr(found, "__path__"):  # a package that runs its command
            found = importlib.import_module(f"{module}.command")
        if hasattr(found, "parse"):
            assert found.parse(options)
    tables = [words[3:] for words in asked if words[1:3] == ["scotoma.train", "paper"]]
    assert len(tables) == 2 * (script == "gpu_bench.sh")
    for options in tables:
        assert chosen_definitions(make_paper_parser().parse_intermixed_args(options).names)
    for words in asked:
        for path in (word for word in words if word.startswith("tests/")):
            assert (ROOT / path).is_dir()


def test_stages_are_those_asked_for(pretend):
    result, asked = pretend("gpu_bench.sh", STAGES="step report")
    assert result.returncode == 0
    assert [words[1] for words in asked] == ["scotoma.bench.step", "scotoma.bench.report"]
    assert "gpu-bench: step: ok" in result.stdout and "gpu-bench: report: ok" in result.stdout


def test_a_failed_stage_stops_no_other(pretend):
    result, asked = pretend("gpu_bench.sh", STAGES="step report", BROKEN="scotoma.bench.step")
    assert result.returncode == 1
    assert len(asked) == 2
    assert "step: FAILED (status 1)" in result.stdout and "report: ok" in result.stdout


def test_no_time_is_said(pretend):
    result, asked = pretend("gpu_bench.sh", STAGES="step roofline", BUDGET="3")
    assert result.returncode == 1 and not asked
    assert "roofline: not run, no time left" in result.stdout


def test_measurements_need_little():
    """Only what trains by the options of 'scotoma train' needs their library: GPU machines often
    have torch and not much else."""
    code = """
import importlib, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "jsonargparse":
            raise ImportError(name)

sys.meta_path.insert(0, Missing())
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    try:
        module.main(["--help"])
    except SystemExit as stop:
        assert stop.code == 0
"""
    commands = ["attacks", "doctor", "layers", "profiling", "report", "roofline", "step"]
    names = [f"scotoma.bench.{name}.command" for name in commands]
    result = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
