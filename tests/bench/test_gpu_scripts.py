"""The scripts for a GPU machine: every command in them runs, also where little is installed.

A misspelt option or a missing library would else be found on a GPU only, where time is dear.
"""

import argparse
import importlib
import os
import re
import shlex
import subprocess
import sys
import tarfile
from itertools import product
from pathlib import Path

import bare_environment
import numpy as np
import pytest
import report_rows
import torch
from PIL import Image
from scotoma.bench import harness
from scotoma.bench.cli import BENCHMARKS
from scotoma.bench.options import UNFINISHED
from scotoma.train.cli import VERBS

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("gpu_check.sh", "gpu_bench.sh")
BUDGET = 560  # a machine that ends commands after ten minutes is no use to longer ones
# A Python that believes in GPUs, and notes what it is asked to run instead of running it. What is
# installed, the environment of $REAL says, if there is one.
PRETENDER = r"""#!/bin/bash
if [ "$1" = -m ]; then
    printf '%s\n' "$(printf '%q ' "$@")" >> "$ASKED"
    verb=$2
    [ "$verb" != scotoma.train.cli ] || verb=$3
    [ "$verb" != bench ] || verb=$4
    for pair in $STATUS; do [ "${pair%=*}" != "$verb" ] || exit "${pair#*=}"; done
elif [[ $2 == *find_spec* && -n $REAL ]]; then
    exec "$REAL" "$@"
elif [[ $2 != *find_spec* ]]; then
    echo "$COMMIT"
fi
"""
SANITIZER = """#!/bin/bash
while [ "$1" != "$PYTHON" ]; do shift; done
exec "$@"
"""
# What a command says without doing it; by those that are missing, that there is no GPU.
DRY = {
    "pytest": ["--collect-only"],
    "doctor": ["--help"],
    "report": [],
    "paper": ["--dry-run", "--no-measure"],
    **{name: ["--list"] for name in ("attacks", "layers", "roofline", "step")},
}
CLI = "scotoma.train.cli"


def verb(words):
    """Of a command line: a verb of scotoma, a measurement's name, or another program's."""
    return next(word for word in words[1:] if word not in (CLI, "bench"))


