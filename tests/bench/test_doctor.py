"""``scotoma doctor``: its results, its verdicts, and that a broken check is one of them."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from scotoma.bench import sanitize
from scotoma.bench.doctor import checks, cli, gpus, kernels
from scotoma.bench.doctor.checks import ABSENT, FAILED, OK, WARNING, CheckResult, Context, examine
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
    lines = text.splitlines()
    # How long the folder's name is depends on how many processes run the tests.
    assert max(map(len, text.replace(str(empty), "/tmp/a-folder").splitlines())) <= 100
    assert "\x1b" not in text
    for topic in {check.topic for check in cli.CHECKS if not (options and check.slow)}:
        assert topic in lines
    assert "nothing is wrong" in text
    assert ("  ok        bn_mask_add_relu projection" in text) == (not options)
    assert "-> scotoma train --dataset cifar10 --download" in text
    assert lines[-1] == "Nothing failed. Start with: scotoma train"
    assert ("kernels and torch.compile were left out" in text) == bool(options)
    assert not list(empty.iterdir())  # an context leaves nothing behind


def test_json_says_the_same(no_compile, empty, capsys):
    assert cli.main(["--json", "--quick"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["status"] == "ok" and report["quick"]
    assert report["machine"]["torch"] == torch.__version__
    lines = {line["what"]: line for line in report["lines"]}
    assert lines["torch"] == {
        "topic": "Python and libraries",
        "what": "torch",
        "verdict": "ok",
        "detail": torch.__version__,
        "fix": "",
        "values": {"version": torch.__version__, "minimum": checks.MINIMUM["torch"]},
    }
    assert sum(report["counts"].values()) == len(report["lines"])
    assert "apply_mask" not in lines and "torch.compile" not in lines


def test_bad_options():
    with pytest.raises(UserError, match="--quick"):
        cli.main(["--quik"])


def test_a_broken_check_is_a_line(monkeypatch, empty, capsys):
    """What it said before is kept, and the others go on."""

    def strange_check(context):
        yield CheckResult("before", OK, "said")
        raise OSError("No space left on device")

    def fine_check(context):
        return [CheckResult("fine", OK, "all well")]

    those = (cli.Check("Odd", strange_check), cli.Check("Odd", fine_check))
    monkeypatch.setattr(cli, "CHECKS", those)
    assert cli.main([]) == 1
    text = capsys.readouterr().out
    assert "ok        before" in text and "ok        fine" in text
    assert "failed    strange check" in text and "OSError: No space left" in text
    assert "-> free some disk space" in text
    assert "Failed: strange check." in text and "Traceback" not in text


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


def test_unsupported_and_missing_libraries(monkeypatch):
    versions = {"torch": "2.9.1+cu128", "jsonargparse": None, "triton": None}
    real = checks.found_version
    monkeypatch.setattr(
        checks, "found_version", lambda n: versions[n] if n in versions else real(n)
    )
    monkeypatch.setattr(sys, "platform", "linux")
    lines = by_what(checks.libraries(NOTHING))
    assert lines["torch"].verdict == FAILED
    assert lines["torch"].detail == "2.9.1+cu128; needs 2.11 or later"
    # Both, since only these two fit together.
    assert lines["torch"].fix.endswith('pip install --upgrade "torch>=2.11" "torchvision>=0.26"')
    assert lines["triton"].verdict == WARNING and '"triton>=3.6"' in lines["triton"].fix
    assert lines["other libraries"].verdict == FAILED
    assert '"jsonargparse>=4.53"' in lines["other libraries"].fix
    assert lines["torchvision"].verdict == OK


def test_a_library_that_does_not_import(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    line = by_what(checks.libraries(NOTHING))["torchvision"]
    assert line.verdict == FAILED and "--force-reinstall torch torchvision" in line.fix


def test_cudnn_versions():
    assert checks.cudnn_version(91002) == "9.10.2"
    assert checks.cudnn_version(8902) == "8.9.2"


def test_examine_hides_warnings(recwarn):
    def check(context):
        import warnings

        warnings.warn("noise", stacklevel=1)
        yield CheckResult("x", OK, "fine")

    assert [line.what for line in examine(check, NOTHING)] == ["x"]
    assert not recwarn.list


def test_shared_fixes_are_said_once():
    lines = [CheckResult(w, ABSENT, "d", fix) for w, fix in (("a", "F"), ("b", "F"), ("c", "G"))]
    text = [t.strip() for t, _ in cli.rows(lines, 100)]
    assert [t.split()[-1] for t in text] == ["d", "d", "F", "d", "G"]
    long = CheckResult("w", FAILED, "d", "x" * 150 + " --long-option " + "y" * 10)
    assert "x" * 150 in "".join(t for t, _ in cli.rows([long], 100))


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


def gpu(**changes) -> gpus.Gpu:
    values = {
        "index": 0,
        "name": "NVIDIA H100 80GB HBM3",
        "capability": "9.0",
        "total_bytes": 79 * 2**30,
        "free_bytes": 78 * 2**30,
        "multiprocessors": 132,
        "l2_bytes": 50 * 2**20,
        "driver": "580.95.05",
        "mig": "Disabled",
        "state": STATE,
    }
    return gpus.Gpu(**values | changes)


def test_an_idle_gpu():
    lines = by_what(gpus.lines(gpu()))
    assert {line.verdict for line in lines.values()} == {OK}
    assert "78.0 of 79.0 GiB free, 132 multiprocessors, L2 50 MiB" in lines["GPU 0"].detail
    assert "71.20 of 700.00 W" in lines["GPU 0 now"].detail


@pytest.mark.parametrize(
    ("changes", "what", "words"),
    [
        ({"processes": ("python (process 7, 900 MiB)",)}, "GPU 0 users", ["process 7", "timing"]),
        ({"state": STATE | {"memory.used": "30720"}}, "GPU 0 users", ["30.0 GiB in use"]),
        ({"state": STATE | {"utilization.gpu": "97"}}, "GPU 0 users", ["97 % busy"]),
        # nvidia-smi may count in another order than torch.
        ({"state": STATE | {"power.limit": "500.00"}}, "GPU 0 now",
         ["700 W", "sudo nvidia-smi --id=3 --power-limit=700"]),
        ({"refusal": "it has compute capability (7, 0)"}, "GPU 0", ["eager", "8.0 or later"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_gpu(changes, what, words):
    lines = by_what(gpus.lines(gpu(**changes)))
    assert [line.what for line in lines.values() if line.verdict == WARNING] == [what]
    for word in words:
        assert word in lines[what].detail + lines[what].fix


def test_gpus_without_nvidia_smi_or_with_half_of_it():
    lines = by_what(gpus.lines(gpu(state={}, mig=None, driver=None)))
    assert lines["GPU 0"].verdict == OK
    assert lines["GPU 0 now"].verdict == lines["GPU 0 users"].verdict == ABSENT
    partial = {name: "[N/A]" for name in STATE}
    lines = by_what(gpus.lines(gpu(state=partial, mig="Enabled")))
    assert lines["GPU 0 now"].verdict == OK and "MIG" in lines["GPU 0 now"].detail
    # What this process holds is no other's.
    own = gpu(state=STATE | {"memory.used": "5000"}, reserved=4500.0)
    assert by_what(gpus.lines(own))["GPU 0 users"].verdict == OK


def test_two_gpus_are_inspected(monkeypatch, tmp_path):
    """With a pretended torch.cuda and a pretended nvidia-smi, by the real queries."""
    tool = tmp_path / "nvidia-smi"
    state = ", ".join(STATE[name] for name in gpus.STATE)
    tool.write_text(
        f"""#!/bin/sh
