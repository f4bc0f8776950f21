"""``scotoma profile``: traces read, time by family, and the command end to end on a CPU."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from report_rows import PART, profile
from scotoma.bench.harness import read_rows
from scotoma.bench.profiling import cli, families, report
from scotoma.bench.profiling.families import OURS, RULES, classify, rule_for
from scotoma.bench.profiling.report import Profiled
from scotoma.bench.profiling.trace import UnreadableTrace, own_times, read, shares, summarise
from scotoma.bench.report.plots import draw_families
from scotoma.bench.report.rows import prepared
from scotoma.defective import UserError
from scotoma.kernels import backends, launch

CONV, NORM, LOSS, SGDS = "convolution", "BN and epilogue", "loss and metrics", "optimiser"
PRODUCT, DATA, CASTS, MEMSET, OTHER = "matrix products", "data", "casts", "memset", "other"
FPROP = "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc"
MUL = "void at::native::vectorized_elementwise_kernel<4, at::native::MulFunctor<float> >"
SUM = "void at::native::reduce_kernel<512, 1, at::native::sum_functor<float> >"


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9), st.sampled_from("abc"))))
def test_shares_of_overlapping_time_add_up_to_the_union(drawn):
    pieces = [(start, start + length, label) for start, length, label in drawn]
    points = {t for start, end, _ in pieces for t in range(start, end)}
    assert sum(shares(pieces).values()) == pytest.approx(len(points))
    assert shares([(0, 10, "a"), (6, 12, "b")]) == {"a": 8, "b": 4}


class Recorded:
    """A trace as Kineto writes it: host ranges, launches, and what they launched."""

    def __init__(self):
        self.events = [{"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {}}]

    def add(self, cat, name, start, length, tid=1, **args):
        event = {"ph": "X", "cat": cat, "name": name, "pid": 1, "tid": tid}
        self.events.append(event | {"ts": start, "dur": length, "args": args})

    def step(self, number, at):
        self.add("user_annotation", f"ProfilerStep#{number}", at, 60)

    def launch(self, at, start, length, name, cat="kernel", stream=7, by="cudaLaunchKernel", tid=1):
        key = len(self.events)
        self.add(
            "cuda_runtime" if "Kernel" in by else "cuda_driver", by, at, 2, tid, correlation=key
        )
        self.on_device(key, start, length, name, cat, stream)

    def on_device(self, correlation, start, length, name, cat="kernel", stream=7):
        self.add(cat, name, start, length, stream, correlation=correlation, stream=stream)


@pytest.fixture
def recorded():
    """Steps of 100 us on the device, launched 30 us ahead; the first takes longer.

    Busy 70 us of 100: 20 conv, 20 mask (10 of it beside a copy), 10 copy, 10 ours, 10 fill.
    """
    trace = Recorded()
    for number in range(5):
        host, at = (570 + 100 * number if number else 0), (600 + 100 * number if number else 500)
        trace.step(4 + number, host)
        trace.add("gpu_user_annotation", f"ProfilerStep#{4 + number}", at, 90, tid=7)
        trace.add("cpu_op", "aten::conv2d", host + 1, 10)
        trace.add("cpu_op", "aten::cudnn_convolution", host + 2, 8)
        trace.launch(host + 3, at, 20, FPROP)
        trace.add("cpu_op", "aten::mul", host + 12, 6)
        trace.launch(host + 13, at + 20, 20, MUL)
        trace.launch(host + 19, at + 30, 20, "Memcpy HtoD (Pinned -> Device)", "gpu_memcpy", 13)
        trace.launch(host + 25, at + 60, 10, "apply_forward", by="cuLaunchEx")
        trace.launch(host + 30, at + 80, 10, "Memset (Device)", "gpu_memset")
    return trace


def test_steady_steps_of_a_device(recorded):
    trace = read(recorded.events, on_device=True)
    assert trace.starts == [700, 800, 900, 1000]
    assert Profiled({}, trace).window == (700, 800)
    assert len(trace.spans) == 15 and {span.stream for span in trace.spans} == {7, 13}
    assert len(trace.calls) == 15
    found = summarise(trace, step_ms=0.0875)
    assert found["busy_ms"] == pytest.approx(0.070)
    assert found["busy_percent"] == 80 and found["busy_percent_profiled"] == 70
    assert found["profiled_step_ms"] == pytest.approx(0.1)
    assert found["host_launches"] == 5
    # All are launched 27 us before the first begins.
    assert found["host_wait_ms"] == 0
    times = {name: entry["ms"] for name, entry in found["families"].items()}
    assert times == {
        CONV: 0.02,
        NORM: 0.025,  # 10 alone, 10 shared with the copy, 10 of ours
        DATA: 0.015,
        MEMSET: 0.01,
        OTHER: 0,
        "gaps": 0.0175,
    }
    assert sum(entry["percent"] for entry in found["families"].values()) == pytest.approx(100)
    launches = {name: entry["launches"] for name, entry in found["families"].items()}
    assert launches == {CONV: 1, NORM: 2, DATA: 1, MEMSET: 1, OTHER: 0, "gaps": 0}
    assert {entry["ms"] for entry in found["top"]} == {0.02, 0.01}


def test_waiting_and_pauses(recorded):
    # Kernels of the profile may take longer than a step without it.
    found = summarise(read(recorded.events, True), step_ms=0.06)
    assert found["busy_percent"] == 100 and found["families"]["gaps"]["ms"] == 0
    assert sum(entry["percent"] for entry in found["families"].values()) == pytest.approx(100)
    # One kernel is launched when the device has been idle for 4 us; the others long before.
    recorded.launch(at=774, start=775, length=3, name="late")
    found = summarise(read(recorded.events, True), step_ms=0.0875)
    assert found["host_wait_ms"] == pytest.approx((775 - 770) / 1e3 / 3, abs=1e-5)


def test_kernels_of_a_graph_are_judged_by_their_names():
    """What surrounds the replay does not count, and one launch runs many kernels."""
    trace = Recorded()
    for number in range(5):
        at = 100.0 * number
        trace.step(number, at)
        trace.add("cpu_op", "aten::convolution_backward", at + 1, 50)
        trace.add("cuda_runtime", "cudaGraphLaunch", at + 5, 9, correlation=number)
        trace.on_device(number, at + 20, 10, MUL)
        trace.on_device(number, at + 30, 30, "partial_gradients")
        trace.on_device(number, at + 60, 5, SUM)
    found = read(trace.events, on_device=True)
    assert found.steps == 3
    assert [span.family for span in found.spans[:3]] == [NORM, NORM, OTHER]
    row = summarise(found, step_ms=0.1, units=1)
    assert row["host_launches"] == 1 and row["families"][NORM]["launches"] == 2
    assert [entry["name"] for entry in row["top_other"]] == [SUM]


def test_operators_of_another_thread_launch_too(recorded):
    """Backward has a thread of its own on a GPU; the forward's ranges are not around it."""
    recorded.add("cpu_op", "aten::mul", 770, 20)
    recorded.add("cpu_op", "autograd::engine::evaluate_function: ReluBackward0", 771, 9, tid=2)
    recorded.launch(772, 850, 4, "unknown", tid=2)
    recorded.launch(782, 855, 4, "unknown", tid=2)  # after it
    spans = read(recorded.events, on_device=True).spans
    assert [span.family for span in spans if span.name == "unknown"] == [NORM, OTHER]


