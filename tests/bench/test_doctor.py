"""``scotoma doctor``: its results, its verdicts, and that a broken check is one of them."""

import json
import os
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from scotoma.bench import harness, sanitize
from scotoma.bench.doctor import checks, cli, gpus, kernels
from scotoma.bench.doctor.checks import ABSENT, FAILED, OK, WARNING, CheckResult, Context
from scotoma.defective import UserError
from scotoma.kernels import backends, launch
from scotoma.train.datasets import DATASETS

GPU = torch.cuda.is_available()
CPU = torch.device("cpu")
NOTHING = Context()


def by_what(results) -> dict[str, CheckResult]:
    found = {result.what: result for result in results}
    for result in found.values():
        assert result.detail
        assert bool(result.fix) == (result.verdict != OK), result
    return found


@pytest.mark.skipif(GPU, reason="this machine has a GPU")
@pytest.mark.parametrize(
    "options", [["--quick"], pytest.param([], marks=pytest.mark.slow, id="kernels")]
)
def test_a_healthy_cpu(no_compile, empty, capsys, options):
    assert cli.main(options) == 0
    text = capsys.readouterr().out
    # How long the folder's name is depends on how many processes run the tests.
    lines = text.replace(str(empty), "/tmp/a-folder").splitlines()
    assert max(map(len, lines)) <= 100 and "\x1b" not in text
    assert {check.topic for check in cli.CHECKS if not (options and check.slow)} <= {*lines}
    assert "nothing is wrong" in text and "-> scotoma train --dataset cifar10 --download" in text
    assert ("  ok        bn_mask_add_relu projection" in text) == (not options)
    assert lines[-1] == "Nothing failed. Start with: scotoma train"
    assert not list(empty.iterdir())  # an examination leaves nothing behind


def test_bad_options():
    with pytest.raises(UserError, match="--quick"):
        cli.main(["--quik"])


PAGE = f"""\
Odd
  ok        before                  said
  failed    strange check           OSError: No space left on device
            -> free some disk space
  not here  a                       d
  not here  b                       d
            -> Fix
  warning   c                       d
            -> {"x" * 110}
               --long-option
{{}}
Failed: strange check. Mend the first of them first.
"""
COUNTS = "1 ok, 1 warning, 1 failed, 2 not here"


