"""What the doctor says of kernels and compilers."""

import json
import os
import subprocess
import sys

import pytest
import torch
from doctor_lines import CPU, GPU, NOTHING, by_what
from scotoma.bench import sanitize
from scotoma.bench.doctor import command, compiling, kernels
from scotoma.bench.doctor.line import FAILED, OK, WARNING
from scotoma.kernels import backends, launch


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


@pytest.mark.skipif(GPU, reason="kernels run on the GPU")
def test_kernels_are_compiled_without_a_gpu(tmp_path):
    """In a process of its own, since this one interprets them."""
    code = (
        "from scotoma.bench.doctor import kernels, line\n"
        "for line in kernels.kernels(line.Examination()): print(line.what, line.verdict, line.fix)"
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
    status = command.main(["--json"])
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
    line = compiling.outcome([sys.executable, "-c", code], "cpu", limit)
    assert line.verdict == verdict and words in line.detail
    assert bool(line.fix) == (verdict != OK)


@pytest.mark.slow
def test_torch_compile_is_tried():
    assert by_what(compiling.compiles(NOTHING))["torch.compile"].verdict == OK


def test_no_cpp_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    lines = by_what(compiling.compilers(NOTHING)) | by_what(compiling.compiles(NOTHING))
    assert {line.verdict for line in lines.values()} == {WARNING}
    assert lines["torch.compile"].fix == "sudo apt install g++"