def test_a_trace_without_kernels_is_refused():
    trace = Recorded()
    with pytest.raises(UnreadableTrace, match="0 steps"):
        read(trace.events, on_device=True)
    for number in range(5):
        trace.step(number, 100.0 * number)
    assert read(trace.events, on_device=False).starts == [100, 200, 300, 400]
    with pytest.raises(UnreadableTrace, match="nothing on the device"):
        read(trace.events, on_device=True)


def test_own_time_leaves_out_what_is_inside():
    ranges = [
        {"name": "outer", "ts": 0.0, "dur": 10.0},
        {"name": "inner", "ts": 2.0, "dur": 3.0},
        {"name": "inner", "ts": 5.0, "dur": 1.0},
        {"name": "next", "ts": 12.0, "dur": 1.0},
    ]
    parts = [(names[-1], start, end, first) for names, start, end, first in own_times(ranges)]
    assert parts == [
        ("outer", 0, 2, True),
        ("inner", 2, 5, True),
        ("inner", 5, 6, True),
        ("outer", 6, 10, False),
        ("next", 12, 13, True),
    ]


def _row(name, step_ms, epilogue, busy=100.0, **values):
    entries = {CONV: 1.0, NORM: epilogue, "gaps": max(0.0, step_ms - 1 - epilogue)}
    return profile(
        name,
        step_ms=step_ms,
        profiled_step_ms=step_ms,
        busy_percent=busy,
        busy_ms=step_ms * busy / 100,
        host_wait_ms=0.9 * step_ms * (1 - busy / 100),
        families={f: PART | {"ms": ms} for f, ms in entries.items()},
        **{"work": "train"} | values,
    )


