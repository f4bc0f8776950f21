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

OK, WARNING, FAILED, ABSENT = VERDICTS = "ok", "warning", "failed", "not here"
PACKAGE = Path(__file__).resolve().parents[2]


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
    """The results of a check, and a failed one in place of what an exception left unsaid."""
    with warnings.catch_warnings():
        # What matters of them is asked for by name.
        warnings.simplefilter("ignore")
        try:
            yield from run(context)
        except Exception as error:
            what = run.__name__.replace("_", " ")
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
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    text = f"{text[:300]} ..." if len(text) > 300 else text
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
_WITH_LINES = ("Python", "torch", "torchvision", "triton")
PIP = f"{sys.executable} -m pip install"
REINSTALL_TORCH = f"{PIP} --force-reinstall torch torchvision"


def libraries(context: Context) -> Iterator[CheckResult]:
    yield _library("Python")
    commit = harness.commit()
    detail = f"{__version__}{f', commit {commit}' if commit else ''}, in {PACKAGE}"
    values = {"version": __version__, "commit": commit, "folder": str(PACKAGE)}
    yield CheckResult("scotoma", OK, detail, values=values)
    yield from map(_library, _WITH_LINES[1:])
    yield from _cuda()
    found = {name: found_version(name) for name in MINIMUM if name not in _WITH_LINES}
    bad = [name for name, version in found.items() if too_old(version, MINIMUM[name])]
    if bad:
        detail = ", ".join(f"{name} {_shortfall(name)}" for name in bad)
        yield CheckResult("other libraries", FAILED, detail, _upgrade(*bad), found)
    else:
        detail = ", ".join(f"{name} {version}" for name, version in found.items())
        yield CheckResult("other libraries", OK, detail, values=found)


def found_version(name: str) -> str | None:
    """What is installed; None if it is not."""
    own = {"Python": platform.python_version(), "torch": torch.__version__}
    return own.get(name) or harness.version(name)


def too_old(found: str | None, minimum: str) -> bool:
    """Compares the numbers a version begins with: 2.11.0a0+git is as good as 2.11."""

    def numbers(version: str) -> list[int]:
        return [int(part) for part in re.match(r"[\d.]*", version)[0].split(".") if part]

    return found is None or numbers(found) < numbers(minimum)


def _library(name: str) -> CheckResult:
    found = found_version(name)
    values = {"version": found, "minimum": MINIMUM[name]}
    if name == "triton" and found is None:
        detail = "not installed; networks run in the eager definition"
        if sys.platform == "linux":
            return CheckResult(name, WARNING, detail, _upgrade(name), values)
        fix = "scotoma's kernels need Linux (on Windows: WSL)"
        return CheckResult(name, ABSENT, detail, fix, values)
    if too_old(found, MINIMUM[name]):
        return CheckResult(name, FAILED, _shortfall(name), _upgrade(name), values)
    if name != "Python":
        try:
            importlib.import_module(name)
        except Exception as error:
            fix = f"{PIP} --force-reinstall {name}" if name == "triton" else REINSTALL_TORCH
            return CheckResult(name, FAILED, f"{found}; {brief(error)}", fix, values)
    return CheckResult(name, OK, found, values=values)


def _shortfall(name: str) -> str:
    return f"{found_version(name) or 'not installed'} (needs {MINIMUM[name]} or later)"


def _upgrade(*names: str) -> str:
    if names == ("Python",):
        return f"a new environment: python{MINIMUM['Python']} -m venv .venv (or a later Python)"
    if names[0] in ("torch", "torchvision"):  # these two only fit together
        names = ("torch", "torchvision")
    return " ".join([PIP, "--upgrade", *(f'"{name}>={MINIMUM[name]}"' for name in names)])


def _cuda() -> Iterator[CheckResult]:
    cuda = torch.version.cuda
    if cuda is None:
        fix = "only for NVIDIA GPUs; see there"
        yield CheckResult("CUDA, cuDNN", ABSENT, "torch is built without CUDA", fix)
        return
    yield CheckResult("CUDA", OK, f"{cuda}, which torch brings along", values={"version": cuda})
    number = torch.backends.cudnn.version()
    if number is None:
        detail = "torch finds none: convolutions will be slow"
        yield CheckResult("cuDNN", WARNING, detail, REINSTALL_TORCH)
        return
    # As people write it: 91002 is 9.10.2, 8902 is 8.9.2.
    unit = 10_000 if number >= 90_000 else 1_000
    version = f"{number // unit}.{number % unit // 100}.{number % 100}"
    yield CheckResult("cuDNN", OK, version, values={"version": version})


# Which numbers networks and kernels can compute with, and which backend runs.


def first_device() -> torch.device:
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def dtypes(context: Context) -> Iterator[CheckResult]:
    """What the first device computes with: others of the machine are hardly ever older."""
    for dtype in backends.DTYPES:
        yield _dtype(first_device(), dtype)


def _dtype(device: torch.device, dtype: torch.dtype) -> CheckResult:
    name = str(dtype).removeprefix("torch.")
    try:
        ones = torch.ones(1, 8, 4, 4, device=device, dtype=dtype)
        F.conv2d(ones, ones).sum().item()
    except RuntimeError as error:
        fix = known_fix(error) or "--precision float32"
        return CheckResult(name, WARNING, f"{device.type} cannot convolve it: {brief(error)}", fix)
    fused = device.type == "cuda" and backends.device_refusal(device) is None
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
    elif slow_precision(name, device):
        words.append("no matrix units (AMX): likely slower than float32")
    if name == automatic_precision(device):
        words.append("what --precision auto takes")
    return CheckResult(name, OK, "; ".join(words), values=values)