case "$*" in
  *compute-apps*) echo "GPU-u1, {os.getpid()}, python, 900"
                  echo "GPU-u1, 99999999, /opt/a, b/train, 900" ;;
  *driver_version*) echo 580.95.05 ;;
  *mig*) echo "[N/A]" ;;
  *) echo "{state}" ;;
esac
"""
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def properties(device):
        index = torch.device(device).index
        return SimpleNamespace(
            name=f"GPU of test {index}", major=9, minor=0, multi_processor_count=132,
            L2_cache_size=50 * 2**20, uuid=f"u{index}",
        )  # fmt: skip

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**31))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(backends, "device_refusal", lambda device: None)
    lines = by_what(gpus.gpus(NOTHING))
    assert "GPU of test 0" in lines["GPU 0"].detail and "580.95.05" in lines["GPU 1"].detail
    assert lines["GPU 0"].values["free_bytes"] == 2**30
    assert lines["GPU 0 users"].verdict == OK
    assert lines["GPU 1 users"].detail.startswith("train (process 99999999, 900 MiB): another")


@pytest.mark.parametrize(
    ("cuda", "hidden", "words"),
    [
        (None, None, ["built without CUDA", "pip install --force-reinstall torch torchvision"]),
        ("13.0", "", ["CUDA_VISIBLE_DEVICES is ''", "unset CUDA_VISIBLE_DEVICES"]),
        ("13.0", None, ["driver is too old", "a driver for CUDA 13.0 or later"]),
    ],
)
def test_a_gpu_that_torch_does_not_see(monkeypatch, cuda, hidden, words):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    line = gpus.no_gpu(["NVIDIA L4"], "the driver is too old")
    assert line.verdict == WARNING
    for word in ["NVIDIA L4", *words]:
        assert word in line.detail + line.fix


# Precision and backend


@pytest.mark.parametrize(
    ("setting", "refusal", "on_gpu", "verdict"),
    [
        (None, None, True, OK),
        (None, "no GPU", False, OK),
        ("eager", None, True, WARNING),
        ("eager", "no GPU", False, OK),
        ("triton", None, True, OK),
        ("triton", "no GPU", False, WARNING),
        ("cuda", None, True, FAILED),
    ],
)
def test_backends_that_are_set(monkeypatch, setting, refusal, on_gpu, verdict):
    monkeypatch.setattr(backends, "_default", setting)
    monkeypatch.setattr(backends, "device_refusal", lambda device: refusal)
    monkeypatch.setattr(backends, "interpreting", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    line = by_what(checks.backend(NOTHING))["backend"]
    assert line.verdict == verdict
    if verdict != OK:
        assert line.fix == "unset SCOTOMA_BACKEND"


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
    start = launch.Launch.__call__

    def some(device, dtype):
        chosen = ("apply_mask", "conv_bn_mask_add_relu", "bn_mask_add_relu none")
        yield from (case for case in real(device, dtype) if case.operator in chosen)

    class Broken:
        def __getitem__(self, grid):
            def raises(*arguments, **options):
                raise RuntimeError("Failed to find C compiler.\nSet CC.")

            return raises

    def wrong(*arguments, backend, **options):
        out = conv(*arguments, backend=backend, **options)
        return out * 1.01 if backend == "triton" else out

    conv = sanitize.conv_bn_mask_add_relu
    monkeypatch.setattr(sanitize, "cases", some)
    monkeypatch.setattr(sanitize, "conv_bn_mask_add_relu", wrong)
    monkeypatch.setattr(device_kernels, "multiply_mask", Broken())
    lines = by_what(kernels.self_test(NOTHING, CPU, (torch.float32,), "triton"))
    assert lines["bn_mask_add_relu none"].verdict == OK
    assert lines["bn_mask_add_relu none"].values["errors"]["float32"] < 1e-5
    broken = lines["apply_mask"]
    assert broken.verdict == FAILED and "gcc" in broken.fix
    assert "2 of 2 calls fail; float32 channels_last: RuntimeError: Failed to" in broken.detail
    assert lines["conv_bn_mask_add_relu"].verdict == FAILED
    assert "wrong, relative error 0.01 (allowed 0.0001)" in lines["conv_bn_mask_add_relu"].detail
    json.dumps([line.values for line in lines.values()], allow_nan=False)
    # Counting launches has left them as they were.
    assert launch.Launch.__call__ is start


def test_kernels_that_were_never_launched(monkeypatch):
    monkeypatch.setattr(sanitize, "cases", lambda device, dtype: iter(()))
    line = by_what(kernels.self_test(NOTHING, CPU, (torch.float32,), "triton"))["fused kernels"]
    assert line.verdict == FAILED and "never launched: partial_statistics" in line.detail


def test_a_lost_gpu_ends_the_test(monkeypatch):
    """After an illegal access every call fails; one of them is to blame."""
    monkeypatch.setattr(sanitize, "worst_error", lambda case, backend: 1 / 0)
    monkeypatch.setattr(kernels, "gpu_is_lost", lambda device: True)
    (line,) = kernels.self_test(NOTHING, CPU, backends.DTYPES, "triton")
    assert line.verdict == FAILED
    assert "stopped at bn_mask_add_relu none float32 channels_last train: Zero" in line.detail


@pytest.mark.slow
@pytest.mark.skipif(GPU, reason="kernels run on the GPU")
def test_kernels_are_compiled_without_a_gpu(tmp_path):
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
        ("print('chatter')", 60, OK, "works on cpu"),
        ("print('chatter'); print('BackendError: no'); exit(1)", 60, FAILED, "cpu: BackendError"),
        ("raise SystemError('deep inside')", 60, FAILED, "SystemError: deep inside"),
        ("import time; time.sleep(60)", 0.5, WARNING, "not done after"),
        ("import os; exit('TRITON_INTERPRET' in os.environ)", 60, OK, "works"),
    ],
)
def test_outcomes_of_compiling(code, limit, verdict, words):
    line = kernels.outcome([sys.executable, "-c", code], "cpu", limit)
    assert line.verdict == verdict and words in line.detail
    assert bool(line.fix) == (verdict != OK)


@pytest.mark.slow
def test_torch_compile_is_tried():
    assert by_what(kernels.compiles(NOTHING))["torch.compile"].verdict == OK


def test_no_cpp_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    lines = by_what(kernels.compilers(NOTHING)) | by_what(kernels.compiles(NOTHING))
    assert {line.verdict for line in lines.values()} == {WARNING}
    assert lines["torch.compile"].fix == "sudo apt install g++"


# Caches, disks and data sets.


def test_folders_that_cannot_be_written(monkeypatch, tmp_path):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(file / "below"))
    lines = by_what(checks.caches(NOTHING))
    assert {line.verdict for line in lines.values()} == {WARNING}
    assert "is a file" in lines["Triton's cache"].detail
    assert "export TRITON_CACHE_DIR=" in lines["Triton's cache"].fix


def test_a_full_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30))
    line = checks.free_space("data root", tmp_path / "not" / "yet", "free some")
    assert line.verdict == WARNING and "1.0 GiB free" in line.detail
    assert list(tmp_path.iterdir()) == []


def put(folder: Path, name: str) -> None:
    """The files that a data set consists of, empty."""
    for pattern in checks.FILES[name]:
        path = pattern if isinstance(pattern, str) else pattern[0]
        path = folder / name / path.replace("*", "x")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_data_sets_that_are_there_and_not(monkeypatch, tmp_path):
    monkeypatch.delenv("SCOTOMA_DATA", raising=False)
    put(tmp_path, "cifar10")
    put(tmp_path, "imagenet")
    put(tmp_path, "mnist")
    (tmp_path / "mnist" / "MNIST/raw/train-labels-idx1-ubyte").unlink()
    lines = by_what(checks.data_sets(Context(tmp_path)))
    assert list(lines) == ["data root", *DATASETS]
    for name in ("sample", "cifar10", "imagenet"):
        assert lines[name].verdict == OK
    assert lines["cifar10"].detail == f"in {tmp_path / 'cifar10'}"
    assert lines["mnist"].verdict == ABSENT
    assert "has no MNIST/raw/train-labels-idx1-ubyte" in lines["mnist"].detail
    assert lines["fashion-mnist"].verdict == ABSENT
    fix = f"scotoma train --dataset fashion-mnist --download --data-root {tmp_path}"
    assert lines["fashion-mnist"].fix == fix
    monkeypatch.setenv("SCOTOMA_DATA", str(tmp_path))
    assert by_what(checks.data_sets(NOTHING))["fashion-mnist"].fix == fix.split(" --data-root")[0]


def test_imagenet_is_told_where_to_go(tmp_path):
    line = checks.data_set("imagenet", tmp_path)
    assert line.verdict == ABSENT
    assert "image-net.org" in line.fix and f"ln -s /that/folder {tmp_path / 'imagenet'}" in line.fix


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
    assert set(DATASETS) == {"sample", *checks.FILES}
