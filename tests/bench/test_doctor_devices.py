"""What the doctor says of GPUs, number formats and backends."""

import os
import sys
from types import SimpleNamespace

import pytest
import torch
from doctor_lines import NOTHING, by_what
from scotoma.bench.doctor import gpus, precision
from scotoma.bench.doctor.line import ABSENT, FAILED, OK, WARNING
from scotoma.kernels import backends

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
        "capability": (9, 0),
        "total": 79 * 2**30,
        "free": 78 * 2**30,
        "multiprocessors": 132,
        "l2": 50 * 2**20,
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
    line = by_what(precision.backend(NOTHING))["backend"]
    assert line.verdict == verdict
    if verdict != OK:
        assert line.fix == "unset SCOTOMA_BACKEND"


def test_dtypes_of_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    lines = by_what(precision.dtypes(NOTHING))
    assert list(lines) == ["float32", "float16", "bfloat16"]
    assert "auto" in lines["float32"].detail and "auto" not in lines["bfloat16"].detail
