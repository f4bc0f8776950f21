"""What the doctor asks of this machine, but for GPUs and kernels, and how an answer looks.

A check is a function of a context that yields results; ``cli.CHECKS`` lists them all.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ... import __version__
from ...kernels import backends
from ...train.precision import automatic_precision, slow_precision
from .. import harness

OK, WARNING, FAILED, ABSENT = "ok", "warning", "failed", "not here"
VERDICTS = (OK, WARNING, FAILED, ABSENT)


@dataclass(frozen=True)
class CheckResult:
    """One fact about this machine.

    Attributes:
        what: its subject, in a word or two.
        verdict: "failed" if something that scotoma needs does not work; "warning" if it works, but
            worse than it could; "not here" for what a machine may well lack.
        detail: what was found.
        fix: the command or setting that makes it "ok"; empty where it is.
        values: the same for programs: strings, numbers, lists and None.
    """

    what: str
    verdict: str
    detail: str
    fix: str = ""
    values: dict[str, Any] = field(default_factory=dict)


@dataclass
class Context:
    """What all checks may want to know.

    Attributes:
        data_root: folder of the data sets; None for the default.
        progress: told what is being done, in a few words.
    """

    data_root: Path | None = None
    progress: Callable[[str], None] = lambda words: None


Run = Callable[[Context], Iterable[CheckResult]]


def examine(run: Run, context: Context) -> Iterator[CheckResult]:
    """The lines of a check, and a failed one in place of what an exception left unsaid."""
    with warnings.catch_warnings():
        # What matters of them is asked for by name.
        warnings.simplefilter("ignore")
        try:
            yield from run(context)
        except Exception as error:
            what = run.__name__.replace("_", " ").strip()
            yield CheckResult(what, FAILED, brief(error), known_fix(error) or UNKNOWN)


UNKNOWN = "unknown; 'scotoma doctor --json' has what a report about it needs"
"""The fix of what should not happen."""

# Part of a message: what to do.
_KNOWN = {
    "failed to find c compiler": "sudo apt install gcc  (or set CC to a C compiler)",
    "python.h": "sudo apt install python3-dev  (the headers of this Python)",
    "out of memory": "free the GPU's memory: nvidia-smi shows who holds it",
    "no space left": "free some disk space",
    "cannot find -lcuda": "sudo ldconfig  (so that the linker finds the driver's libcuda.so)",
    "libcuda.so cannot found": "sudo ldconfig  (so that the driver's libcuda.so is found)",
}


def known_fix(error: BaseException | str) -> str:
    """What helps against an error that is no bug of ours; empty if it is not known."""
    text = str(error).lower()
    return next((fix for part, fix in _KNOWN.items() if part in text), "")


def brief(error: BaseException) -> str:
    """An exception in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if len(text) > 300:
        text = f"{text[:300]} ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# Python, scotoma and the libraries it stands on.

_BOUNDS = (
    "Python>=3.11 torch>=2.11 torchvision>=0.26 triton>=3.6 einops>=0.7 filelock>=4.2 "
    "numpy>=1.26 pillow>=10 safetensors>=0.4.3 jsonargparse>=4.53 PyYAML>=6 rich>=13 "
    "matplotlib>=3.8 tensorboard>=2.15 pandas>=2.2 tabulate>=0.9 jinja2>=3.1 "
    "markdown-it-py>=3 scipy>=1.11"
)
MINIMUM = dict(bound.split(">=") for bound in _BOUNDS.split())
"""Lower bounds, as in pyproject.toml."""
_OWN_LINES = ("Python", "torch", "torchvision", "triton")
_WITH_TORCH = ("torch", "torchvision")  # these two only fit together


def libraries(context: Context) -> Iterator[CheckResult]:
    yield _library("Python")
    yield _scotoma()
    yield _library("torch")
    yield _imports("torchvision", _library("torchvision"))
    yield _triton()
    yield from _cuda()
    yield _others()


def found_version(name: str) -> str | None:
    """What is installed; None if it is not."""
    if name == "Python":
        return platform.python_version()
    if name == "torch":
        return torch.__version__
    return harness.version(name)


def too_old(found: str, minimum: str) -> bool:
    """Compares the numbers a version begins with: 2.11.0a0+git is as good as 2.11."""
    numbers, least = _numbers(found), _numbers(minimum)
    return numbers + (0,) * (len(least) - len(numbers)) < least


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, (re.match(r"[\d.]*\d", version) or ["0"])[0].split(".")))


