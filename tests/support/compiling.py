"""What Triton's interpreter launches, kept in one process and compiled in another.

Kernels cannot be compiled where the interpreter is on: the functions here are for a process without
it. As a pytest plugin this keeps the distinct launches of all tests, in a pickle:

    RECORDED_LAUNCHES=FILE python -m pytest -p compiling TESTS

A GPU would have them slightly differently: what the interpreter multiplies in float32, a GPU does
in TF32; and what is tested in float16 runs in bfloat16 as well.
"""

import io
import os
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from functools import cache
from multiprocessing import parent_process
from pathlib import Path
from unittest import mock

from scotoma.bench.aot import budget, cli, code
from scotoma.bench.aot.record import noting
from scotoma.train.cli import main

_stack, _launches, _measured = ExitStack(), {}, {}
_measure, _surveyed = code.measure, cache(cli.surveyed)


def pytest_configure():
    _stack.enter_context(noting(keep, interpret=True))


def pytest_unconfigure():
    _stack.close()
    Path(os.environ["RECORDED_LAUNCHES"]).write_bytes(pickle.dumps(list(_launches.values())))


def keep(launch, launches=_launches):
    constants = {p: "tf32" if v == "ieee" else v for p, v in launch.constants.items()}
    launch = launch._replace(constants=constants)
    twin = {name: _in_bfloat16(kind) for name, kind in launch.signature.items()}
    for found in (launch, launch._replace(signature=twin)):
        launches.setdefault(found.identity, found)


def _in_bfloat16(kind):
    if isinstance(kind, tuple):
        return getattr(kind, "_make", tuple)(map(_in_bfloat16, kind))  # kernels read fields by name
    return kind.replace("*fp16", "*bf16")


def end_with_parent():
    """Tests that are killed leave no process behind."""
    threading.Thread(target=lambda: os._exit(parent_process().join() or 1), daemon=True).start()


def problems(launches, arch, *path):
    """What does not compile. path: where modules of kernels are, too."""
    sys.path[:0] = path

    def problem(launch):
        try:
            code.compiled(launch, arch)
        except Exception as error:
            return f"{launch.kernel} {launch.arguments}: {str(error)[-2000:]}"

    with ThreadPoolExecutor(min(4, os.cpu_count())) as pool:
        return [found for found in pool.map(problem, launches) if found]


def aot(*options):
    """The status of ``scotoma bench aot``, and what it prints; nothing is compiled twice."""
    said = io.StringIO()
    with (
        redirect_stdout(said),
        redirect_stderr(said),
        mock.patch.object(cli, "surveyed", _surveyed),
        mock.patch.object(code, "measure", _measured_once),
    ):
        return main(["bench", "aot", *map(str, options)]), said.getvalue()


def _measured_once(launch, arch, case):
    key = launch.identity, arch, case
    if key not in _measured:
        _measured[key] = _measure(launch, arch, case)
    return _measured[key]


def rules(kernel, case, **changes):
    """The rules that a launch breaks, and those that it breaks with other attributes."""
    launch, case = cli.select(_surveyed()[0], [kernel], [case])[0]
    changed = launch._replace(**changes)
    return [budget.broken_rules(_measured_once(each, 90, case)) for each in (launch, changed)]
