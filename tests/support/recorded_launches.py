"""What Triton's interpreter launches, kept in one process and compiled in another.

As a pytest plugin it keeps the distinct launches of all tests, in a pickle; as a script it compiles
them for an architecture and prints what fails:

    RECORDED_LAUNCHES=FILE python -m pytest -p recorded_launches TESTS
    python -m recorded_launches FILE 90

A GPU would have them slightly differently: what the interpreter multiplies in float32, a GPU does
in TF32; and what is tested in float16 runs in bfloat16 as well.
"""

import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from scotoma.bench.aot.record import noting

_stack, _launches = ExitStack(), {}


def pytest_configure():
    _stack.enter_context(noting(keep, interpret=True))


def pytest_unconfigure():
    _stack.close()
    Path(os.environ["RECORDED_LAUNCHES"]).write_bytes(pickle.dumps(list(_launches.values())))


def keep(launch, launches=_launches):
    constants = {p: "tf32" if v == "ieee" else v for p, v in launch.constants.items()}
    launch = launch._replace(constants=constants)
    twin = {name: in_bfloat16(kind) for name, kind in launch.signature.items()}
    for found in (launch, launch._replace(signature=twin)):
        launches.setdefault(found.identity, found)


def in_bfloat16(kind):
    if isinstance(kind, tuple):
        return getattr(kind, "_make", tuple)(map(in_bfloat16, kind))  # kernels read fields by name
    return kind.replace("*fp16", "*bf16")


def main(file, arch):
    from scotoma.bench.aot.code import compiled

    def problem(launch):
        try:
            compiled(launch, int(arch))
        except Exception as error:
            return f"{launch.kernel} {launch.arguments}: {str(error)[-2000:]}"

    launches = pickle.loads(Path(file).read_bytes())
    with ThreadPoolExecutor(min(4, os.cpu_count())) as pool:
        problems = [p for p in pool.map(problem, launches) if p]
    print(*problems[:10], f"{len(problems)} of {len(launches)} do not compile", sep="\n\n")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