def _library(name: str) -> CheckResult:
    found, minimum = found_version(name), MINIMUM[name]
    values = {"version": found, "minimum": minimum}
    if found is None:
        return CheckResult(
            name, FAILED, f"not installed; needs {minimum} or later", _get(name), values
        )
    if too_old(found, minimum):
        return CheckResult(name, FAILED, f"{found}; needs {minimum} or later", _get(name), values)
    return CheckResult(name, OK, found, values=values)


def _get(name: str) -> str:
    if name == "Python":
        return f"a new environment: python{MINIMUM[name]} -m venv .venv (or a later Python)"
    names = _WITH_TORCH if name in _WITH_TORCH else (name,)
    wanted = " ".join(f'"{n}>={MINIMUM[n]}"' for n in names)
    return f"{sys.executable} -m pip install --upgrade {wanted}"


def _scotoma() -> CheckResult:
    commit, folder = harness.commit(), Path(__file__).resolve().parents[2]
    detail = __version__ + (f", commit {commit}" if commit else "") + f", in {folder}"
    values = {"version": __version__, "commit": commit, "folder": str(folder)}
    return CheckResult("scotoma", OK, detail, values=values)


def _imports(module: str, line: CheckResult) -> CheckResult:
    """A failed line for a library that is installed but broken."""
    if line.verdict != OK:
        return line
    try:
        importlib.import_module(module)
    except Exception as error:
        names = " ".join(_WITH_TORCH if module in _WITH_TORCH else (module,))
        fix = f"{sys.executable} -m pip install --force-reinstall {names}"
        return CheckResult(line.what, FAILED, f"{line.detail}; {brief(error)}", fix, line.values)
    return line


def _triton() -> CheckResult:
    if found_version("triton") is not None:
        return _imports("triton", _library("triton"))
    detail = "not installed; networks run in the eager definition"
    if sys.platform == "linux":
        return CheckResult("triton", WARNING, detail, _get("triton"))
    fix = "scotoma's kernels need Linux (on Windows: WSL)"
    return CheckResult("triton", ABSENT, detail, fix)


def _cuda() -> Iterator[CheckResult]:
    if torch.version.cuda is None:
        fix = "only for NVIDIA GPUs; see there"
        yield CheckResult("CUDA, cuDNN", ABSENT, "torch is built without CUDA", fix)
        return
    values = {"version": torch.version.cuda}
    yield CheckResult("CUDA", OK, f"{torch.version.cuda}, which torch brings along", values=values)
    number = torch.backends.cudnn.version()
    if number is None:
        fix = f"{sys.executable} -m pip install --force-reinstall torch torchvision"
        yield CheckResult("cuDNN", WARNING, "torch finds none: convolutions will be slow", fix)
    else:
        yield CheckResult(
            "cuDNN", OK, cudnn_version(number), values={"version": cudnn_version(number)}
        )


def cudnn_version(number: int) -> str:
    """As people write it: 91002 is 9.10.2, 8902 is 8.9.2."""
    unit = 10_000 if number >= 90_000 else 1_000
    return f"{number // unit}.{number % unit // 100}.{number % 100}"


def _others() -> CheckResult:
    names = [name for name in MINIMUM if name not in _OWN_LINES]
    found = {name: found_version(name) for name in names}
    bad = [n for n, v in found.items() if v is None or too_old(v, MINIMUM[n])]
    if not bad:
        detail = ", ".join(f"{name} {version}" for name, version in found.items())
        return CheckResult("other libraries", OK, detail, values=found)
    detail = ", ".join(
        f"{n} {found[n] or 'is not installed'} (needs {MINIMUM[n]} or later)" for n in bad
    )
    wanted = " ".join(f'"{name}>={MINIMUM[name]}"' for name in bad)
    fix = f"{sys.executable} -m pip install --upgrade {wanted}"
    return CheckResult("other libraries", FAILED, detail, fix, found)


# Which numbers networks and kernels can compute with, and which backend runs.


