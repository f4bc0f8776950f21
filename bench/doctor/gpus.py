"""The GPUs of this machine, what they do now, and who else uses them; or why there are none."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ...defective.errors import counted
from ...kernels import backends
from ...train.precision import busy
from .. import harness
from .checks import ABSENT, GIB, OK, WARNING, CheckResult, Context

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


@dataclass(frozen=True)
class Gpu:
    """``state``: what nvidia-smi says of ``STATE``; ``refusal``: why no kernel runs on it.

    ``processes``: what nvidia-smi says of others that compute on it. ``reserved``: MiB of this
    process.
    """

    index: int
    name: str
    capability: str
    total_bytes: int
    free_bytes: int
    multiprocessors: int
    l2_bytes: int
    driver: str | None = None
    mig: str | None = None
    refusal: str | None = None
    reserved: float = 0.0
    state: dict[str, str] = field(default_factory=dict)
    processes: tuple[str, ...] = ()


def gpus(context: Context) -> Iterator[CheckResult]:
    threads = torch.get_num_threads()
    values = {"machine": platform.machine(), "cores": os.cpu_count(), "threads": threads}
    words = f"{platform.machine()}, torch uses {counted(threads, 'thread')}"
    advice = busy(torch.device("cpu"))
    yield CheckResult("CPU", WARNING if advice else OK, words, advice or "", values)
    if not torch.cuda.is_available():
        yield no_gpu(_listed_by_driver())
        return
    if torch.version.hip is not None:
        detail = "AMD; networks run in the eager definition, and nothing is wrong"
        yield CheckResult("GPU", ABSENT, detail, "scotoma's kernels are for NVIDIA GPUs")
        return
    for index in range(torch.cuda.device_count()):
        yield from lines(inspect(index))


def inspect(index: int) -> Gpu:
    """Everything about one GPU. Its state is read before this process occupies memory there."""
    device = torch.device("cuda", index)
    properties = harness.properties(device)
    state = harness.nvidia_smi(device, STATE)
    # Older drivers do not know this field, and then answer nothing at all.
    mig = harness.nvidia_smi(device, ("mig.mode.current",)).get("mig.mode.current")
    processes = _processes(getattr(properties, "uuid", None))
    reserved = torch.cuda.memory_reserved(device) / 2**20
    free, total = torch.cuda.mem_get_info(device)
    return Gpu(
        index,
        properties.name,
        f"{properties.major}.{properties.minor}",
        total,
        free,
        properties.multi_processor_count,
        properties.L2_cache_size,
        harness.nvidia_smi(device, ("driver_version",)).get("driver_version"),
        mig,
        backends.device_refusal(device),
        reserved,
        state,
        processes,
    )


def lines(gpu: Gpu) -> Iterator[CheckResult]:
    """What it is; how it runs now; who else uses it."""
    yield _identity(gpu)
    yield _now(gpu)
    yield _users(gpu)


def _identity(gpu: Gpu) -> CheckResult:
    words = [
        gpu.name,
        f"compute capability {gpu.capability}",
        f"{gpu.free_bytes / GIB:.1f} of {gpu.total_bytes / GIB:.1f} GiB free",
        f"{gpu.multiprocessors} multiprocessors",
        f"L2 {gpu.l2_bytes / 2**20:.0f} MiB",
        f"driver {gpu.driver or 'unknown'}",
    ]
    names = "name capability free_bytes total_bytes multiprocessors l2_bytes driver"
    values = {name: getattr(gpu, name) for name in names.split()}
    if gpu.refusal is None:
        return CheckResult(f"GPU {gpu.index}", OK, ", ".join(words), values=values)
    words.append(f"runs the eager definition only: {gpu.refusal}")
    needed = ".".join(map(str, backends.CAPABILITY))
    fix = f"for the fused kernels: Triton, and a GPU of compute capability {needed} or later"
    return CheckResult(f"GPU {gpu.index}", WARNING, ", ".join(words), fix, values)


def _now(gpu: Gpu) -> CheckResult:
    what, state = f"GPU {gpu.index} now", gpu.state
    if not state:
        fix = "have nvidia-smi on the PATH (in a container: docker run --gpus all)"
        return CheckResult(what, ABSENT, "nvidia-smi does not tell its clocks and power", fix)
    limit, default = number(state, "power.limit"), number(state, "power.default_limit")
    words = [
        f"{state['clocks.sm']} of {state['clocks.max.sm']} MHz",
        f"memory {state['clocks.mem']} MHz",
        f"{state['power.draw']} of {state['power.limit']} W",
        f"{state['temperature.gpu']} °C",
    ]
    if gpu.mig == "Enabled":
        words.append("divided by MIG: this is a part of it")
    values = state | {"mig": gpu.mig}
    if limit is not None and default is not None and limit < default:
        words.append(f"power is limited below its default of {default:.0f} W: slower than others")
        fix = f"sudo nvidia-smi --id={state['index']} --power-limit={default:.0f}"
        return CheckResult(what, WARNING, ", ".join(words), fix, values)
    return CheckResult(what, OK, ", ".join(words), values=values)


def _users(gpu: Gpu) -> CheckResult:
    what, words = f"GPU {gpu.index} users", list(gpu.processes)
    # Processes of other containers are not listed, but what they take is seen.
    used, busy = number(gpu.state, "memory.used"), number(gpu.state, "utilization.gpu")
    if used is not None and used - gpu.reserved >= OTHERS_MIB:
        words.append(f"{(used - gpu.reserved) / 1024:.1f} GiB in use")
    if busy is not None and busy >= OTHERS_PERCENT:
        words.append(f"{busy:.0f} % busy")
    values = {"processes": list(gpu.processes), "used_mib": used, "busy_percent": busy}
    if words:
        detail = f"{', '.join(words)}: another process uses it, and no timing can be trusted"
        fix = "nvidia-smi shows which; end it, or take another GPU: export CUDA_VISIBLE_DEVICES=N"
        return CheckResult(what, WARNING, detail, fix, values)
    if not gpu.state:
        fix = "have nvidia-smi on the PATH"
        return CheckResult(what, ABSENT, "unknown without nvidia-smi", fix, values)
    return CheckResult(what, OK, "no other process uses it", values=values)


def no_gpu(listed: list[str] | None, why: str | None = None) -> CheckResult:
    """A machine on which torch sees no GPU.

    Args:
        listed: GPUs that the driver knows; empty if it names none, None if there is no driver.
        why: what torch says; None to ask it.
    """
    if not listed:
        detail = "no NVIDIA GPU: networks run in the eager definition on the CPU; nothing is wrong"
        fix = "none needed. If there is one: install its driver; in a container: --gpus all"
        return CheckResult("GPU", ABSENT, detail, fix, {"listed": []})
    values = {"listed": listed}
    there = f"{', '.join(listed)} is there, but torch does not see it"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.version.cuda is None:
        detail = f"{there}: this torch is built without CUDA"
        fix = f"{sys.executable} -m pip install --force-reinstall torch torchvision"
        if sys.platform != "linux":
            fix = "install torch by the command of pytorch.org/get-started"
        return CheckResult("GPU", WARNING, detail, fix, values)
    if hidden is not None:
        detail = f"{there}: CUDA_VISIBLE_DEVICES is {hidden!r}"
        return CheckResult("GPU", WARNING, detail, "unset CUDA_VISIBLE_DEVICES", values)
    detail = f"{there}: {(why or _why_not()).rstrip('.')}"
    fix = (
        f"a driver for CUDA {torch.version.cuda} or later (nvidia.com/drivers), or a torch for an "
        "older CUDA (pytorch.org/get-started); then restart the machine"
    )
    return CheckResult("GPU", WARNING, detail, fix, values)


def _why_not() -> str:
    try:
        torch.cuda.init()
    except Exception as error:
        return str(error).splitlines()[0].split(". ")[0]
    return "torch.cuda.is_available() is False"


def _listed_by_driver() -> list[str] | None:
    text = harness.output_of(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    if text is not None:
        return text.splitlines()
    if Path("/proc/driver/nvidia/version").exists():
        return ["an NVIDIA driver"]
    return None


def _processes(uuid) -> tuple[str, ...]:
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
    return tuple(found)


def number(state: dict[str, str], name: str) -> float | None:
    """A figure of nvidia-smi; None where it says "[N/A]" or nothing."""
    try:
        return float(state[name])
    except (KeyError, ValueError):
        return None
