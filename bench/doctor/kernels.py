"""Do the kernels and torch.compile work here, and compute what they should?

On a GPU, and on a CPU in Triton's interpreter, every operator runs forward and backward on small
odd shapes and is compared with its eager definition in float64. Without either, the kernels are
compiled for a GPU that need not be there. torch.compile is tried in a process of its own, which a
time limit can end.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext

import torch

from ...kernels import backends
from .. import harness, sanitize
from ..operands import tolerance
from .checks import ABSENT, FAILED, OK, UNKNOWN, WARNING, CheckResult, Context, brief, known_fix

ARCH = 90
EAGER = "meanwhile: export SCOTOMA_BACKEND=eager"


def kernels(context: Context) -> Iterator[CheckResult]:
    cpu = torch.device("cpu")
    yield from self_test(context, cpu, "eager")
    if importlib.util.find_spec("triton") is None:
        detail = "not run here: Triton is not installed"
        yield CheckResult("fused kernels", ABSENT, detail, "on Linux: pip install triton")
    elif backends.interpreting():
        yield from self_test(context, cpu, "triton")
    elif devices := usable_gpus():
        for device in devices:
            label = "" if len(devices) == 1 else f" (GPU {device.index})"
            yield from self_test(context, device, "triton", label)
    else:
        yield from compile_ahead(context)
        detail = "not run here: no GPU that runs them"
        fix = "TRITON_INTERPRET=1 scotoma doctor  runs them on the CPU, in Triton's interpreter"
        yield CheckResult("fused kernels run", ABSENT, detail, fix)


def usable_gpus() -> list[torch.device]:
    """The first GPU of each name on which kernels run."""
    first: dict[str, torch.device] = {}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.device("cuda", index)
        if backends.device_refusal(device) is None:
            first.setdefault(harness.device_name(device), device)
    return list(first.values())


def self_test(
    context: Context, device: torch.device, backend: str, label: str = ""
) -> Iterator[CheckResult]:
    """A result for each operator, with its largest error in each dtype; "eager": one for all."""
    fused, on_gpu = backend == "triton", device.type == "cuda"
    what, trials = f"fused kernels{label}", []
    with (
        torch.cuda.device(device) if on_gpu else nullcontext(),
        sanitize.count_launches() if fused else nullcontext({}) as launched,
    ):
        for dtype in backends.DTYPES if on_gpu else (torch.float32,):
            for case in sanitize.cases(device, dtype):
                if case.dtype != dtype:
                    continue  # has its turn with its own dtype
                context.progress(f"{case} {str(dtype).removeprefix('torch.')}")
                trials.append(Trial(case, device, backend))
                if gpu_is_lost(device):
                    at = f"{case.operator} {trials[-1].problem}"
                    detail = f"the GPU stopped at {at}; others were not run"
                    fix = "compute-sanitizer python -m scotoma.bench.sanitize  finds the access"
                    yield CheckResult(what, FAILED, detail, f"{fix}; {EAGER}")
                    return
    if not fused:
        yield verdict("eager definition", trials)
        return
    for name in dict.fromkeys(trial.operator for trial in trials):
        yield verdict(name + label, [trial for trial in trials if trial.operator == name])
    missing = [name for name, count in launched.items() if not count]
    if missing:
        detail = f"never launched: {', '.join(missing)}"
        yield CheckResult(what, FAILED, detail, f"{UNKNOWN}; {EAGER}")
    else:
        detail = f"all {len(launched)} launched: {', '.join(launched)}"
        yield CheckResult(what, OK, detail, values={"launches": dict(launched)})


class Trial:
    """One call: its largest relative error, and what went wrong, in one line."""

    def __init__(self, case: sanitize.Case, device: torch.device, backend: str):
        self.operator, self.dtype = case.operator, str(case.dtype).removeprefix("torch.")
        # Fused, a convolution of float32 is one of TF32, which has as many digits as float16.
        tf32 = case.operator.startswith("conv") and case.dtype == torch.float32
        tf32 &= device.type == "cuda"
        allowed = tolerance(torch.float16 if tf32 else case.dtype)
        self.error, self.problem, self.fix = math.inf, "", ""
        try:
            with backends.tf32_allowed(convolutions=tf32, products=False):
                self.error = sanitize.worst_error(case, backend)
            if not self.error <= allowed:
                self.problem = f"wrong, relative error {self.error:.2g} (allowed {allowed:.2g})"
        except Exception as error:
            self.problem, self.fix = brief(error), known_fix(error)
        if self.problem:
            self.problem = f"{self.dtype} {case.variant}: {self.problem}"


def verdict(what: str, trials: list[Trial]) -> CheckResult:
    worst: dict[str, float] = {}
    for trial in trials:
        worst[trial.dtype] = max(worst.get(trial.dtype, 0.0), trial.error)
    values = {"errors": {k: v if math.isfinite(v) else None for k, v in worst.items()}}
    wrong = [trial for trial in trials if trial.problem]
    if wrong:
        detail = f"{len(wrong)} of {len(trials)} calls fail; {wrong[0].problem}"
        values["problems"] = [trial.problem for trial in wrong]
        return CheckResult(what, FAILED, detail, wrong[0].fix or f"{UNKNOWN}; {EAGER}", values)
    errors = ", ".join(f"{dtype} {error:.2g}" for dtype, error in worst.items())
    return CheckResult(what, OK, f"error against float64: {errors}", values=values)


def gpu_is_lost(device: torch.device) -> bool:
    """Whether a kernel went astray so that this process cannot use the GPU any more."""
    try:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def compile_ahead(context: Context) -> Iterator[CheckResult]:
    """Every kernel once, compiled for one architecture, as ``scotoma bench aot`` compiles all."""
    from ..aot import cases, code, record

    calls = (
        cases.Epilogue("bf16 nhwc C128 16x16 projection train mask"),
        cases.MaskCall("bf16 nhwc C128 32x32"),
        cases.Convolution(f"bf16 C128-128 3x3 {cases.CONV_TILES[0].name} infer"),
    )
    found = [launch for call in calls for part in record.record(call.run) for launch in part]
    launches = {launch.identity: launch for launch in found}.values()
    context.progress(f"compiling {len(launches)} kernels for sm_{ARCH}")
    good = []
    for launch in launches:
        try:
            code.compiled(launch, ARCH)
            good.append(launch.kernel)
        except Exception as error:
            detail = f"does not compile for sm_{ARCH}: {brief(error)}"
            yield CheckResult(launch.kernel, FAILED, detail, known_fix(error) or UNKNOWN)
    if good:
        detail = f"{len(good)} compile for sm_{ARCH}: {', '.join(good)}"
        yield CheckResult("fused kernels compile", OK, detail, values={"kernels": good})


# torch.compile, and the compilers that it and Triton call.

SECONDS = 180
_FIX = "train without --compile; pytorch.org/get-started has the versions that go together"


COMPILERS = {
    "CC": ("C", ("gcc", "clang", "cc"), "Triton needs one to launch kernels"),
    "CXX": ("C++", ("g++", "clang++", "c++"), "torch.compile needs one on a CPU"),
}


def compilers(context: Context) -> Iterator[CheckResult]:
    """The compilers that torch.compile and Triton call."""
    for variable, (language, names, use) in COMPILERS.items():
        what, path = f"{language} compiler", _compiler(variable)
        if path is not None:
            yield CheckResult(what, OK, path, values={"path": path})
            continue
        given = os.environ.get(variable)
        found = f"{variable} is {given!r}, which is not there" if given else "none found"
        fix = f"sudo apt install {names[0]}" + (f", or unset {variable}" if given else "")
        yield CheckResult(what, WARNING, f"{found}; {use}", fix, {"path": None})


def _compiler(variable: str) -> str | None:
    names = shlex.split(os.environ.get(variable, ""))[:1] or COMPILERS[variable][1]
    return next(filter(None, map(shutil.which, names)), None)


def compiles(context: Context) -> Iterator[CheckResult]:
    """A tiny function around the operator, compiled for the device that networks run on."""
    kind = "cuda" if torch.cuda.is_available() and torch.version.hip is None else "cpu"
    if kind == "cpu" and _compiler("CXX") is None:
        detail = "not tried without a C++ compiler"
        yield CheckResult("torch.compile", WARNING, detail, "sudo apt install g++")
        return
    context.progress("torch.compile; the first time takes a while")
    yield outcome([sys.executable, "-m", __name__, kind], kind)


def outcome(command: list[str], kind: str, limit: float = SECONDS) -> CheckResult:
    """Of a program that ends with status 0, or with the reason in its last line."""
    # Interpreted kernels cannot be compiled.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=limit
        )
    except subprocess.TimeoutExpired:
        detail = f"not done after {limit:.0f} s on {kind}"
        fix = "try again on an idle machine, or train without --compile"
        return CheckResult("torch.compile", WARNING, detail, fix)
    seconds = time.perf_counter() - start
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        reason = done.stdout.strip().splitlines()[-1:] or said[-1:] or ["no reason given"]
        detail = f"does not work on {kind}: {reason[0]}"
        return CheckResult("torch.compile", FAILED, detail, known_fix("\n".join(said)) or _FIX)
    values = {"device": kind, "seconds": round(seconds, 1)}
    detail = f"works on {kind} (with starting Python: {seconds:.0f} s)"
    return CheckResult("torch.compile", OK, detail, values=values)


def probe(kind: str) -> None:
    """Compile the operator between two of torch's own, and compare with eager.

    Raises:
        RuntimeError: the results differ.
    """
    from ...kernels import bn_mask_add_relu

    def function(x, mask, mean, var):
        return 1 + bn_mask_add_relu(2 * x, None, None, mean, var, mask=mask, training=False)

    device = torch.device(kind)
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(2, 12, 5, 7, device=device, generator=generator)
    mask = torch.rand(12, 5, 7, device=device, generator=generator) < 0.5
    mean, var = torch.rand(2, 12, device=device, generator=generator) + 0.5
    # On a GPU too old for kernels the operator is eager, and so is what is compared.
    with torch.no_grad():
        expected = function(x, mask, mean, var)
        found = torch.compile(function, fullgraph=True)(x, mask, mean, var)
    if not torch.allclose(found, expected, rtol=1e-4, atol=1e-5):
        raise RuntimeError("torch.compile computes something else than eager")


if __name__ == "__main__":
    try:
        probe(sys.argv[1])
    except Exception as error:
        print(brief(error))
        sys.exit(1)