def dtypes(context: Context) -> Iterator[CheckResult]:
    """What the first device computes with: others of the machine are hardly ever older."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    for dtype in backends.DTYPES:
        yield dtype_line(device, dtype)


def dtype_line(device: torch.device, dtype: torch.dtype) -> CheckResult:
    name = str(dtype).removeprefix("torch.")
    try:
        ones = torch.ones(1, 8, 4, 4, device=device, dtype=dtype)
        F.conv2d(ones, ones).sum().item()
    except RuntimeError as error:
        fix = known_fix(error) or "--precision float32"
        return CheckResult(name, WARNING, f"{device.type} cannot convolve it: {brief(error)}", fix)
    refusal = backends.device_refusal(device)
    fused = refusal is None and device.type == "cuda"
    values = {"device": device.type, "fused": fused}
    words = ["fused kernels, eager definition" if fused else "eager definition"]
    if device.type == "cuda":
        tensor_cores = torch.cuda.get_device_capability(device) >= backends.CAPABILITY
        if dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported(False):
            detail = "only emulated by this GPU, slowly"
            return CheckResult(name, ABSENT, detail, "--precision float16 (auto takes it)", values)
        if dtype == torch.float32 and tensor_cores:
            words.append("TF32 for matrix products unless --no-tf32")
            values["tf32"] = True
    if device.type == "cpu" and slow_precision(name, device):
        words.append("no matrix units (AMX): likely slower than float32")
    if name == automatic_precision(device):
        words.append("what --precision auto takes")
    return CheckResult(name, OK, "; ".join(words), values=values)


def backend(context: Context) -> Iterator[CheckResult]:
    """What SCOTOMA_BACKEND and TRITON_INTERPRET make of all this."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
    refusal = backends.device_refusal(device)
    yield _backend(on_gpu, refusal)
    if backends.interpreting():
        if on_gpu:
            detail = "set: kernels run in Triton's interpreter, slower by orders of magnitude"
            yield CheckResult("TRITON_INTERPRET", WARNING, detail, "unset TRITON_INTERPRET")
        else:
            detail = "set: backend='triton' runs kernels on the CPU, slowly, for tests"
            yield CheckResult("TRITON_INTERPRET", OK, detail)


def _backend(on_gpu: bool, refusal: str | None) -> CheckResult:
    what, unset = "backend", f"unset {backends.VARIABLE}"
    given = os.environ.get(backends.VARIABLE) or None
    values = {backends.VARIABLE: given}
    try:
        chosen = backends.checked(None)  # read at import, and what counts
    except ValueError as error:
        return CheckResult(what, FAILED, str(error), unset, values)
    by = f"by {backends.VARIABLE}={chosen}"
    if chosen == "triton":
        if refusal is not None:
            detail = f"eager definition: fused kernels are preferred {by}, but {refusal}"
            return CheckResult(what, WARNING, detail, unset, values)
        return CheckResult(what, OK, f"fused kernels wherever they can run, {by}", values=values)
    if chosen == "eager":
        if on_gpu and refusal is None:
            detail = f"eager definition, {by}, though this GPU runs the fused kernels"
            return CheckResult(what, WARNING, detail, unset, values)
        return CheckResult(what, OK, f"eager definition, {by}", values=values)
    if on_gpu and refusal is None:
        return CheckResult(what, OK, "fused kernels on the GPU", values=values)
    return CheckResult(what, OK, "eager definition", values=values)


# Folders that scotoma writes to, and tools that it can use.

GIB = 2**30
# A data set of small images unpacked, or the checkpoints of a few runs.
LEAST_FREE = 2 * GIB
LEAST_SHARED = 1 * GIB


def caches(context: Context) -> Iterator[CheckResult]:
    folder = Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache")
    fix = "export TRITON_CACHE_DIR=/a/folder/you/may/write"
    yield _writable("Triton's cache", folder, fix, "; Triton compiles into it")


def _writable(what: str, folder: Path, fix: str, consequence: str) -> CheckResult:
    problem = why_not_writable(folder)
    values = {"folder": str(folder)}
    if problem:
        return CheckResult(what, WARNING, f"{folder} {problem}{consequence}", fix, values)
    return CheckResult(what, OK, f"{folder} can be written", values=values)


def why_not_writable(folder: Path) -> str:
    """Empty if files can be written there, or where the folder would be made."""
    existing = existing_part(folder)
    if not existing.is_dir():
        return f"cannot be a folder: {existing} is a file"
    if existing != folder:
        return "" if os.access(existing, os.W_OK | os.X_OK) else "cannot be made"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    return ""


def existing_part(path: Path) -> Path:
    """The longest beginning of a path that exists."""
    path = path.expanduser().absolute()
    return next(p for p in (path, *path.parents) if p.exists())


def disk(context: Context) -> Iterator[CheckResult]:
    yield free_space("working folder", Path.cwd(), "free some, or scotoma train --out /elsewhere")
    shared = Path("/dev/shm")
    if shared.is_dir() and shutil.disk_usage(shared).total < LEAST_SHARED:
        size = shutil.disk_usage(shared).total / 2**20
        detail = f"{size:.0f} MiB, too little for loader workers with images over 64 pixels"
        fix = "docker run --shm-size=8g, or scotoma train --workers 0"
        yield CheckResult("shared memory", WARNING, detail, fix)


