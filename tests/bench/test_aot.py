"""``scotoma bench aot``: kernels keep to the rules and the budget, and the checks can fail.

Whatever Triton's interpreter runs in these tests, the compiler accepts for every GPU.

The interpreter has Python's semantics, the compiler has not: a passing test proves nothing about a
GPU until its launches compile, with the very arguments that they had. Kernels cannot be compiled
where the interpreter is on, so one process without it compiles for all tests.
"""

import ast
import importlib
import inspect
import json
import os
import pickle
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import pytest
import torch
from scotoma.bench import harness
from scotoma.bench.aot import cases
from scotoma.bench.aot.cli import ARCHS, surveyed
from scotoma.bench.cli import BENCHMARKS
from scotoma.kernels import Projection, backends, bn_mask_add_relu, conv_bn_mask_add_relu
from scotoma.train.cli import main

code = pytest.importorskip("scotoma.bench.aot.code")  # imports Triton
compiling = pytest.importorskip("compiling")
record = pytest.importorskip("scotoma.bench.aot.record")

ROOT = Path(__file__).parents[2]
TESTS = ("tests/kernels", "tests/defective/test_fused_models.py")
SMALL = ["--arch", "90", "--kernel", "merge_gradients", "--case", "nhwc no-weight no-bias"]
# Each kernel, and each argument that may be absent, absent and given.
FEW = (
    "bf16 C36-12 train",
    "bf16 C128-128 3x3 128x64x64s3 infer",
    "fp32 C128-128 128x64x64s3 infer",
    "bf16 nhwc C128 16x16 plain train mask",
    "bf16 nhwc C128 plain train no-mask",
    "bf16 nhwc C128 residual train mask no-gradient",
    "bf16 nhwc C128 projection train mask no-relu",
    "bf16 nhwc C128 32x32",
)
KEPT = {
    "few": ["--arch", "90", "--cover", *(word for case in FEW for word in ("--case", case))],
    "other architectures": [
        *("--arch", "80", "--arch", "100", "--case", "bf16 C36-12 train"),
        *("--kernel", "apply_backward", "--kernel", "convolve"),
    ],
    "every value of every argument": ["--arch", "90", "--cover"],
    "all": [],
}

needs_interpreter = pytest.mark.skipif(
    not backends.interpreting(), reason="needs TRITON_INTERPRET=1, as on a CPU"
)


@pytest.fixture(scope="module")
def compiler():
    """compiler(function, arguments) calls it in a process in which Triton compiles."""
    context = get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=compiling.end_with_parent) as pool:
        with mock.patch.dict(os.environ):
            os.environ.pop("TRITON_INTERPRET", None)
            pool.submit(os.getpid).result()
        yield lambda function, *words, **more: pool.submit(function, *words, **more).result()


@pytest.fixture(scope="module")
def aot(compiler):
    """aot(options) -> status and words of ``scotoma bench aot``."""
    return lambda *options: compiler(compiling.aot, *options)


def kernels_in_the_source():
    """Device functions that no other device function calls."""
    functions, called = set(), set()
    for path in (ROOT / "kernels" / "device").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                functions.add(node.name)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                called.add(node.func.id)
    return functions - called


@pytest.mark.parametrize(
    "name",
    [*list(KEPT)[:2], *(pytest.param(name, marks=pytest.mark.slow) for name in list(KEPT)[2:])],
)
def test_kernels_keep_to_the_budget(aot, tmp_path, name):
    file = tmp_path / "found.json"
    status, said = aot("--check", "--json", file, *KEPT[name])
    assert status == 0, said
    found = json.loads(file.read_text())["kernels"]
    assert name.startswith("other") or {row["kernel"] for row in found} == kernels_in_the_source()
    for row in found:
        # What PTX says of the widths, argument by argument, is what the machine code has.
        in_code = {int(w) for part in ("loads", "stores") for w in row["code"][part]}
        assert in_code == {w for widths in row["widths"].values() for w in widths}, row
        assert row["wanted"] or row["kernel"] in ("merge_statistics", "merge_gradients"), row
        for argument, wanted in row["wanted"].items():
            assert min(row["widths"].get(argument, [wanted])) >= wanted, row
        assert row["in_flight"] > 0 and row["blocks"] >= 1, row


