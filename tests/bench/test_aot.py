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
from copy import deepcopy
from pathlib import Path
from unittest import mock

import pytest
import torch
from recorded_launches import keep
from scotoma.bench import harness
from scotoma.bench.aot import cases
from scotoma.bench.aot.cli import ARCHS, surveyed
from scotoma.bench.cli import BENCHMARKS
from scotoma.kernels import Projection, backends, bn_mask_add_relu, conv_bn_mask_add_relu
from scotoma.train.cli import main

code = pytest.importorskip("scotoma.bench.aot.code")  # imports Triton
record = pytest.importorskip("scotoma.bench.aot.record")

ROOT, SUPPORT = Path(__file__).parents[2], Path(__file__).parents[1] / "support"
TESTS = ("tests/kernels", "tests/defective/test_fused_models.py")
SMALL = ["--arch", "90", "--kernel", "merge_gradients", "--case", "nhwc no-weight no-bias"]
EACH = ["--arch", "90", "--cover"]
# Each kernel, and each argument that may be absent, absent and given.
FEW = [
    "bf16 C36-12 train",
    "bf16 C128-128 3x3 128x64x64s3 infer",
    "fp32 C128-128 128x64x64s3 infer",
    "bf16 nhwc C128 16x16 plain train mask",
    "bf16 nhwc C128 plain train no-mask",
    "bf16 nhwc C128 residual train mask no-gradient",
    "bf16 nhwc C128 projection train mask no-relu",
    "bf16 nhwc C128 32x32",
]
OTHERS = ["--arch", "80", "--arch", "100", "--kernel", "apply_backward", "--kernel", "convolve"]

needs_interpreter = pytest.mark.skipif(
    not backends.interpreting(), reason="needs TRITON_INTERPRET=1, as on a CPU"
)

COMPILER = """
import contextlib, functools, io, json, sys
import recorded_launches
from scotoma.bench.aot import budget, cli, code
from scotoma.train.cli import main

cli.surveyed = functools.cache(cli.surveyed)
measure, measured = code.measure, {}

def measured_once(launch, arch, case):
    key = launch.identity, arch, case
    if key not in measured:
        measured[key] = measure(launch, arch, case)
    return measured[key]

code.measure = measured_once

def aot(*options):
    return main(["bench", "aot", *options])

def rules(kernel, case, **changes):
    '''The rules that a launch breaks, and those that it breaks with other attributes.'''
    launch, case = cli.select(cli.surveyed()[0], [kernel], [case])[0]
    changes = {n: getattr(launch, n) | value if value else {} for n, value in changes.items()}
    changed = launch._replace(**changes)
    return [budget.broken_rules(code.measure(each, 90, case)) for each in (launch, changed)]

def recorded(file, arch, *path):
    sys.path[:0] = path
    return recorded_launches.main(file, arch)

for line in sys.stdin:
    name, arguments, keywords = json.loads(line)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        result = globals()[name](*arguments, **keywords)
    print(json.dumps([result, said.getvalue()]), flush=True)
"""