def free_space(what: str, folder: Path, fix: str) -> CheckResult:
    free = shutil.disk_usage(existing_part(folder)).free
    values = {"folder": str(folder), "free_bytes": free}
    detail = f"{free / GIB:.1f} GiB free at {folder}"
    problem = why_not_writable(folder)
    if problem:
        return CheckResult(what, WARNING, f"{detail}, which {problem}", fix, values)
    if free < LEAST_FREE:
        return CheckResult(
            what, WARNING, f"{detail}: too little for data and checkpoints", fix, values
        )
    return CheckResult(what, OK, detail, values=values)


_TOOLKIT = "optional; in NVIDIA's CUDA toolkit: developer.nvidia.com/cuda-downloads"
TOOLS = {
    "nvidia-smi": ("tells clocks and power beside measurements", "comes with the NVIDIA driver"),
    "ncu": ("profiles single kernels", _TOOLKIT),
    "nsys": ("profiles whole programs", _TOOLKIT),
    "compute-sanitizer": ("finds wrong memory accesses, for make gpu-check", _TOOLKIT),
}


def tools(context: Context) -> Iterator[CheckResult]:
    for name, (use, source) in TOOLS.items():
        path = shutil.which(name)
        if path:
            yield CheckResult(name, OK, path, values={"path": path})
        else:
            yield CheckResult(name, ABSENT, use, source, {"path": None})


# Which data sets are there, and how to get the others. Nothing is read or fetched.

_CIFAR = "cifar-10-batches-py"
_MNIST = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")

# Patterns below a data set's folder, each of which must match a file; of a tuple one is enough.
FILES: dict[str, list[str | tuple[str, ...]]] = {
    "cifar10": [
        *(f"{_CIFAR}/{name}" for name in ("batches.meta", "test_batch")),
        *(f"{_CIFAR}/data_batch_{number}" for number in range(1, 6)),
    ],
    "mnist": [f"MNIST/raw/{name}-ubyte" for name in _MNIST],
    "fashion-mnist": [f"FashionMNIST/raw/{name}-ubyte" for name in _MNIST],
    "tiny-imagenet": [
        "tiny-imagenet-200/train/*/images/*.JPEG",
        "tiny-imagenet-200/val/images/*.JPEG",
        "tiny-imagenet-200/val/val_annotations.txt",
    ],
    "imagenet": ["train/*/*", ("val/*/*", "test/*/*")],
}


def data_sets(context: Context) -> Iterator[CheckResult]:
    from ...train import datasets  # imports torchvision, which may be what is broken

    root = (context.data_root or datasets.default_root()).expanduser().absolute()
    fix = "free some, or export SCOTOMA_DATA=/another/folder"
    yield free_space("data root", root, fix)
    for name in datasets.DATASETS:
        yield _sample() if name == "sample" else data_set(name, root)


def _sample() -> CheckResult:
    folder = Path(__file__).resolve().parents[2] / "train" / "sample"
    if any(folder.glob("*.npz")):
        return CheckResult("sample", OK, "in the package", values={"folder": str(folder)})
    fix = "install scotoma again: pip install --force-reinstall --no-deps ."
    return CheckResult("sample", FAILED, f"{folder} has no images", fix, {"folder": None})


def data_set(name: str, root: Path) -> CheckResult:
    """Whether a data set's files are under the data root."""
    folder = root / name
    absent = first_missing(folder, FILES.get(name, ["*"]))
    if absent is None:
        return CheckResult(name, OK, f"in {folder}", values={"folder": str(folder)})
    begun = folder.is_dir() and any(folder.iterdir())
    detail = f"not whole: {folder} has no {absent}" if begun else f"not in {root}"
    return CheckResult(name, ABSENT, detail, how_to_get(name, root), {"folder": None})


def first_missing(folder: Path, patterns: list[str | tuple[str, ...]]) -> str | None:
    """The first pattern that no file matches; None if all do."""
    for pattern in patterns:
        alternatives = (pattern,) if isinstance(pattern, str) else pattern
        if not any(next(folder.glob(p), None) for p in alternatives):
            return " or ".join(alternatives)
    return None


def how_to_get(name: str, root: Path) -> str:
    if name == "imagenet":
        return (
            "get it from image-net.org (needs an account), sort it into train/<class>/ and "
            f"val/<class>/, then: ln -s /that/folder {root / name}"
        )
    from ...train import datasets

    elsewhere = (
        "" if root == datasets.default_root().expanduser().absolute() else f" --data-root {root}"
    )
    return f"scotoma train --dataset {name} --download{elsewhere}"