def test_cases_have_names_of_their_own():
    names = [case.name for case in cases.all_cases()]
    assert len(names) == len(set(names))


def test_the_command_starts_itself_again_without_the_interpreter(monkeypatch):
    """As ``bench overhead``, whose test has a true process."""
    run = mock.Mock(return_value=mock.Mock(returncode=5))
    monkeypatch.setattr(harness.subprocess, "run", run)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert main(["bench", "aot", "--check"]) == 5
    assert run.call_args[0][0][1:] == ["-m", "scotoma.train.cli", "bench", "aot", "--check"]
    assert "TRITON_INTERPRET" not in run.call_args[1]["env"]


def test_budgets_hold_or_not(aot, tmp_path):
    file = tmp_path / "budget.json"
    status, said = aot(*SMALL, "--budget", file, "--update-budget")
    assert status == 0, said
    assert list(tmp_path.iterdir()) == [file]
    budget = json.loads(file.read_text())
    assert aot(*SMALL, "--check", "--budget", file)[0] == 0

    key, gone = list(budget["kernels"])[:2]
    row = budget["kernels"][key]["sm_90"]
    registers, shared, blocks, in_flight, instructions, narrowest, _ = row
    row[:] = registers - 8, shared - 1, blocks + 1, 2 * in_flight, instructions // 2, 32, "HGMMA"
    del budget["kernels"][gone], budget["launches"]["plain infer"]
    forward, backward = budget["launches"]["residual train"]
    budget["launches"]["residual train"] = [forward, backward - 1]
    file.write_text(json.dumps(budget))
    broke, found = aot(*SMALL, "--check", "--budget", file)
    file.write_text(json.dumps(budget | {"triton": "0.1"}))
    passed, told = aot(*SMALL, "--check", "--budget", file)
    assert (broke, passed) == (1, 0)
    for text in (
        f"sm_90 {key}: {registers} registers, budget {registers - 8}",
        f"sm_90 {key}: {shared} bytes of shared memory, budget {shared - 1}",
        f"sm_90 {key}: {blocks} blocks a multiprocessor, budget {blocks + 1}",
        f"sm_90 {key}: {in_flight} bytes under way a multiprocessor, budget {2 * in_flight}",
        f"sm_90 {key}: {instructions} instructions, budget {instructions // 2}",
        f"sm_90 {key}: accesses activations {narrowest} bytes at a time, budget 32",
        f"sm_90 {key}: matrix instructions none, budget HGMMA",
        f"sm_90 {gone}: not in the budget",
        f"residual train: launches {forward} + {backward}, budget {forward} + {backward - 1}",
        "plain infer: not in the budget",
        "10 findings",
    ):
        assert text in found and text in told
    assert "the budget belongs to Triton 0.1" in told
    assert "the budget belongs to" not in found


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--kernel", "apply_forwards"], "Did you mean 'apply_forward'?"),
        (["--case", "bf17"], "match no configuration"),
        (["--budget", "nowhere.json"], "write one with --update-budget"),
        (["--arch", "sm_9"], "Did you mean 'sm_90'?"),
        (["--check", "--update-budget"], "give only one"),
        (["--json", "nowhere/found.json"], "nowhere does not exist"),
        (["--chek"], "Did you mean '--check'?"),
    ],
)
def test_bad_options_are_refused(aot, options, words):
    status, said = aot(*options)
    assert status == 2 and words in said