def test_a_page_and_the_same_for_programs(monkeypatch, capsys, recwarn):
    """A broken check is a line, what it said before is kept, and the others go on. A fix that
    neighbours share is said once, and what is copied stays whole. Warnings are not shown."""

    def strange_check(context):
        warnings.warn("noise", stacklevel=1)
        yield CheckResult("before", OK, "said", values={"number": 1})
        raise OSError("No space left on device")

    def fine_check(context):
        yield from (CheckResult(what, ABSENT, "d", "Fix") for what in "ab")
        yield CheckResult("c", WARNING, "d", "x" * 110 + " --long-option")

    those = [cli.Check("Odd", strange_check), cli.Check("Odd", fine_check)]
    monkeypatch.setattr(cli, "CHECKS", [*those, cli.Check("Slow", lambda context: [], slow=True)])
    assert cli.main([]) == 1
    assert capsys.readouterr().out == PAGE.format(f"\nSlow\n\n{COUNTS}")
    assert cli.main(["--quick"]) == 1
    left_out = "kernels and torch.compile were left out"
    assert capsys.readouterr().out == PAGE.format(f"\n{COUNTS}; {left_out}")
    assert not recwarn.list

    assert cli.main(["--quick", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["status"] == "failed" and report["quick"]
    assert report["machine"]["torch"] == torch.__version__
    assert report["counts"] == {"ok": 1, "warning": 1, "failed": 1, "not here": 2}
    assert [line["what"] for line in report["lines"]] == ["before", "strange check", *"abc"]
    assert report["lines"][0] == {
        **{"topic": "Odd", "what": "before", "verdict": "ok", "detail": "said", "fix": ""},
        "values": {"number": 1},
    }


# Libraries


def test_bounds_are_those_of_the_package():
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    project = tomllib.loads(project.read_text())["project"]
    optional = project["optional-dependencies"]
    needed = [*project["dependencies"], *optional["train"], *optional["bench"]]
    declared = dict(text.split(";")[0].split(">=") for text in needed if ">=" in text)
    declared["Python"] = project["requires-python"].removeprefix(">=")
    assert declared == checks.MINIMUM


@pytest.mark.parametrize(
    ("found", "old"),
    [("2.11.0", False), ("2.10.9+cu126", True), ("2.11", False), ("2.9", True), ("3", False),
     ("2", True), ("2.11.0a0+git123", False)],
)  # fmt: skip
def test_versions_compare_as_numbers(found, old):
    assert checks.too_old(found, "2.11") == old


def test_libraries_that_are_too_old_missing_or_broken(monkeypatch):
    versions = {"torch": "2.9.1+cu128", "jsonargparse": None, "triton": None}
    real = checks.found_version
    monkeypatch.setattr(checks, "found_version", lambda name: versions.get(name, real(name)))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setitem(sys.modules, "torchvision", None)  # does not import
    lines = by_what(checks.libraries(NOTHING))
    assert lines["torch"].verdict == FAILED
    assert lines["torch"].detail == "2.9.1+cu128 (needs 2.11 or later)"
    # Both, since only these two fit together.
    assert lines["torch"].fix.endswith('pip install --upgrade "torch>=2.11" "torchvision>=0.26"')
    assert lines["triton"].verdict == WARNING and '"triton>=3.6"' in lines["triton"].fix
    assert lines["other libraries"].verdict == FAILED
    assert '"jsonargparse>=4.53"' in lines["other libraries"].fix
    assert lines["torchvision"].verdict == FAILED
    assert "--force-reinstall torch torchvision" in lines["torchvision"].fix


# GPUs, number formats and backends.

STATE = {
    "index": "3",
    "clocks.sm": "1980",
    "clocks.max.sm": "1980",
    "clocks.mem": "2619",
    "power.draw": "71.20",
    "power.limit": "700.00",
    "power.default_limit": "700.00",
    "temperature.gpu": "31",
    "utilization.gpu": "0",
    "memory.used": "4",
}
OWN = f"GPU-u1, {os.getpid()}, python, 900"
ANOTHER = f"{OWN}\nGPU-u1, 99999999, /opt/a, b/train, 900"
UNKNOWN = {name: "[N/A]" for name in STATE}


@pytest.mark.parametrize(
    ("changes", "what", "verdict", "words"),
    [
        ({}, "GPU 0", OK, "GPU of test 0, compute capability 9.0, 78.0 of 79.0 GiB free, "
         "132 multiprocessors, L2 50 MiB, driver 580.95.05"),
        ({}, "GPU 1 now", OK, "71.20 of 700.00 W"),
        ({"refusal": "it has compute capability (7, 0)"}, "GPU 0", WARNING,
         "runs the eager definition only: it has compute capability (7, 0) -> for the fused "
         "kernels: Triton, and a GPU of compute capability 8.0 or later"),
        ({"processes": ANOTHER}, "GPU 1 users", WARNING,
         "train (process 99999999, 900 MiB): another process uses it, and no timing"),
        ({"processes": ANOTHER}, "GPU 0 users", OK, "no other process uses it"),
        ({"memory.used": "30720"}, "GPU 0 users", WARNING, "30.0 GiB in use"),
        ({"memory.used": "5000", "reserved": 4500 * 2**20}, "GPU 0 users", OK, "no other"),
        ({"utilization.gpu": "97"}, "GPU 0 users", WARNING, "97 % busy"),
        # nvidia-smi may count in another order than torch.
        ({"power.limit": "500.00"}, "GPU 0 now", WARNING,
         "700 W: slower than others -> sudo nvidia-smi --id=3 --power-limit=700"),
        (UNKNOWN | {"mig": "Enabled"}, "GPU 0 now", OK, "MIG"),
        ({"state": {}}, "GPU 0", OK, "driver unknown"),
        ({"state": {}}, "GPU 0 now", ABSENT, "nvidia-smi"),
        ({"state": {}}, "GPU 0 users", ABSENT, "unknown"),
    ],
)  # fmt: skip
def test_gpus(monkeypatch, changes, what, verdict, words):
    """Two of them, as a pretended torch.cuda and nvidia-smi have them."""
    settings = {"refusal": None, "processes": OWN, "reserved": 0, "mig": "Disabled"} | changes
    state = changes.get("state", STATE | {name: changes.get(name, STATE[name]) for name in STATE})

    def properties(device):
        index = torch.device(device).index
        return SimpleNamespace(
            name=f"GPU of test {index}", major=9, minor=0, multi_processor_count=132,
            L2_cache_size=50 * 2**20, uuid=f"u{index}",
        )  # fmt: skip

    def output_of(command):
        if "compute-apps" in command[1]:
            return settings["processes"]
        fields = command[2].removeprefix("--query-gpu=").split(",")
        known = state | {"driver_version": "580.95.05", "mig.mode.current": settings["mig"]}
        return ", ".join(known[name] for name in fields) if state else None

    monkeypatch.setattr(harness, "output_of", output_of)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (78 * 2**30, 79 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: settings["reserved"])
    monkeypatch.setattr(backends, "device_refusal", lambda device: settings["refusal"])
    lines = by_what(gpus.gpus(NOTHING))
    assert list(lines) == [
        "CPU",
        *(f"GPU {i}{kind}" for i in "01" for kind in ("", " now", " users")),
    ]
    found = lines[what]
    assert found.verdict == verdict and words in f"{found.detail} -> {found.fix}"
    # What is wrong in one respect is fine in the others.
    others = [line for name, line in lines.items() if name[5:] not in ("", what[5:])]
    assert not state or {line.verdict for line in others} == {OK}


ON_GPU = {"on_gpu": True, "refusal": None}


@pytest.mark.parametrize(
    ("check", "situation", "what", "verdict", "words"),
    [
        (checks.libraries, {"cuda": "13.0", "cudnn": 91002}, "cuDNN", OK, "9.10.2"),
        (checks.libraries, {"cuda": "13.0", "cudnn": 8902}, "cuDNN", OK, "8.9.2"),
        (checks.libraries, {"cuda": "13.0"}, "cuDNN", WARNING,
         "torch finds none: convolutions will be slow"),
        (gpus.gpus, {"listed": "NVIDIA L4"}, "GPU", WARNING,
         "NVIDIA L4 is there, but torch does not see it: this torch is built without CUDA -> "
         f"{sys.executable} -m pip install --force-reinstall torch torchvision"),
        (gpus.gpus, {"listed": "NVIDIA L4", "cuda": "13.0", "CUDA_VISIBLE_DEVICES": ""}, "GPU",
         WARNING, "see it: CUDA_VISIBLE_DEVICES is '' -> unset CUDA_VISIBLE_DEVICES"),
        (gpus.gpus, {"listed": "NVIDIA L4", "cuda": "13.0"}, "GPU", WARNING,
         "see it: The driver is too old -> a driver for CUDA 13.0 or later"),
        (checks.backend, {}, "backend", OK, "eager definition"),
        (checks.backend, ON_GPU, "backend", OK, "fused kernels on the GPU"),
        (checks.backend, {"default": "eager"}, "backend", OK, "by SCOTOMA_BACKEND=eager"),
        (checks.backend, ON_GPU | {"default": "eager"}, "backend", WARNING,
         "though this GPU runs the fused kernels -> unset SCOTOMA_BACKEND"),
        (checks.backend, ON_GPU | {"default": "triton"}, "backend", OK, "wherever they can run"),
        (checks.backend, {"default": "triton"}, "backend", WARNING,
         "preferred by SCOTOMA_BACKEND=triton, but no GPU -> unset SCOTOMA_BACKEND"),
        (checks.backend, ON_GPU | {"default": "cuda"}, "backend", FAILED,
         "expected 'eager' or 'triton' -> unset SCOTOMA_BACKEND"),
        (kernels.compilers, {"PATH": "", "CC": "gcc-99 -m64"}, "C compiler", WARNING,
         "which is not there; Triton needs one to launch kernels -> sudo apt install gcc, or"),
        (kernels.compilers, {"PATH": ""}, "C++ compiler", WARNING, "none found"),
        (kernels.compiles, {"PATH": ""}, "torch.compile", WARNING, "-> sudo apt install g++"),
        (checks.caches, {"TRITON_CACHE_DIR": f"{__file__}/below"}, "Triton's cache", WARNING,
         "is a file; Triton compiles into it -> export TRITON_CACHE_DIR="),
    ],
)  # fmt: skip
def test_situations(monkeypatch, check, situation, what, verdict, words):
    def init():
        raise RuntimeError("The driver is too old. Please update.\nReally.")

    for variable in ("CUDA_VISIBLE_DEVICES", "CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    for name, value in situation.items():
        if name.isupper():
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(harness, "output_of", lambda command: situation.get("listed"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: situation.get("on_gpu", False))
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.version, "cuda", situation.get("cuda"))
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: situation.get("cudnn"))
    monkeypatch.setattr(backends, "_default", situation.get("default"))
    monkeypatch.setattr(backends, "interpreting", lambda: False)
    monkeypatch.setattr(
        backends, "device_refusal", lambda device: situation.get("refusal", "no GPU")
    )
    found = by_what(check(NOTHING))[what]
    assert found.verdict == verdict and words in f"{found.detail} -> {found.fix}"


def test_dtypes_of_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    lines = by_what(checks.dtypes(NOTHING))
    assert list(lines) == ["float32", "float16", "bfloat16"]
    assert "auto" in lines["float32"].detail and "auto" not in lines["bfloat16"].detail


# Kernels.


@pytest.mark.skipif(GPU, reason="kernels run on the GPU")
def test_failing_kernels_are_lines(monkeypatch):
    """One kernel raises and another computes something else; the rest goes on."""
    real, device_kernels = sanitize.cases, launch.device_kernels()
    start, conv = launch.Launch.__call__, sanitize.conv_bn_mask_add_relu
    chosen = ("apply_mask", "bn_mask_add_relu none channels_last eval", "conv_bn_mask_add_relu 1x1")

    def some(device, dtype):
        yield from (case for case in real(device, dtype) if str(case).startswith(chosen))

    def wrong(*arguments, backend, **options):
        out = conv(*arguments, backend=backend, **options)
        return out * 1.01 if backend == "triton" else out

    monkeypatch.setattr(sanitize, "cases", some)
    monkeypatch.setattr(sanitize, "conv_bn_mask_add_relu", wrong)
    broken = MagicMock()
    broken.__getitem__.side_effect = RuntimeError("Failed to find C compiler.\nSet CC.")
    monkeypatch.setattr(device_kernels, "multiply_mask", broken)
    lines = by_what(kernels.self_test(NOTHING, CPU, "triton"))
    assert lines["bn_mask_add_relu none"].verdict == OK
    assert lines["bn_mask_add_relu none"].values["errors"]["float32"] < 1e-5
    for name, words in (
        ("apply_mask", "2 of 2 calls fail; float32 channels_last: RuntimeError: Failed to"),
        ("conv_bn_mask_add_relu", "wrong, relative error 0.01 (allowed 0.0001)"),
    ):
        assert lines[name].verdict == FAILED and words in lines[name].detail
    assert "gcc" in lines["apply_mask"].fix
    json.dumps([line.values for line in lines.values()], allow_nan=False)
    # Counting launches has left them as they were.
    assert launch.Launch.__call__ is start


def test_kernels_that_were_never_launched(monkeypatch):
    monkeypatch.setattr(sanitize, "cases", lambda device, dtype: iter(()))
    line = by_what(kernels.self_test(NOTHING, CPU, "triton"))["fused kernels"]
    assert line.verdict == FAILED and "never launched: partial_statistics" in line.detail


def test_a_lost_gpu_ends_the_test(monkeypatch):
    """After an illegal access every call fails; one of them is to blame."""
    monkeypatch.setattr(sanitize, "worst_error", lambda case, backend: 1 / 0)
    monkeypatch.setattr(kernels, "gpu_is_lost", lambda device: True)
    (line,) = kernels.self_test(NOTHING, CPU, "triton")
    assert line.verdict == FAILED
    assert "stopped at bn_mask_add_relu none float32 channels_last train: Zero" in line.detail


@pytest.mark.slow
@pytest.mark.skipif(GPU, reason="kernels run on the GPU")
def test_kernels_are_compiled_without_a_gpu():
    """In a process of its own, since this one interprets them."""
    code = (
        "from scotoma.bench.doctor import checks, kernels\n"
        "for line in kernels.kernels(checks.Context()): print(line.what, line.verdict, line.fix)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[:2] == ["eager definition ok ", "fused kernels compile ok "]
    assert lines[2].startswith("fused kernels run not here TRITON_INTERPRET=1")


@pytest.mark.gpu
def test_a_gpu_is_healthy(no_compile, capsys):
    status = cli.main(["--json"])
    report = json.loads(capsys.readouterr().out)
    lines = {line["what"]: line for line in report["lines"]}
    assert lines["GPU 0"]["verdict"] == "ok"
    assert set(lines["apply_mask"]["values"]["errors"]) == {"float32", "float16", "bfloat16"}
    kernel_lines = [line for line in report["lines"] if line["topic"] == "Kernels"]
    assert [line for line in kernel_lines if line["verdict"] != "ok"] == []
    failed = [line["what"] for line in report["lines"] if line["verdict"] == "failed"]
    assert status == bool(failed)


# Compilers


@pytest.mark.parametrize(
    ("code", "limit", "verdict", "words"),
    [
        ("print('chatter'); print('BackendError: no'); exit(1)", 60, FAILED, "cpu: BackendError"),
        ("raise SystemError('deep inside')", 60, FAILED, "SystemError: deep inside"),
        ("import time; time.sleep(60)", 0.5, WARNING, "not done after"),
        ("import os; exit('TRITON_INTERPRET' in os.environ)", 60, OK, "works on cpu"),
    ],
)
def test_outcomes_of_compiling(code, limit, verdict, words):
    line = kernels.outcome([sys.executable, "-c", code], "cpu", limit)
    assert line.verdict == verdict and words in line.detail
    assert bool(line.fix) == (verdict != OK)


@pytest.mark.slow
def test_torch_compile_is_tried():
    assert by_what(kernels.compiles(NOTHING))["torch.compile"].verdict == OK


def test_a_full_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30))
    line = checks.free_space("data root", tmp_path / "not" / "yet", "free some")
    assert line.verdict == WARNING and "1.0 GiB free" in line.detail
    assert list(tmp_path.iterdir()) == []


def test_data_sets_that_are_there_and_not(monkeypatch, tmp_path):
    monkeypatch.delenv("SCOTOMA_DATA", raising=False)
    for name in ("cifar10", "tiny-imagenet", "mnist"):
        for pattern in checks.FILES[name]:
            path = tmp_path / name / pattern.replace("*", "x")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (tmp_path / "mnist" / "MNIST/raw/train-labels-idx1-ubyte").unlink()
    lines = by_what(checks.data_sets(Context(tmp_path)))
    assert list(lines) == ["data root", *DATASETS]
    assert {name for name in DATASETS if lines[name].verdict == OK} == {
        "sample", "cifar10", "tiny-imagenet"
    }  # fmt: skip
    assert lines["cifar10"].detail == f"in {tmp_path / 'cifar10'}"
    assert lines["mnist"].verdict == lines["fashion-mnist"].verdict == ABSENT
    assert "has no MNIST/raw/train-labels-idx1-ubyte" in lines["mnist"].detail
    fix = f"scotoma train --dataset fashion-mnist --download --data-root {tmp_path}"
    assert lines["fashion-mnist"].fix == fix
    assert "image-net.org" in lines["imagenet"].fix
    assert f"ln -s /that/folder {tmp_path / 'imagenet'}" in lines["imagenet"].fix
    test_images = tmp_path / "imagenet" / "test" / "x" / "x"
    for folder in (test_images, tmp_path / "imagenet" / "train" / "x" / "x"):
        folder.mkdir(parents=True)
    monkeypatch.setenv("SCOTOMA_DATA", str(tmp_path))
    lines = by_what(checks.data_sets(NOTHING))
    assert lines["imagenet"].verdict == OK
    assert lines["fashion-mnist"].fix == fix.split(" --data-root")[0]


def test_files_are_those_that_torchvision_reads():
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    source = torchvision.datasets.CIFAR10
    names = [name for name, _ in source.train_list + source.test_list] + [source.meta["filename"]]
    assert sorted(checks.FILES["cifar10"]) == sorted(f"{source.base_folder}/{n}" for n in names)
    for name, source in (
        ("mnist", torchvision.datasets.MNIST),
        ("fashion-mnist", torchvision.datasets.FashionMNIST),
    ):
        names = [Path(file).stem for file, _ in source.resources]
        expected = [f"{source.__name__}/raw/{file}" for file in names]
        assert sorted(checks.FILES[name]) == sorted(expected)
    assert set(DATASETS) == set(checks.FILES)
