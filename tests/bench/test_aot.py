"""``scotoma bench aot``: the kernels keep to the rules and to the budget, and the checks can fail.

Kernels cannot be compiled where Triton's interpreter is on, so everything that compiles runs in a
process of its own.
"""

import ast
import json
import os
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
from scotoma.bench.aot.cases import all_cases
from scotoma.bench.cli import BENCHMARKS
from scotoma.train.cli import main

code = pytest.importorskip("scotoma.bench.aot.code")  # imports Triton

ROOT = Path(__file__).parents[2]
SMALL = ["--arch", "90", "--kernel", "merge_gradients", "--case", "nhwc no-weight no-bias"]


def run(*command):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, env=environment
    )


def aot(*options):
    return run("-m", "scotoma.bench.aot", *options)


def in_turn(*calls):
    """Exit status and output of several calls of the command in one process."""
    script = (
        "import json, sys; from scotoma.train.cli import main\n"
        "sys.stderr = sys.stdout\n"
        "for call in json.loads(sys.argv[1]):\n"
        "    print('status', main(['bench', 'aot', *call]))"
    )
    done = run("-c", script, json.dumps(calls))
    assert done.returncode == 0, done.stderr
    parts = re.split(r"^status (\d)\n", done.stdout, flags=re.MULTILINE)
    return [(int(status), text) for text, status in zip(parts[::2], parts[1::2], strict=False)]


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


def test_every_kernel_keeps_to_the_budget(tmp_path):
    """On sm_90, at the commonest shape. The slow test below has all configurations."""
    file = tmp_path / "found.json"
    done = aot(
        *("--check", "--json", file, "--arch", "90", "--cover"),
        *("--case", "bf16 nhwc C128 train mask", "--case", "bf16 nhwc C128 32x32"),
        *("--case", "bf16 C128-128 64x64x64s4"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
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
        assert row["in_flight"] > 0, row
        assert row["blocks"] >= 1, row


def test_other_architectures_keep_to_the_budget():
    done = aot(
        *("--check", "--cover", "--arch", "80", "--arch", "100"),
        *("--case", "bf16 nhwc C128 projection train mask no-weight no-bias"),
        *("--case", "bf16 nhwc C128 residual train mask"),
        *("--case", "bf16 C128-128 3x3 64x64x64s4 train"),
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_all_configurations_keep_to_the_budget():
    done = aot("--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_cases_have_names_of_their_own():
    names = [case.name for case in all_cases()]
    assert len(names) == len(set(names))


@pytest.fixture(scope="module")
def budget(tmp_path_factory):
    """A budget for ``SMALL`` with the installed version of Triton.

    Written although TRITON_INTERPRET is set: the command starts itself again without.
    """
    file = tmp_path_factory.mktemp("budget") / "budget.json"
    command = ["-m", "scotoma.bench.aot", *SMALL, "--budget", file, "--update-budget"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    return json.loads(file.read_text())


def test_budgets_hold_or_not(budget, tmp_path):
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

    calls = []
    for name, content in (("right", budget), ("tight", tight), ("foreign", foreign)):
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(content))
        calls.append([*SMALL, "--check", "--budget", str(file)])
    (held, good), (broke, found), (passed, told) = in_turn(*calls)
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


def test_what_matches_nothing_is_refused():
    statuses_and_texts = in_turn(
        ["--kernel", "apply_forwards"],
        ["--case", "bf17"],
        ["--budget", "nowhere.json"],
    )
    expected = (
        "Did you mean 'apply_forward'?",
        "match no configuration",
        "write one with --update-budget",
    )
    for (status, text), part in zip(statuses_and_texts, expected, strict=True):
        assert status == 2
        assert part in text


PLANT = """
import json
from scotoma.bench.aot import budget, code, command
launches = command.surveyed().launches
def rules(kernel, case, **changes):
    launch, case = command.select(launches, [kernel], [case])[0]
    broken = budget.broken_rules(code.measure(launch, 90, case))
    changed = launch._replace(**{name: f(getattr(launch, name)) for name, f in changes.items()})
    return broken, budget.broken_rules(code.measure(changed, 90, case))
unaligned = rules("apply_forward", "bf16 nhwc C128 plain train mask", attributes=lambda _: {})
squeezed = rules(
    "partial_gradients", "bf16 nhwc C128 projection mask", options=lambda o: {**o, "maxnreg": 32}
)
print(json.dumps([unaligned, squeezed]))
"""


def test_a_narrow_access_and_a_spill_are_found():
    """Without the alignment of the arguments; with too few registers."""
    done = run("-c", PLANT)
    assert done.returncode == 0, done.stderr
    (aligned, unaligned), (roomy, squeezed) = json.loads(done.stdout)
    assert aligned == roomy == []
    for name in ("main.x", "out"):
        assert f"accesses {name} 2 bytes at a time, where its channels allow 16" in unaligned
    assert len(squeezed) == 1
    assert squeezed[0].startswith("spills ")


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
    assert code.global_accesses(text) == [
        ("load", 0, 16),
        ("load", 0, 8),
        ("load", 0, 16),
        ("store", 3, 4),
        ("store", 3, 1),
        ("reduction", 3, 4),
        ("load", 4, 2),  # one of two arguments
        ("load", 5, 2),
    ]


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


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--arch", "sm_9"], "Did you mean 'sm_90'?"),
        (["--check", "--update-budget"], "give only one"),
        (["--json", "nowhere/found.json"], "nowhere does not exist"),
        (["--chek"], "Did you mean '--check'?"),
    ],
)
def test_bad_options_are_refused(capsys, options, text):
    assert text in refused(capsys, "aot", *options)


def test_without_triton(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install triton" in refused(capsys, "aot")
