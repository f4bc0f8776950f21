"""Does torch.compile work? In a process of its own, which a time limit can end."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import torch

from .line import FAILED, OK, WARNING, Examination, Line, brief, known_fix

SECONDS = 180
_FIX = "train without --compile; pytorch.org/get-started has the versions that go together"


def compilers(examination: Examination) -> Iterator[Line]:
    """The compilers that torch.compile and Triton call."""
    c = _found("CC", "gcc", "clang", "cc")
    cxx = _found("CXX", "g++", "clang++", "c++")
    yield _compiler("C compiler", c, "Triton needs one to launch kernels", "gcc", "CC")
    yield _compiler("C++ compiler", cxx, "torch.compile needs one on a CPU", "g++", "CXX")


def _found(variable: str, *names: str) -> str | None:
    given = shlex.split(os.environ.get(variable, ""))[:1]
    return next((path for name in (given or names) if (path := shutil.which(name))), None)


def _compiler(what: str, path: str | None, use: str, package: str, variable: str) -> Line:
    values = {"path": path}
    if path is not None:
        return Line(what, OK, path, values=values)
    given = os.environ.get(variable)
    found = f"{variable} is {given!r}, which is not there" if given else "none found"
    fix = f"sudo apt install {package}" + (f", or unset {variable}" if given else "")
    return Line(what, WARNING, f"{found}; {use}", fix, values)


def compiles(examination: Examination) -> Iterator[Line]:
    """A tiny function around the operator, compiled for the device that networks run on."""
    kind = "cuda" if torch.cuda.is_available() and torch.version.hip is None else "cpu"
    if kind == "cpu" and _found("CXX", "g++", "clang++", "c++") is None:
        detail = "not tried without a C++ compiler"
        yield Line("torch.compile", WARNING, detail, "sudo apt install g++")
        return
    examination.progress("torch.compile; the first time takes a while")
    yield outcome([sys.executable, "-m", __name__, kind], kind)


def outcome(command: list[str], kind: str, limit: float = SECONDS) -> Line:
    """A line for a program that ends with status 0, or with the reason in its last line."""
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
        return Line("torch.compile", WARNING, detail, fix)
    seconds = time.perf_counter() - start
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        reason = done.stdout.strip().splitlines()[-1:] or said[-1:] or ["no reason given"]
        detail = f"does not work on {kind}: {reason[0]}"
        return Line("torch.compile", FAILED, detail, known_fix("\n".join(said)) or _FIX)
    values = {"device": kind, "seconds": round(seconds, 1)}
    detail = f"works on {kind} (with starting Python: {seconds:.0f} s)"
    return Line("torch.compile", OK, detail, values=values)


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