def test_sentences_say_what_differs_and_who_waits():
    rows = [_row("fused", 2.0, 0.4, busy=70.0), _row("eager", 3.0, 2.0), _row("compile", 2.5, 1.5)]
    difference, waiting = report.sentences(rows)
    assert "fused against eager" in difference and f"{NORM}, 1.600 ms less" in difference
    assert "1.000 ms shorter" in difference
    assert "fused" in waiting and "70 %" in waiting and "--cuda-graph" in waiting
    assert "waits for the host" in waiting
    # There is one already; and it is an option of training.
    for name, work in (("fused-graph", "train"), ("fused", "evaluate")):
        (line,) = report.sentences([_row(name, 2.0, 0.4, busy=90.0, work=work)])
        assert "90 %" in line and "--cuda-graph" not in line


def test_pictures_of_a_device(recorded):
    """A family has one colour, in this picture and on the page."""
    trace = read(recorded.events, on_device=True)
    row = {"contestant": "eager", "step_ms": 0.0875, **summarise(trace, 0.0875)}
    figure = report.draw([Profiled(row, trace)], "title")
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()][-1] == "host launches"
    # Of ten steps in a run one is shown, from the middle.
    assert Profiled(row, trace, 10).window == pytest.approx((750, 760))
    one = prepared(profile("eager", families={CONV: PART, DATA: PART, "?": PART}))
    here, there = (
        {
            text.get_text(): to_hex(patch.get_facecolor())
            for text, patch in zip(legend.get_texts(), legend.get_patches(), strict=True)
        }
        for drawn in (figure, draw_families([one]))
        for legend in drawn.legends
    )
    assert here[CONV] == there[CONV] != there["?"] and here[DATA] == there[DATA]


SMALL = ["resnet18", "--cpu", "--width", "4", "--batch", "8", "--steps", "2"]


def test_command_on_a_cpu(tmp_path, capsys, monkeypatch):
    """One of two fails, and the other goes on."""

    class Failing(cli.NetworkRun):
        def run(self):
            if self.name == "contiguous":
                raise RuntimeError("out of luck")
            return super().run()

    monkeypatch.setattr(cli, "NetworkRun", Failing)
    out = tmp_path / "new"
    options = ["--variants", "contiguous", "eager", "--out", str(out), "--picture-format", "svg"]
    assert cli.main([*SMALL, *options]) == 1
    failed, row = read_rows(out / "profile.jsonl")
    assert failed["problems"] == ["RuntimeError: out of luck"]
    assert failed["families"] == {} and failed["trace"] is None
    assert row["contestant"] == "eager" and row["problems"] == []
    assert row["machine"]["kind"] == "cpu" and row["steps"] == 2 and row["step_ms"] > 0
    assert row["busy_percent"] is None and row["clocks"] is None
    found = row["families"]
    assert list(found) == [name for name in families.FAMILIES if name in found]
    assert sum(entry["percent"] for entry in found.values()) == pytest.approx(100, abs=0.2)
    total = sum(entry["ms"] for entry in found.values())
    assert total == pytest.approx(row["profiled_step_ms"], rel=0.01)
    for name in (CONV, NORM, PRODUCT, LOSS, SGDS, DATA):
        assert found[name]["ms"] > 0, name
    # By calls, as the time of any of them is long once the process is interrupted in it.
    assert found[OTHER]["launches"] < 0.05 * sum(entry["launches"] for entry in found.values())
    # 20 convolutions and batch norms, masks on the bottom half's, forward and backward.
    calls = {entry["name"]: entry["launches"] for entry in row["top"]}
    assert calls["aten::native_batch_norm"] == 20
    with gzip.open(out / row["trace"], "rt") as file:
        assert any(e["name"] == "aten::conv2d" for e in json.load(file)["traceEvents"])
    assert (out / "timeline.svg").stat().st_size > 10_000
    text = capsys.readouterr().out
    assert "BN and epilogue" in text and "no rule knows:" in text and "eager.trace.json.gz" in text
    assert "failures:" in text


