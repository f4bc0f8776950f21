"""The GPUs of this machine, what they do now, and who else uses them; or why there are none."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

from ...defective.errors import counted
from ...kernels import backends
from ...train.precision import busy
from .. import harness
from .checks import ABSENT, GIB, OK, REINSTALL_TORCH, WARNING, CheckResult, Context

STATE = (
    "index",  # torch may count in another order
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "power.draw",
    "power.limit",
    "power.default_limit",
    "temperature.gpu",
    "utilization.gpu",
    "memory.used",
)
# Drivers and desktops take some memory and time themselves.
OTHERS_MIB, OTHERS_PERCENT = 1024, 5


def gpus(context: Context) -> Iterator[CheckResult]:
    threads = torch.get_num_threads()
    values = {"machine": platform.machine(), "cores": os.cpu_count(), "threads": threads}
    words = f"{platform.machine()}, torch uses {counted(threads, 'thread')}"
    advice = busy(torch.device("cpu"))
    yield CheckResult("CPU", WARNING if advice else OK, words, advice or "", values)
    if not torch.cuda.is_available():
        yield _no_gpu()
    elif torch.version.hip is not None:
        detail = "AMD; networks run in the eager definition, and nothing is wrong"
        yield CheckResult("GPU", ABSENT, detail, "scotoma's kernels are for NVIDIA GPUs")
    else:
        for index in range(torch.cuda.device_count()):
            yield from _gpu(index)


def _gpu(index: int) -> Iterator[CheckResult]:
    """What a GPU is; how it runs now; who else uses it."""
    device = torch.device("cuda", index)
    # Its state is read before this process occupies memory there.
    state = harness.nvidia_smi(device, STATE)
    # Older drivers do not know this field, and then answer nothing at all.
    mig = harness.nvidia_smi(device, ("mig.mode.current",)).get("mig.mode.current")
    driver = harness.nvidia_smi(device, ("driver_version",)).get("driver_version")
    processes = _processes(getattr(harness.properties(device), "uuid", None))
    reserved = torch.cuda.memory_reserved(device) / 2**20
    yield _identity(device, driver)
    yield _now(index, state, mig)
    yield _users(index, state, processes, reserved)


def _identity(device: torch.device, driver: str | None) -> CheckResult:
    properties = harness.properties(device)
    free, total = torch.cuda.mem_get_info(device)
    capability = f"{properties.major}.{properties.minor}"
    processors, l2 = properties.multi_processor_count, properties.L2_cache_size
    detail = (
        f"{properties.name}, compute capability {capability}, {free / GIB:.1f} of "
        f"{total / GIB:.1f} GiB free, {processors} multiprocessors, L2 {l2 / 2**20:.0f} MiB, "
        f"driver {driver or 'unknown'}"
    )
    values = {
        "name": properties.name,
        "capability": capability,
        "free_bytes": free,
        "total_bytes": total,
        "multiprocessors": processors,
        "l2_bytes": l2,
        "driver": driver,
    }
    refusal = backends.device_refusal(device)
    if refusal is None:
        return CheckResult(f"GPU {device.index}", OK, detail, values=values)
    detail += f", runs the eager definition only: {refusal}"
    needed = ".".join(map(str, backends.CAPABILITY))
    fix = f"for the fused kernels: Triton, and a GPU of compute capability {needed} or later"
    return CheckResult(f"GPU {device.index}", WARNING, detail, fix, values)


def _now(index: int, state: dict[str, str], mig: str | None) -> CheckResult:
    what = f"GPU {index} now"
    if not state:
        fix = "have nvidia-smi on the PATH (in a container: docker run --gpus all)"
        return CheckResult(what, ABSENT, "nvidia-smi does not tell its clocks and power", fix)
    detail = (
        f"{state['clocks.sm']} of {state['clocks.max.sm']} MHz, memory {state['clocks.mem']} MHz, "
        f"{state['power.draw']} of {state['power.limit']} W, {state['temperature.gpu']} °C"
    )
    if mig == "Enabled":
        detail += ", divided by MIG: this is a part of it"
    values = state | {"mig": mig}
    limit, default = _number(state, "power.limit"), _number(state, "power.default_limit")
    if limit is not None and default is not None and limit < default:
        detail += f", power is limited below its default of {default:.0f} W: slower than others"
        fix = f"sudo nvidia-smi --id={state['index']} --power-limit={default:.0f}"
        return CheckResult(what, WARNING, detail, fix, values)
    return CheckResult(what, OK, detail, values=values)


def _users(index: int, state: dict[str, str], processes: list[str], reserved: float) -> CheckResult:
    """processes: others that compute on it. reserved: MiB of this process."""
    what, words = f"GPU {index} users", list(processes)
    # Processes of other containers are not listed, but what they take is seen.
    used, busy = _number(state, "memory.used"), _number(state, "utilization.gpu")
    if used is not None and used - reserved >= OTHERS_MIB:
        words.append(f"{(used - reserved) / 1024:.1f} GiB in use")
    if busy is not None and busy >= OTHERS_PERCENT:
        words.append(f"{busy:.0f} % busy")
    values = {"processes": processes, "used_mib": used, "busy_percent": busy}
    if words:
        detail = f"{', '.join(words)}: another process uses it, and no timing can be trusted"
        fix = "nvidia-smi shows which; end it, or take another GPU: export CUDA_VISIBLE_DEVICES=N"
        return CheckResult(what, WARNING, detail, fix, values)
    if not state:
        fix = "have nvidia-smi on the PATH"
        return CheckResult(what, ABSENT, "unknown without nvidia-smi", fix, values)
    return CheckResult(what, OK, "no other process uses it", values=values)


def _no_gpu() -> CheckResult:
    """A machine on which torch sees no GPU."""
    text = harness.output_of(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    listed = (text or "").splitlines()
    if text is None and Path("/proc/driver/nvidia/version").exists():
        listed = ["an NVIDIA driver"]
    values = {"listed": listed}
    if not listed:
        detail = "no NVIDIA GPU: networks run in the eager definition on the CPU; nothing is wrong"
        fix = "none needed. If there is one: install its driver; in a container: --gpus all"
        return CheckResult("GPU", ABSENT, detail, fix, values)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.version.cuda is None:
        why, fix = "this torch is built without CUDA", REINSTALL_TORCH
        if sys.platform != "linux":
            fix = "install torch by the command of pytorch.org/get-started"
    elif hidden is not None:
        why, fix = f"CUDA_VISIBLE_DEVICES is {hidden!r}", "unset CUDA_VISIBLE_DEVICES"
    else:
        why = _what_torch_says()
        fix = (
            f"a driver for CUDA {torch.version.cuda} or later (nvidia.com/drivers), or a torch for "
            "an older CUDA (pytorch.org/get-started); then restart the machine"
        )
    detail = f"{', '.join(listed)} is there, but torch does not see it: {why}"
    return CheckResult("GPU", WARNING, detail, fix, values)


def _what_torch_says() -> str:
    try:
        torch.cuda.init()
    except Exception as error:
        return str(error).splitlines()[0].split(". ")[0].rstrip(".")
    return "torch.cuda.is_available() is False"


def _processes(uuid) -> list[str]:
    """Other processes that compute on a GPU, as far as nvidia-smi may know them."""
    fields = "gpu_uuid,pid,process_name,used_memory"
    text = harness.output_of(
        ["nvidia-smi", f"--query-compute-apps={fields}", "--format=csv,noheader,nounits"]
    )
    found = []
    for row in (text or "").splitlines():
        of, pid, *name, memory = [part.strip() for part in row.split(",")]
        if uuid is not None and str(uuid) in of and pid != str(os.getpid()):
            found.append(f"{Path(','.join(name)).name} (process {pid}, {memory} MiB)")
    return found


def _number(state: dict[str, str], name: str) -> float | None:
    """A figure of nvidia-smi; None where it says "[N/A]" or nothing."""
    with suppress(KeyError, ValueError):
        return float(state[name])
    return None
