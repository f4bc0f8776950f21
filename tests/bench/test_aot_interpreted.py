"""Whatever Triton's interpreter runs in these tests, the compiler accepts for every GPU.

The interpreter has Python's semantics, the compiler has not: a passing test proves nothing about a
GPU until its launches compile, with the very arguments that they had.
"""

import importlib
import inspect
import os
import pickle
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from unittest import mock

import pytest
import torch
from recorded_launches import keep
from scotoma.bench.aot import cases
from scotoma.bench.aot.command import ARCHS, covering, surveyed
from scotoma.kernels import Projection, backends, bn_mask_add_relu, conv_bn_mask_add_relu

record = pytest.importorskip("scotoma.bench.aot.record")  # imports Triton

ROOT, SUPPORT = Path(__file__).parents[2], Path(__file__).parents[1] / "support"
TESTS = ("tests/kernels", "tests/defective/test_fused_models.py")

needs_interpreter = pytest.mark.skipif(
    not backends.interpreting(), reason="needs TRITON_INTERPRET=1, as on a CPU"
)


def python(*words, interpret=False, path=(), **variables):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | variables
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    places = [*path, SUPPORT, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(map(str, places))
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


def compile_recorded(file, arch, *path):
    return python("-m", "recorded_launches", file, arch, path=path)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The distinct launches of the tests of kernels, in a file."""
    file = tmp_path_factory.mktemp("recorded") / "launches.pickle"
    done = python(
        *("-m", "pytest", "-p", "recorded_launches", "-p", "no:cacheprovider"),
        *("--hypothesis-seed=0", *TESTS),
        interpret=True,
        RECORDED_LAUNCHES=str(file),
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    return file


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_what_the_interpreter_ran_compiles(recorded, arch):
    done = compile_recorded(recorded, arch)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_cases_leave_out_whatever_the_tests_leave_out(recorded):
    """So that the fast tests, and ``scotoma bench aot``, compile every absence at least once."""

    def absent(launches):
        features = set().union(*(launch.features for launch in launches))
        return {(kernel, name) for kernel, name, kind, _ in features if kind is None}

    in_tests = absent(pickle.loads(recorded.read_bytes()))
    assert in_tests - absent(launch for launch, _ in surveyed().launches) == set()


def test_every_value_of_every_argument_compiles(tmp_path):
    """Each type, constant and divisibility that occurs in any case, and each absence, on sm_90."""
    launches = [launch for launch, _ in covering(surveyed().launches)]
    file = tmp_path / "launches.pickle"
    file.write_bytes(pickle.dumps(launches))
    done = compile_recorded(file, 90)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"0 of {len(launches)} do not compile" in done.stdout


def test_cases_leave_out_every_argument():
    """Each optional argument of each operator, and of a projection, is None in one call and given
    in another; each flag is on and off."""
    seen = defaultdict(set)

    def note(name, annotations, values):
        for argument, annotation in annotations.items():
            annotation = getattr(annotation, "__forward_arg__", annotation)
            if annotation in ("Tensor | None", "Projection | None"):
                seen[name, argument].add(values[argument] is None)
            elif annotation == "bool":
                seen[name, argument].add(values[argument])
            if isinstance(values[argument], Projection):
                note("projection", Projection.__annotations__, values[argument]._asdict())

    def watched(operator):
        def call(*args, **keywords):
            bound = inspect.signature(operator).bind(*args, **keywords)
            bound.apply_defaults()
            annotations = {n: a for n, a in operator.__annotations__.items() if n != "return"}
            note(operator.__name__, annotations, bound.arguments)
            return operator(*args, **keywords)

        return call

    # apply_mask launches nothing without its only optional argument.
    operators = {o.__name__: watched(o) for o in (bn_mask_add_relu, conv_bn_mask_add_relu)}
    with mock.patch.multiple(cases, **operators):
        surveyed()
    assert {name for name, _ in seen} == {*operators, "projection"}
    assert [place for place, values in seen.items() if len(values) < 2] == []


PLANTED = """
import triton
import triton.language as tl


@triton.jit
def loaded(ptr, c):
    if ptr is None:
        return tl.full(c.shape, 1.0, tl.float32)
    return tl.load(ptr + c).to(tl.float32)


@triton.jit
def early_return(out, weight, N: tl.constexpr):
    c = tl.arange(0, N)
    tl.store(out + c, loaded(weight, c))


@triton.jit
def of_tuples(out, pair, count, N: tl.constexpr):
    x, weight = pair
    c = tl.arange(0, N)
    value = tl.load(x + c, mask=c < count, other=0.0)
    if weight is not None:
        value *= tl.load(weight + c)
    tl.store(out + c, value)
"""


@needs_interpreter
def test_what_only_the_interpreter_accepts_is_found(tmp_path, monkeypatch):
    """A return under a condition, with code after it. Tuples of arguments are no obstacle."""
    (tmp_path / "planted.py").write_text(PLANTED)
    monkeypatch.syspath_prepend(tmp_path)
    planted = importlib.import_module("planted")
    x, out = torch.arange(18.0, dtype=torch.float16), torch.zeros(16)
    calls = {
        "wrong": lambda: planted.early_return[(1,)](out, None, N=16),
        "right": lambda: planted.of_tuples[(1,)](out, (x[1:], None), 16, N=16, num_warps=1),
    }
    found = {}
    for name, call in calls.items():
        launches = {}
        with record.noting(lambda launch, to=launches: keep(launch, to), interpret=True):
            call()
        (tmp_path / name).write_bytes(pickle.dumps(list(launches.values())))
        found[name] = list(launches.values())
    assert out.tolist() == list(range(1, 17))  # the interpreter ran both

    launch, twin = found["right"]
    assert launch.arguments == {
        "out": "*fp32", "pair.0": "*fp16", "pair.1": None, "count": "i32", "N": "16"
    }  # fmt: skip
    assert launch.parameters == ["out", "pair.0", "count"]
    assert launch.options == {"num_warps": 1}
    divisible = [["tt.divisibility", 16]]
    assert launch.attributes[(0,)] == launch.attributes[(2,)] == divisible
    assert launch.attributes[(1, 0)] == []  # the second element is not aligned
    assert twin.arguments["pair.0"] == "*bf16"

    wrong, right = (compile_recorded(tmp_path / name, 90, tmp_path) for name in calls)
    assert wrong.returncode == 1
    assert "1 of 1 do not compile" in wrong.stdout, wrong.stderr
    assert right.returncode == 0, right.stdout + right.stderr
    assert "0 of 2 do not compile" in right.stdout


@needs_interpreter
def test_branches_with_running_statistics_of_two_dtypes():
    """A kernel that picks one of two pointers does not compile if they differ in type."""
    launches = []
    x = torch.randn(2, 8, 4, 4, requires_grad=True)
    vectors = [torch.rand(8).add(0.5).requires_grad_(i < 2) for i in range(4)]
    halves = [v.detach().half().requires_grad_(i < 2) for i, v in enumerate(vectors)]
    with record.noting(launches.append, interpret=True):
        out = bn_mask_add_relu(
            x, *vectors, projection=Projection(x, *halves), training=False, backend="triton"
        )
        out.sum().backward()
    (merge,) = [launch for launch in launches if launch.kernel == "merge_gradients"]
    assert merge.arguments["var"] == merge.arguments["var2"] == "*fp32"
    assert merge.arguments["grads2.0"] == "*fp16"


def test_recording_leaves_nothing_behind():
    """A call on the meta device, which no kernel runs on, is refused again after a recording."""

    def call():
        x = torch.empty(2, 8, 4, 4, device="meta")
        vectors = [torch.empty(8, device="meta") for _ in range(4)]
        return bn_mask_add_relu(x, *vectors, training=True, backend="triton")

    (launches,) = record.record(call)
    assert [launch.kernel for launch in launches][-1] == "apply_forward"
    with pytest.raises(ValueError, match="backend is 'triton'"):
        call()