def run(script, *arguments, **environment):
    return subprocess.run(
        ["bash", str(ROOT / "bench" / script), *map(str, arguments)],
        env={k: v for k, v in os.environ.items() if k not in ("STAGES", "BUDGET")} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


class Pretended:
    """A machine with a GPU, as far as the scripts can see."""

    def __init__(self, folder):
        self.results, self.images = folder / "results", folder / "images"
        self.asked = folder / "asked"
        for name, text in (("python", PRETENDER), ("compute-sanitizer", SANITIZER)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        for place in ("train/cat", "train/dog", "test/cat", "test/dog"):
            (self.images / place).mkdir(parents=True)
            for number in range(2):
                image = Image.fromarray(np.full((32, 32, 3), number, np.uint8))
                image.save(self.images / place / f"{number}.png")
        self.environment = {"PYTHON": str(folder / "python"), "ASKED": str(self.asked)}
        self.environment |= {"PATH": f"{folder}:{os.environ['PATH']}"}

    def __call__(self, script, *, images=True, **environment):
        """Its result, and the commands that it asked for, each once."""
        self.asked.write_text("")
        places = [self.results, self.images][: 1 + images]
        result = run(script, *places, **self.environment | environment)
        lines = dict.fromkeys(self.asked.read_text().splitlines())
        return result, [shlex.split(line) for line in lines]


@pytest.fixture
def pretend(tmp_path):
    return Pretended(tmp_path)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The interpreter of an environment in which little is installed."""
    return bare_environment.make(tmp_path_factory.mktemp("bare"))


def check_all(python, commands, folder):
    """Every command is understood. Returns what pytest collects."""
    dry = [([*words, *DRY.get(verb(words), [])], {}) for words in commands]
    collected = ""
    for (words, _), (status, output) in zip(
        dry, bare_environment.run_all(python, dry, folder), strict=True
    ):
        said = f"{shlex.join(words)}\n{output}"
        if verb(words) in DRY:
            assert status == 0, said
        else:
            assert status == 2 and "GPU" in output and "Traceback" not in output, said
        collected += output * (words[1] == "pytest")
    return collected


def test_every_command_is_understood(pretend, monkeypatch):
    """Its options are known; whether it also runs, the slow tests say."""
    # Networks are built there, to see that they can be.
    monkeypatch.setattr("scotoma.bench.variants.create_model", lambda *_, **__: None)
    understood = {}
    for script in SCRIPTS:
        for words in pretend(script)[1]:
            if words[1] != CLI or verb(words) in ("paper", "overhead"):  # they parse as they run
                continue
            name, rest = verb(words), words[words.index(verb(words)) + 1 :]
            module = (BENCHMARKS if words[2] == "bench" else VERBS)[name][0]
            understood[name] = importlib.import_module(module).parse(rest)
    measured = {"step", "layers", "roofline", "attacks", "profile", "convergence", "report"}
    assert set(understood) == {*measured, "doctor"}
    assert understood["step"].resume and understood["step"].time_limit < BUDGET


@pytest.mark.slow
def test_every_command_runs_where_little_is_installed(pretend, bare, tmp_path):
    commands = {}
    for script in SCRIPTS:
        result, asked = pretend(script, REAL=str(bare))
        commands |= {shlex.join(words): words for words in asked}
        for name, missing in (
            ("attacks", "foolbox"),
            ("loop", "jsonargparse yaml"),
            ("paper", "jsonargparse yaml torchvision"),
            ("convergence", "jsonargparse yaml"),
            ("reference", "torchvision"),
            ("tests", "jsonargparse yaml pandas"),
        ):
            line = f"gpu-bench: {name}: skipped, this Python lacks {missing}\n"
            assert (line in result.stdout) == (script == "gpu_bench.sh")
    asked = {verb(words) for words in commands.values()}
    assert {"pytest", "scotoma.bench.sanitize", "step", "profile"} <= asked
    assert asked.isdisjoint({"attacks", "paper", "overhead"}) and "report" in asked
    rows = [report_rows.step("eager", 1000.0), report_rows.layer("ours", 100.0)]
    report_rows.written(pretend.results / "rows.jsonl", rows)
    collected = check_all(bare, list(commands.values()), tmp_path / "logs")
    # What is compiled for a GPU, every operator of it.
    for name in ("convolution", "operator", "execution"):
        assert f"tests/kernels/test_gpu_{name}.py::" in collected
    assert "tests/kernels/test_apply_mask.py::test_every_form[triton-cuda-" in collected
    assert "triton-cpu" not in collected


@pytest.mark.slow
def test_every_further_command_runs_where_all_is_installed(pretend, bare, tmp_path):
    for name in ("foolbox", "jsonargparse", "yaml", "torchvision"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    _, with_little = pretend("gpu_bench.sh", REAL=str(bare))
    _, with_all = pretend("gpu_bench.sh", COMMIT="another")
    # The last word is a number of seconds.
    further = [words for words in with_all if words[:-1] not in [w[:-1] for w in with_little]]
    assert {"attacks", "overhead", "paper", "convergence"} <= {verb(words) for words in further}
    assert "tests/train/test_gpu.py::" in check_all(sys.executable, further, tmp_path / "logs")


def in_a_bare_environment(python, folder, commands):
    """Run ``python -m ...`` lines, each with further environment; (status, output) of each."""
    out = ["--out", str(folder / "rows.jsonl")]
    words = [["-m", *line.split(), *(out if "--cpu --" in line else [])] for line in commands]
    pairs = list(zip(words, commands.values(), strict=True))
    return bare_environment.run_all(python, pairs, folder / "logs")


def test_a_measurement_runs_and_verbs_say_what_they_lack(bare, tmp_path):
    lacking = {
        f"{CLI} train": "jsonargparse",
        f"{CLI} bench convergence --cpu": "jsonargparse",
        f"{CLI} bench overhead --loop": "jsonargparse",
        f"{CLI} paper table5 --dry-run": "jsonargparse",
    }
    measurement = f"{CLI} bench layers --cpu --max-sites 1 --repeats 1 --variants eager"
    commands = {measurement: {}} | {line: {} for line in lacking}
    (status, output), *others = in_a_bare_environment(bare, tmp_path, commands)
    assert status == 0, output
    for name, (status, output) in zip(lacking.values(), others, strict=True):
        (line,) = output.splitlines()
        assert status == 2 and f"error: needs {name}, which is not installed:" in line
        assert line.endswith(f"bin/python -m pip install {name}")


@pytest.mark.slow
def test_all_measurements_run_where_little_is_installed(bare, tmp_path):
    small = "--cpu --networks resnet18 --width 4 --batch 4 --work train --windows 1"
    commands = {
        "scotoma.bench.sanitize --cpu": {"TRITON_INTERPRET": "1"},
        f"{CLI} bench step {small} --window-seconds 0.01 --variants eager": {},
        f"{CLI} bench roofline --cpu --max-cases 1 --repeats 1": {},
    }
    found = in_a_bare_environment(bare, tmp_path, commands)
    for line, (status, output) in zip(commands, found, strict=True):
        assert status == 0, f"{line}\n{output}"
    # What compute-sanitizer gets to see of the convolution.
    forms = product((1, 3), (1, 2), ("train", "eval"))
    expected = [f"{taps}x{taps} stride {stride} {mode}" for taps, stride, mode in forms]
    seen = re.findall(r"^conv_bn_mask_add_relu (.*): ", found[0][1], re.MULTILINE)
    assert sorted(seen) == sorted(expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("script", [SCRIPTS[0], pytest.param(SCRIPTS[1], marks=pytest.mark.slow)])
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


GOES_ON = "not finished; the same command goes on"


@pytest.mark.parametrize(
    ("stages", "further", "status", "asked", "said"),
    [
        ("step report", {}, 0, "step report", ["step: ok", "report: ok"]),
        ("step report", {"STATUS": "step=1"}, 1, "step report", ["step: FAILED (status 1)"]),
        ("step roofline", {"BUDGET": "3"}, 1, "", ["roofline: not run, no time left", GOES_ON]),
        ("paper", {"images": False}, 0, "", ["paper: skipped, no image folder is given"]),
    ],
    ids=["asked-for", "failed", "no-time", "no-images"],
)
def test_stages(pretend, stages, further, status, asked, said):
    result, commands = pretend("gpu_bench.sh", STAGES=stages, **further)
    assert result.returncode == status
    assert [verb(words) for words in commands] == asked.split()
    assert all(f"gpu-bench: {words}" in result.stdout for words in said)


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_the_doctor_finds_decides_nothing(pretend, script):
    """It misses what the rest may well do without."""
    result, _ = pretend(script, STATUS="doctor=1")
    assert result.returncode == 0, result.stdout
    words = r"doctor: FAILED \(status 1\), \d+ s, which decides nothing"
    assert re.search(words, result.stdout), result.stdout
    result, _ = pretend(script, STATUS="pytest=1", COMMIT="another")
    assert result.returncode == 1
    assert "tests: FAILED (status 1)" in result.stdout


def test_the_next_call_goes_on(pretend):
    stages = {"STAGES": "step roofline layers report", "COMMIT": "abc123"}

    def call(**environment):
        result, asked = pretend("gpu_bench.sh", **stages | environment)
        return result, [verb(words) for words in asked]

    status = f"step={UNFINISHED} layers=1 roofline=124"
    result, asked = call(STATUS=status)
    assert result.returncode == 1 and asked == ["step", "layers", "roofline", "report"]
    assert "step: the next call goes on" in result.stdout
    assert GOES_ON in result.stdout
    # What failed stays failed. A case too long for a call is not tried for ever.
    result, asked = call()
    assert result.returncode == 1 and asked == ["step", "report"]
    assert "step: ok" in result.stdout
    assert "layers: FAILED (status 1), in an earlier call" in result.stdout
    assert "roofline: out of time, in an earlier call" in result.stdout
    assert "not finished" not in result.stdout
    _, asked = call(COMMIT="abc1234")
    assert asked == ["step", "layers", "roofline", "report"]
    result, asked = call(COMMIT="abc1234")
    assert result.returncode == 0 and asked == ["report"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_call_ends_in_time(pretend, script):
    """Its stages together, or each of those that go on in the next call."""
    result, _ = pretend(script)
    limits = dict(re.findall(r"^== (\S+) \(at most (\d+) s\)", result.stdout, re.MULTILINE))
    limits = {name: int(seconds) for name, seconds in limits.items()}
    last = limits.pop("layers" if script == "gpu_check.sh" else "report")
    if script == "gpu_check.sh":
        assert set(limits) == {"doctor", "tests", "large", "sanitize", "memcheck", "racecheck"}
        assert sum(limits.values()) <= 480 and BUDGET - 15 <= last <= BUDGET - 5
    else:
        assert max(limits.values()) + last <= BUDGET
        assert limits["doctor"] + limits["tests"] + last <= BUDGET - 90 - 60  # some of a step, too


@pytest.mark.parametrize("script", SCRIPTS)
def test_one_archive_is_left(pretend, script):
    pretend.results.mkdir()
    for name in ("rows.jsonl", "last.safetensors"):
        (pretend.results / name).write_text("0")
    result, _ = pretend(script, STATUS="pytest=1")
    assert result.returncode == 1
    name = script.removesuffix(".sh").replace("_", "-")
    archive = pretend.results.with_name(f"results-{name}.tar.gz")
    assert f"packed as {archive}" in result.stdout
    with tarfile.open(archive) as file:
        names = file.getnames()
        assert "tests: FAILED" in file.extractfile(f"results/{name}/summary.txt").read().decode()
    assert f"results/{name}/tests-1.log" in names and "results/rows.jsonl" in names
    assert "results/last.safetensors" not in names


def test_a_measurement_goes_on_with_what_is_left(tmp_path):
    def measure(resume, settings=0, budget=0.0):
        options = argparse.Namespace(time_limit=budget, resume=resume, out=tmp_path / "rows.jsonl")
        run = harness.Run("test", options, torch.device("cpu"), settings)
        run.measure(["a", "b"], lambda case: [{"value": case, "problems": []}], str)
        return run

    run = measure(resume=True)
    assert run.left == ["b"] and run.finish(str) == UNFINISHED
    run.rows[0]["problems"] = ["f"]
    assert run.finish(str) == 1
    run = measure(resume=True)
    assert [row["case"] for row in run.rows] == ["b"] and run.finish(str) == 0
    assert measure(resume=True).rows == [] and measure(resume=True, settings=1).left == ["b"]
    assert measure(resume=False).finish(str) == 0


def test_results_are_no_change_of_the_source(tmp_path, monkeypatch):
    (tmp_path / "bench" / "results").mkdir(parents=True)
    files = [tmp_path / "bench" / name for name in ("machine.py", "results/rows.jsonl")]

    def git(*words):
        identity = ["-c", "user.name=me", "-c", "user.email=me@here"]
        subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True)

    for file in files:
        file.touch()
    git("init")
    git("add", "-A")
    git("commit", "-m", "all")
    monkeypatch.delenv("SCOTOMA_COMMIT", raising=False)
    monkeypatch.setattr(harness, "__file__", str(files[0]))
    clean = harness.commit()
    assert re.fullmatch("[0-9a-f]{7,}", clean)
    files[1].write_text("{}\n")
    assert harness.commit() == clean
    files[0].write_text("pass\n")
    assert harness.commit() == f"{clean}-dirty"