def test_a_narrow_access_and_a_spill_are_found(compiler):
    """Without the alignment of the arguments; with too few registers."""
    case = "bf16 nhwc C128 plain train mask"
    aligned, unaligned = compiler(compiling.rules, "apply_forward", case, attributes={})
    case, few = "bf16 nhwc C128 projection mask", {"maxnreg": 32}
    roomy, squeezed = compiler(compiling.rules, "partial_gradients", case, options=few)
    assert aligned == roomy == []
    for name in ("main.x", "out"):
        assert f"accesses {name} 2 bytes at a time, where its channels allow 16" in unaligned
    assert len(squeezed) == 1 and squeezed[0].startswith("spills ")


def test_ptx_pointers_are_followed_through_loops_and_into_copies():
    text = """
    ld.param.b64 	%rd1, [f_param_0];
    ld.param.b64 	%rd2, [f_param_3];
    ld.param.b32 	%r9, [f_param_1];
    mad.wide.s32 	%rd3, %r9, 2, %rd1;
    mov.b64 	%rd5, %rd3;
$L1:
    @%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd5 + 0 ];
    ld.global.b64 	%rd9, [%rd5+8];
    add.s64 	%rd6, %rd5, 64;
    mov.b64 	%rd5, %rd6;
    cp.async.cg.shared.global [ %r59 + 0 ], [ %rd6 + 0 ], 0x10, %r60;
    add.s64 	%rd7, %rd2, %rd9;
    st.global.v2.b16 	[%rd7], {%rs1, %rs2};
    st.global.L1::evict_last.b8 [ %rd7 + 1 ], { %rs1 };
    atom.global.gpu.acq_rel.add.u32 	%r7, [%rd2], 1;
    mov.b64 	%rd10, f_param_4;
    mov.b64 	%rd11, f_param_5;
    selp.b64 	%rd12, %rd10, %rd11, %p3;
    ld.param.b64 	%rd13, [%rd12];
    ld.global.b16 	%rs1, [%rd13];
    """
    # Of the next to last, one of two arguments.
    accesses = [(0, 16), (0, 8), (0, 16), (3, 4), (3, 1), (3, 4), (4, 2), (5, 2)]
    assert list(code.global_accesses(text)) == accesses


def test_machine_code_is_counted():
    usage = " Function f:\n  REG:40 STACK:0 SHARED:1024 LOCAL:0 CONSTANT[0]:632\n"
    text = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P5 LDG.E.128 R44, desc[UR6][R6.64] ;
        /*0020*/              @!PT LDS RZ, [RZ] ;
        /*0030*/                   LDGSTS.E.BYPASS.128 [R50], desc[UR6][R2.64], P1 ;
        /*0040*/               @P1 LDG.E.U8 R80, desc[UR6][R32.64] ;
        /*0050*/                   STG.E.64 desc[UR6][R2.64], R4 ;
        /*0060*/                   STL [R1], R4 ;
        /*0070*/              @UP0 HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4], R24 ;
        /*0080*/                   NOP ;
    """
    found = code.count(usage, text, 90)
    expected = {
        **{"registers": 40, "static_shared": 0, "instructions": 8, "spilled": 4},
        **{"loads": {1: 1, 16: 2}, "stores": {8: 1}, "matrix": {"HGMMA": 1}},
    }
    assert found | expected == found
    assert code.count(usage, text, 80)["static_shared"] == 1024


def test_loads_under_way_are_counted():
    loop = """
        /*0000*/                   LDG.E.128 R4, desc[UR6][R2.64] ;
        /*0010*/                   FADD R4, R4, R5 ;