def backend(context: Context) -> Iterator[CheckResult]:
    """What SCOTOMA_BACKEND and TRITON_INTERPRET make of all this."""
    on_gpu = torch.cuda.is_available()
    verdict, detail = _backend(on_gpu, backends.device_refusal(first_device()))
    fix = "" if verdict == OK else f"unset {backends.VARIABLE}"
    values = {backends.VARIABLE: os.environ.get(backends.VARIABLE) or None}
    yield CheckResult("backend", verdict, detail, fix, values)
    if backends.interpreting() and on_gpu:
        detail = "set: kernels run in Triton's interpreter, slower by orders of magnitude"
        yield CheckResult("TRITON_INTERPRET", WARNING, detail, "unset TRITON_INTERPRET")
    elif backends.interpreting():
        detail = "set: backend='triton' runs kernels on the CPU, slowly, for tests"
        yield CheckResult("TRITON_INTERPRET", OK, detail)


def _backend(on_gpu: bool, refusal: str | None) -> tuple[str, str]:
    """A verdict, and what runs. refusal: why no kernel runs on the first device."""
    try:
        chosen = backends.checked(None)  # read at import, and what counts
    except ValueError as error:
        return FAILED, str(error)
    fused, by = on_gpu and refusal is None, f"by {backends.VARIABLE}={chosen}"
    if chosen is None:
        return OK, "fused kernels on the GPU" if fused else "eager definition"
    if chosen == "eager" and fused:
        return WARNING, f"eager definition, {by}, though this GPU runs the fused kernels"
    if chosen == "eager":
        return OK, f"eager definition, {by}"
    if refusal is not None:
        return WARNING, f"eager definition: fused kernels are preferred {by}, but {refusal}"
    return OK, f"fused kernels wherever they can run, {by}"


# Folders that scotoma writes to, and tools that it can use.

GIB = 2**30
# A data set of small images unpacked, or the checkpoints of a few runs.
LEAST_FREE = 2 * GIB
LEAST_SHARED = 1 * GIB


def caches(context: Context) -> Iterator[CheckResult]:
    folder = Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache")
    values = {"folder": str(folder)}
    if problem := why_not_writable(folder):
        detail = f"{folder} {problem}; Triton compiles into it"
        fix = "export TRITON_CACHE_DIR=/a/folder/you/may/write"
        yield CheckResult("Triton's cache", WARNING, detail, fix, values)
    else:
        yield CheckResult("Triton's cache", OK, f"{folder} can be written", values=values)


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
    if shared.is_dir() and (size := shutil.disk_usage(shared).total) < LEAST_SHARED:
        words = "too little for loader workers with images over 64 pixels"
        fix = "docker run --shm-size=8g, or scotoma train --workers 0"
        yield CheckResult("shared memory", WARNING, f"{size / 2**20:.0f} MiB, {words}", fix)


def free_space(what: str, folder: Path, fix: str) -> CheckResult:
    free = shutil.disk_usage(existing_part(folder)).free
    values = {"folder": str(folder), "free_bytes": free}
    detail = f"{free / GIB:.1f} GiB free at {folder}"
    if problem := why_not_writable(folder):
        detail += f", which {problem}"
    elif free < LEAST_FREE:
        detail += ": too little for data and checkpoints"
    else:
        return CheckResult(what, OK, detail, values=values)
    return CheckResult(what, WARNING, detail, fix, values)


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
        answer = (OK, path, "") if path else (ABSENT, use, source)
        yield CheckResult(name, *answer, {"path": path})


# Which data sets are there, and how to get the others. Nothing is read or fetched.

_CIFAR = "cifar-10-batches-py"
_MNIST = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")

# Patterns below a data set's folder, each of which must match a file.
FILES = {
    "sample": ["*.npz"],
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
    "imagenet": ["train/*/*", "val/*/* or test/*/*"],
}


def data_sets(context: Context) -> Iterator[CheckResult]:
    from ...train import datasets  # imports PIL, which may be what is broken

    default = datasets.default_root().expanduser().absolute()
    root = (context.data_root or default).expanduser().absolute()
    fix = "free some, or export SCOTOMA_DATA=/another/folder"
    yield free_space("data root", root, fix)
    elsewhere = "" if root == default else f" --data-root {root}"
    fixes = {
        "sample": "install scotoma again: pip install --force-reinstall --no-deps .",
        "imagenet": "get it from image-net.org (needs an account), sort it into train/<class>/ and "
        f"val/<class>/, then: ln -s /that/folder {root / 'imagenet'}",
    }
    for name in datasets.DATASETS:
        shipped = name == "sample"
        folder = PACKAGE / "train" / "sample" if shipped else root / name
        missing = first_missing(folder, FILES.get(name, ["*"]))
        if missing is None:
            detail = "in the package" if shipped else f"in {folder}"
            yield CheckResult(name, OK, detail, values={"folder": str(folder)})
            continue
        begun = folder.is_dir() and any(folder.iterdir())
        detail = f"not whole: {folder} has no {missing}" if begun else f"not in {folder.parent}"
        fix = fixes.get(name, f"scotoma train --dataset {name} --download{elsewhere}")
        yield CheckResult(name, FAILED if shipped else ABSENT, detail, fix, {"folder": None})


def first_missing(folder: Path, patterns: list[str]) -> str | None:
    """The first pattern that no file matches; None if all do."""
    for pattern in patterns:
        if not any(next(folder.glob(p), None) for p in pattern.split(" or ")):
            return pattern
    return None
