"""Do the kernels compile here, and compute what they should?

On a GPU, and on a CPU in Triton's interpreter, every operator runs forward and backward on small
odd shapes and is compared with its eager definition in float64. Without either, the kernels are
compiled for a GPU that need not be there.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import torch

from ...kernels import backends
from .. import harness, sanitize
from ..layers.accuracy import tolerance
from .line import ABSENT, FAILED, OK, UNKNOWN, Examination, Line, brief, known_fix

ARCH = 90
EAGER = "meanwhile: export SCOTOMA_BACKEND=eager"


def kernels(examination: Examination) -> Iterator[Line]:
    cpu = torch.device("cpu")
    yield from self_test(examination, cpu, (torch.float32,), "eager")
    if importlib.util.find_spec("triton") is None:
        detail = "not run here: Triton is not installed"
        yield Line("fused kernels", ABSENT, detail, "on Linux: pip install triton")
    elif backends.interpreting():
        yield from self_test(examination, cpu, (torch.float32,), "triton")
    elif devices := usable_gpus():
        for index in devices:
            label = "" if len(devices) == 1 else f" (GPU {index})"
            device = torch.device("cuda", index)
            yield from self_test(examination, device, backends.DTYPES, "triton", label)
    else:
        yield from compile_ahead(examination)
        detail = "not run here: no GPU that runs them"
        fix = "TRITON_INTERPRET=1 scotoma doctor  runs them on the CPU, in Triton's interpreter"
        yield Line("fused kernels run", ABSENT, detail, fix)


def usable_gpus() -> list[int]:
    """The first GPU of each name on which kernels run."""
    if not torch.cuda.is_available():
        return []
    first: dict[str, int] = {}
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        if backends.device_refusal(device) is None:
            first.setdefault(harness.device_name(device), index)
    return list(first.values())


def self_test(
    examination: Examination,
    device: torch.device,
    dtypes: tuple[torch.dtype, ...],
    backend: str,
    label: str = "",
) -> Iterator[Line]:
    """A line for each operator, with its largest error in each dtype; "eager": one for all."""
    fused = backend == "triton"
    trials: list[Trial] = []
    with (
        torch.cuda.device(device) if device.type == "cuda" else nullcontext(),
        sanitize.count_launches() if fused else nullcontext({}) as launched,
    ):
        for dtype in dtypes:
            for case in sanitize.cases(device, dtype):
                if case.dtype != dtype:
                    continue  # has its turn with its own dtype
                name = str(dtype).removeprefix("torch.")
                examination.progress(f"{case} {name}")
                trials.append(Trial(case, device, backend))
                if gpu_is_lost(device):
                    yield _lost(trials[-1], label)
                    return
    if not fused:
        yield verdict("eager definition", trials)
        return
    for name in dict.fromkeys(trial.operator for trial in trials):
        yield verdict(name + label, [trial for trial in trials if trial.operator == name])
    missing = [name for name, count in launched.items() if not count]
    if missing:
        detail = f"never launched: {', '.join(missing)}"
        yield Line("fused kernels" + label, FAILED, detail, f"{UNKNOWN}; {EAGER}")
    else:
        detail = f"all {len(launched)} launched: {', '.join(launched)}"
        yield Line("fused kernels" + label, OK, detail, values={"launches": dict(launched)})


class Trial:
    """One call: its largest relative error, or the exception it ended with."""

    def __init__(self, case: sanitize.Case, device: torch.device, backend: str):
        self.operator, self.variant = case.operator, case.variant
        self.dtype = str(case.dtype).removeprefix("torch.")
        # Fused, a convolution of float32 is one of TF32, which has as many digits as float16.
        tf32 = case.operator.startswith("conv") and case.dtype == torch.float32
        tf32 &= device.type == "cuda"
        self.allowed = tolerance(torch.float16 if tf32 else case.dtype)
        self.error, self.exception = math.inf, None
        try:
            with backends.tf32_allowed(convolutions=tf32, products=False):
                self.error = sanitize.worst_error(case, backend)
        except Exception as exception:
            self.exception = exception

    @property
    def problem(self) -> str:
        """In one line; empty if there is none."""
        where = f"{self.dtype} {self.variant}"
        if self.exception is not None:
            return f"{where}: {brief(self.exception)}"
        if not self.error <= self.allowed:
            return f"{where}: wrong, relative error {self.error:.2g} (allowed {self.allowed:.2g})"
        return ""


def verdict(what: str, trials: list[Trial]) -> Line:
    """One line for the calls of one operator."""
    worst: dict[str, float] = {}
    for trial in trials:
        worst[trial.dtype] = max(worst.get(trial.dtype, 0.0), trial.error)
    values = {"errors": {k: v if math.isfinite(v) else None for k, v in worst.items()}}
    problems = [trial for trial in trials if trial.problem]
    if problems:
        first = problems[0]
        detail = f"{len(problems)} of {len(trials)} calls fail; {first.problem}"
        fix = known_fix(first.exception or "") or f"{UNKNOWN}; {EAGER}"
        values["problems"] = [trial.problem for trial in problems]
        return Line(what, FAILED, detail, fix, values)
    errors = ", ".join(f"{dtype} {error:.2g}" for dtype, error in worst.items())
    return Line(what, OK, f"error against float64: {errors}", values=values)


def gpu_is_lost(device: torch.device) -> bool:
    """Whether a kernel went astray so that this process cannot use the GPU any more."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def _lost(trial: Trial, label: str) -> Line:
    detail = f"the GPU stopped at {trial.operator} {trial.problem}; others were not run"
    fix = f"compute-sanitizer python -m scotoma.bench.sanitize  finds the access; {EAGER}"
    return Line("fused kernels" + label, FAILED, detail, fix)


def compile_ahead(examination: Examination) -> Iterator[Line]:
    """Every kernel once, compiled for one architecture, as ``scotoma bench aot`` compiles all."""
    from ..aot import cases, record
    from ..aot.code import Measurement, measure

    runs = (
        cases.Epilogue("projection").run,
        next(cases.mask_cases()).run,
        cases.Convolution(cases.CONV_TILES[0], training=False).run,
    )
    launches = [launch for run in runs for part in record.record(run) for launch in part]
    examination.progress(f"compiling {len(launches)} kernels for sm_{ARCH}")

    def compiled(launch: record.Launch) -> Measurement | Exception:
        try:
            return measure(launch, ARCH, "doctor")
        except Exception as error:
            return error

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        results = list(pool.map(compiled, launches))
    good = [launch.kernel for launch, result in zip(launches, results, strict=True)
            if not isinstance(result, Exception)]  # fmt: skip
    for launch, result in zip(launches, results, strict=True):
        if isinstance(result, Exception):
            fix = known_fix(result) or UNKNOWN
            detail = f"does not compile for sm_{ARCH}: {brief(result)}"
            yield Line(launch.kernel, FAILED, detail, fix)
    if good:
        detail = f"{len(good)} compile for sm_{ARCH}: {', '.join(good)}"
        yield Line("fused kernels compile", OK, detail, values={"kernels": good})