def python(*words, **variables):
    """A process of its own, without Triton's interpreter unless asked for."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | variables
    places = [SUPPORT, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(map(str, places))
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    )


@pytest.fixture(scope="module")
def compiler():
    """compiler(function of ``COMPILER``, arguments) -> (what it returns, what it prints)."""
    process = python("-c", COMPILER)

    def call(name, *arguments, **keywords):
        process.stdin.write(json.dumps([name, list(map(str, arguments)), keywords]) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        assert answer, process.stderr.read()
        return json.loads(answer)

    yield call
    process.communicate()


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
    "options",
    [
        [*EACH, *(word for case in FEW for word in ("--case", case))],
        pytest.param(EACH, marks=pytest.mark.slow, id="every value of every argument"),
    ],
)
def test_kernels_keep_to_the_budget(compiler, tmp_path, options):
    file = tmp_path / "found.json"
    status, said = compiler("aot", "--check", "--json", file, *options)
    assert status == 0, said
    found = json.loads(file.read_text())["kernels"]
    assert {row["kernel"] for row in found} == kernels_in_the_source()
    for row in found:
        # What PTX says of the widths, argument by argument, is what the machine code has.
        in_code = {int(w) for part in ("loads", "stores") for w in row["code"][part]}
        assert in_code == {w for widths in row["widths"].values() for w in widths}, row
        if row["kernel"] not in ("merge_statistics", "merge_gradients"):
            assert row["wanted"], row
        for name, wanted in row["wanted"].items():
            assert min(row["widths"].get(name, [wanted])) >= wanted, row
        assert row["in_flight"] > 0 and row["blocks"] >= 1, row


@pytest.mark.parametrize(
    "options",
    [
        [*OTHERS, "--case", "bf16 C36-12 train"],
        pytest.param([], marks=pytest.mark.slow, id="all configurations"),
    ],
)
def test_other_architectures_keep_to_the_budget(compiler, options):
    status, said = compiler("aot", "--check", *options)
    assert status == 0, said


def test_cases_have_names_of_their_own():
    names = [case.name for case in cases.all_cases()]
    assert len(names) == len(set(names))


@pytest.fixture(scope="module")
def budget(compiler, tmp_path_factory):
    """A budget for ``SMALL`` with the installed version of Triton."""
    file = tmp_path_factory.mktemp("budget") / "budget.json"
    status, said = compiler("aot", *SMALL, "--budget", file, "--update-budget")
    assert status == 0, said
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    return json.loads(file.read_text())


def test_the_command_starts_itself_again_without_the_interpreter(monkeypatch):
    """As ``bench overhead``, whose test has a true process."""
    ran = {}
    monkeypatch.setattr(
        harness.subprocess,
        "run",
        lambda words, env: ran.update(env, words=words) or mock.Mock(returncode=5),
    )
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert main(["bench", "aot", "--check"]) == 5
    assert ran["words"][1:] == ["-m", "scotoma.train.cli", "bench", "aot", "--check"]
    assert "TRITON_INTERPRET" not in ran


def test_budgets_hold_or_not(compiler, budget, tmp_path):
    key, gone = list(budget["kernels"])[:2]
    row = budget["kernels"][key]["sm_90"]
    registers, shared, blocks, in_flight, instructions, narrowest, matrix = row
    assert matrix == ""
    tight = deepcopy(budget)
    tight["kernels"][key]["sm_90"] = [
        registers - 8, shared - 1, blocks + 1, 2 * in_flight, instructions // 2, 32, "HGMMA"
    ]  # fmt: skip
    del tight["kernels"][gone]
    forward, backward = budget["launches"]["residual train"]
    tight["launches"]["residual train"] = [forward, backward - 1]
    del tight["launches"]["plain infer"]
    foreign = deepcopy(tight) | {"triton": "0.1"}

    answers = []
    for name, content in (("right", budget), ("tight", tight), ("foreign", foreign)):
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(content))
        answers.append(compiler("aot", *SMALL, "--check", "--budget", file))
    (held, good), (broke, found), (passed, told) = answers
    assert (held, broke, passed) == (0, 1, 0)
    assert "within the budget" in good
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
        assert text in found
        assert text in told
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
def test_bad_options_are_refused(compiler, options, words):
    status, said = compiler("aot", *options)
    assert status == 2 and words in said


def test_a_narrow_access_and_a_spill_are_found(compiler):
    """Without the alignment of the arguments; with too few registers."""
    case = "bf16 nhwc C128 plain train mask"
    (aligned, unaligned), _ = compiler("rules", "apply_forward", case, attributes=None)
    case, few = "bf16 nhwc C128 projection mask", {"maxnreg": 32}
    (roomy, squeezed), _ = compiler("rules", "partial_gradients", case, options=few)
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
    assert (found.registers, found.static_shared, found.instructions) == (40, 0, 8)
    assert (found.loads, found.stores) == ({1: 1, 16: 2}, {8: 1})
    assert found.matrix == {"HGMMA": 1}
    assert found.spilled == 4
    assert code.count(usage, text, 80).static_shared == 1024


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


def refused(capsys, *argv):
    assert main(["bench", *argv]) == 2
    return capsys.readouterr().err.strip()


def test_bench_says_what_there_is(capsys):
    assert all(name in refused(capsys) for name in BENCHMARKS)
    assert "Did you mean 'aot'?" in refused(capsys, "aott")


def test_without_triton(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install triton" in refused(capsys, "aot")


# What Triton's interpreter ran, compiled.


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The distinct launches of the tests of kernels, in a file."""
    file = tmp_path_factory.mktemp("recorded") / "launches.pickle"
    words = "-m", "pytest", "-p", "recorded_launches", "-p", "no:cacheprovider"
    done = python(
        *(*words, "--hypothesis-seed=0", *TESTS), TRITON_INTERPRET="1", RECORDED_LAUNCHES=str(file)
    )
    said, error = done.communicate()
    assert done.returncode == 0, said[-5000:] + error
    return file


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_what_the_interpreter_ran_compiles(compiler, recorded, arch):
    failed, said = compiler("recorded", recorded, arch)
    assert not failed, said


@pytest.mark.slow
def test_cases_leave_out_whatever_the_tests_leave_out(recorded):
    """So that ``scotoma bench aot`` compiles every absence at least once."""

    def absent(launches):
        features = set().union(*(launch.features for launch in launches))
        return {(kernel, name) for kernel, name, kind, _ in features if kind is None}

    in_tests = absent(pickle.loads(recorded.read_bytes()))
    assert in_tests - absent(launch for launch, _ in surveyed()[0]) == set()


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

    wrong, right = (compiler("recorded", tmp_path / name, 90, tmp_path) for name in calls)
    assert wrong[0] and "1 of 1 do not compile" in wrong[1]
    assert not right[0] and "0 of 2 do not compile" in right[1]


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
