"""Python, scotoma and the libraries it stands on."""

from __future__ import annotations

import importlib
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from ... import __version__
from .. import harness
from .line import ABSENT, FAILED, OK, WARNING, Examination, Line, brief

# Lower bounds, as in pyproject.toml.
MINIMUM = {
    "Python": "3.11",
    "torch": "2.11",
    "torchvision": "0.26",
    "triton": "3.6",
    "einops": "0.7",
    "filelock": "4.2",
    "numpy": "1.26",
    "pillow": "10",
    "safetensors": "0.4.3",
    "jsonargparse": "4.53",
    "PyYAML": "6",
    "rich": "13",
    "matplotlib": "3.8",
    "tensorboard": "2.15",
    "pandas": "2.2",
    "tabulate": "0.9",
    "jinja2": "3.1",
    "markdown-it-py": "3",
    "scipy": "1.11",
}
_OWN_LINES = ("Python", "torch", "torchvision", "triton")
_WITH_TORCH = ("torch", "torchvision")  # these two only fit together


def libraries(examination: Examination) -> Iterator[Line]:
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


def _library(name: str) -> Line:
    found, minimum = found_version(name), MINIMUM[name]
    values = {"version": found, "minimum": minimum}
    if found is None:
        return Line(name, FAILED, f"not installed; needs {minimum} or later", _get(name), values)
    if too_old(found, minimum):
        return Line(name, FAILED, f"{found}; needs {minimum} or later", _get(name), values)
    return Line(name, OK, found, values=values)


def _get(name: str) -> str:
    if name == "Python":
        return f"a new environment: python{MINIMUM[name]} -m venv .venv (or a later Python)"
    names = _WITH_TORCH if name in _WITH_TORCH else (name,)
    wanted = " ".join(f'"{n}>={MINIMUM[n]}"' for n in names)
    return f"{sys.executable} -m pip install --upgrade {wanted}"


def _scotoma() -> Line:
    commit, folder = harness.commit(), Path(__file__).resolve().parents[2]
    detail = __version__ + (f", commit {commit}" if commit else "") + f", in {folder}"
    values = {"version": __version__, "commit": commit, "folder": str(folder)}
    return Line("scotoma", OK, detail, values=values)


def _imports(module: str, line: Line) -> Line:
    """A failed line for a library that is installed but broken."""
    if line.verdict != OK:
        return line
    try:
        importlib.import_module(module)
    except Exception as error:
        names = " ".join(_WITH_TORCH if module in _WITH_TORCH else (module,))
        fix = f"{sys.executable} -m pip install --force-reinstall {names}"
        return Line(line.what, FAILED, f"{line.detail}; {brief(error)}", fix, line.values)
    return line


def _triton() -> Line:
    if found_version("triton") is not None:
        return _imports("triton", _library("triton"))
    detail = "not installed; networks run in the eager definition"
    if sys.platform == "linux":
        return Line("triton", WARNING, detail, _get("triton"))
    fix = "scotoma's kernels need Linux (on Windows: WSL)"
    return Line("triton", ABSENT, detail, fix)


def _cuda() -> Iterator[Line]:
    if torch.version.cuda is None:
        fix = "only for NVIDIA GPUs; see there"
        yield Line("CUDA, cuDNN", ABSENT, "torch is built without CUDA", fix)
        return
    values = {"version": torch.version.cuda}
    yield Line("CUDA", OK, f"{torch.version.cuda}, which torch brings along", values=values)
    number = torch.backends.cudnn.version()
    if number is None:
        fix = f"{sys.executable} -m pip install --force-reinstall torch torchvision"
        yield Line("cuDNN", WARNING, "torch finds none: convolutions will be slow", fix)
    else:
        yield Line("cuDNN", OK, cudnn_version(number), values={"version": cudnn_version(number)})


def cudnn_version(number: int) -> str:
    """As people write it: 91002 is 9.10.2, 8902 is 8.9.2."""
    unit = 10_000 if number >= 90_000 else 1_000
    return f"{number // unit}.{number % unit // 100}.{number % 100}"


def _others() -> Line:
    names = [name for name in MINIMUM if name not in _OWN_LINES]
    found = {name: found_version(name) for name in names}
    bad = [n for n, v in found.items() if v is None or too_old(v, MINIMUM[n])]
    if not bad:
        detail = ", ".join(f"{name} {version}" for name, version in found.items())
        return Line("other libraries", OK, detail, values=found)
    detail = ", ".join(
        f"{n} {found[n] or 'is not installed'} (needs {MINIMUM[n]} or later)" for n in bad
    )
    wanted = " ".join(f'"{name}>={MINIMUM[name]}"' for name in bad)
    fix = f"{sys.executable} -m pip install --upgrade {wanted}"
    return Line("other libraries", FAILED, detail, fix, found)