.L_x_0:
        /*0020*/                   DEPBAR.LE SB0, 0x1 ;
        /*0030*/                   LDGSTS.E.BYPASS.128 [R50], desc[UR6][R2.64], P1 ;
        /*0040*/                   LDGDEPBAR ;
        /*0050*/              @!P5 LDG.E.64 R8, desc[UR6][R6.64] ;
        /*0060*/                   LDG.E.U8 R10, desc[UR6][R6.64] ;
        /*0070*/                   FADD R4, R9, R5 ;
        /*0080*/                   LDG.E R12, desc[UR6][R10.64] ;
        /*0090*/               @P1 BRA `(.L_x_0) ;
    """
    # Two copies, what the last load of an iteration leaves behind, and two loads.
    assert code.bytes_in_flight(loop) == 2 * 16 + 4 + 8 + 1
    assert code.bytes_in_flight(loop.replace(".L_x_0:", "")) == 16 + 8 + 1
    assert code.bytes_in_flight(loop.replace("SB0, 0x1", "SB0, 0x0")) == 16 + 4 + 8 + 1


def test_bench_says_what_there_is(capsys):
    for words, answers in (([], BENCHMARKS), (["aott"], ["Did you mean 'aot'?"])):
        assert main(["bench", *words]) == 2
        said = capsys.readouterr().err
        assert all(answer in said for answer in answers)


def test_without_triton(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["bench", "aot"]) == 2
    assert "pip install triton" in capsys.readouterr().err


# What Triton's interpreter ran, compiled.


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The distinct launches of the tests of kernels."""
    file = tmp_path_factory.mktemp("recorded") / "launches.pickle"
    path = os.pathsep.join(
        filter(None, [str(ROOT / "tests/support"), os.environ.get("PYTHONPATH")])
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "compiling", "-p", "no:cacheprovider",
         "--hypothesis-seed=0", *TESTS],
        env=os.environ | dict(TRITON_INTERPRET="1", RECORDED_LAUNCHES=str(file), PYTHONPATH=path),
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    return pickle.loads(file.read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_what_the_interpreter_ran_compiles(compiler, recorded, arch):
    found = compiler(compiling.problems, recorded, arch)
    assert not found, "\n\n".join(found[:10])


@pytest.mark.slow
def test_cases_leave_out_whatever_the_tests_leave_out(recorded):
    """So that ``scotoma bench aot`` compiles every absence at least once."""

    def absent(launches):
        features = set().union(*(launch.features for launch in launches))
        return {(kernel, name) for kernel, name, kind, _ in features if kind is None}

    assert absent(recorded) - absent(launch for launch, _ in surveyed()[0]) == set()


def test_cases_leave_out_every_argument():
    """Each optional argument of each operator, and of a projection, is None in one call and given
    in another; each flag is on and off."""
    # apply_mask launches nothing without its only optional argument.
    operators = {o.__name__: o for o in (bn_mask_add_relu, conv_bn_mask_add_relu)}
    watched = {name: mock.Mock(wraps=operator) for name, operator in operators.items()}
    with mock.patch.multiple(cases, **watched):
        surveyed()
    seen = defaultdict(set)
    for name, operator in operators.items():
        for _, args, keywords in watched[name].mock_calls:
            bound = inspect.signature(operator).bind(*args, **keywords)
            bound.apply_defaults()
            places = [(name, operator, bound.arguments)]
            if projection := bound.arguments["projection"]:
                places.append(("projection", Projection, projection._asdict()))
            for place, source, values in places:
                for argument, kind in source.__annotations__.items():
                    kind = getattr(kind, "__forward_arg__", kind)
                    if kind == "bool" and argument in values:
                        seen[place, argument].add(values[argument])
                    elif kind in ("Tensor | None", "Projection | None"):
                        seen[place, argument].add(values[argument] is None)
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
def test_what_only_the_interpreter_accepts_is_found(compiler, tmp_path, monkeypatch):
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
        with record.noting(lambda new, to=launches: compiling.keep(new, to), interpret=True):
            call()
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

    wrong, right = (compiler(compiling.problems, found[n], 90, str(tmp_path)) for n in calls)
    assert len(found["wrong"]) == len(wrong) == 1
    assert len(found["right"]) == 2 and not right


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
        yield bn_mask_add_relu(x, *vectors, training=True, backend="triton")

    forward, rest = record.record(call)
    assert forward[-1].kernel == "apply_forward" and not rest
    with pytest.raises(ValueError, match="backend is 'triton'"):
        next(call())