@pytest.mark.slow
def test_pgd_counts_steps_of_the_attack(tmp_path):
    options = [*SMALL, "--work", "pgd", "--dtype", "bfloat16", "--out", str(tmp_path)]
    assert cli.main(options) == 0
    (row,) = read_rows(tmp_path / "profile.jsonl")
    assert row["steps"] == 10 and row["work"] == "pgd" and row["dtype"] == "bfloat16"
    # The images' gradient is handed over as a parameter's would be.
    assert row["families"][SGDS]["percent"] < 1 and row["families"][CASTS]["ms"] > 0
    calls = {entry["name"]: entry["launches"] for entry in row["top"]}
    assert calls["aten::native_batch_norm"] == 20


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["resnet19", "--cpu"], ["ARCH", "resnet19", "resnet18"]),
        ([*SMALL, "--contestants", "egaer"], ["variants", "egaer", "eager"]),
        ([*SMALL, "--contestants", "eager-graph"], ["eager-graph", "GPU"]),
        ([*SMALL, "--work", "sleep"], ["work", "sleep", "train"]),
        ([*SMALL, "--defects", "0.3-Sideways"], ["Sideways"]),
        (["resnet18", "--cpu", "--steps", "0"], ["steps", "0"]),
        (["resnet18", "--cpu", "--batch", "-1"], ["batch", "-1"]),
    ],
)
def test_bad_options(options, words, tmp_path):
    with pytest.raises(UserError) as error:
        cli.main([*options, "--out", str(tmp_path / "none")])
    assert all(word in str(error.value) for word in words)
    assert not (tmp_path / "none").exists()


def test_a_place_that_cannot_be_written_is_said_first(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cli, "profile_all", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(UserError, match=r"--out .*cannot be written"):
        cli.main([*SMALL, "--out", str(tmp_path / "file" / "folder")])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu_is_said():
    with pytest.raises(UserError, match="--cpu"):
        cli.main(["resnet18"])


@pytest.mark.gpu
def test_command_on_a_gpu(tmp_path):
    names = ["--variants", "eager", "fused", "fused-graph"]
    assert cli.main(["resnet18", "--steps", "5", *names, "--out", str(tmp_path)]) == 0
    rows = {row["contestant"]: row for row in read_rows(tmp_path / "profile.jsonl")}
    assert list(rows) == ["eager", "fused", "fused-graph"]
    for row in rows.values():
        assert 0 < row["busy_percent"] <= 100
        assert row["families"][OTHER]["percent"] < 5, row["top_other"]
        assert row["families"][CONV]["launches"] >= 60
    assert rows["fused-graph"]["host_launches"] < rows["fused"]["host_launches"] / 10
    fused, eager = (rows[name]["families"][NORM] for name in ("fused", "eager"))
    assert fused["launches"] < eager["launches"]


def test_families_of_names():
    """``kernel_families.json``: family, a kernel's name as profiles have it, operators around."""
    path = Path(__file__).parents[1] / "support/kernel_families.json"
    examples = [
        (family, kernel, tuple(ops)) for family, kernel, ops in json.loads(path.read_text())
    ]
    assert [one for one in examples if classify(*one[1:]) != one[0]] == []
    # No rule is hidden behind an earlier one, or never fits.
    used = [rule_for(kernel, families.BETWEEN.join(ops)) for _, kernel, ops in examples]
    assert [rule for rule in RULES if rule not in used] == []


@pytest.mark.skipif(not backends.interpreting() and not torch.cuda.is_available(), reason="Triton")
def test_our_kernels_are_known():
    assert {*OURS, families.CONVOLVE} == set(vars(launch.device_kernels()))
