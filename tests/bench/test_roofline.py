"""``scotoma bench roofline`` end to end on a CPU, and the figures that it holds times against."""

import re
from math import prod

import pytest
import torch
from matplotlib.figure import Figure
from scotoma.bench import harness
from scotoma.bench.layers.sites import Site
from scotoma.bench.roofline import ceilings, command, counts, row, table
from scotoma.bench.roofline.ceilings import Ceilings
from scotoma.bench.roofline.fused import FusedCase
from scotoma.bench.roofline.network import Convolution, Linear, network_layers
from scotoma.bench.roofline.norms import MaskCase, NormCase
from scotoma.bench.roofline.products import ConvolutionCase, LinearCase
from scotoma.bench.roofline.selection import OPERATORS, cases
from scotoma.defective import UserError
from torch.utils.flop_counter import FlopCounterMode

CPU = torch.device("cpu")
ROOFS = Ceilings(1e9, {"float32": 1e12, "bfloat16": 8e12})
CONVOLUTION = Convolution((2, 6, 9, 7), 10, kernel=3, stride=2, padding=1)


@pytest.fixture
def small_ceilings(monkeypatch):
    """The machine's roofs, measured on little."""
    monkeypatch.setitem(ceilings.SIZE, "cpu", 64)
    monkeypatch.setattr("scotoma.bench.harness.COPY_BYTES", {"cpu": 2**16})


@pytest.fixture
def drawn(monkeypatch):
    """The rows of each picture, which is empty."""
    calls = []
    monkeypatch.setattr(
        "scotoma.bench.report.plots.draw_roofline", lambda rows: calls.append(rows) or Figure()
    )
    return calls


def options(out, *more):
    return ["--cpu", "--repeats", "2", "--out", str(out), *more]


def test_command_leaves_rows_a_table_and_a_picture(tmp_path, capsys, small_ceilings, drawn):
    out = tmp_path / "new" / "roofline.jsonl"
    chosen = ["--operators", "linear", "bn_mask_add_relu", "convolution", "apply_mask"]
    assert command.main(options(out, *chosen)) == 0
    rows = list(harness.read_rows(out))
    assert {r["operator"] for r in rows} == set(chosen[1:])
    assert {r["backend"] for r in rows} == {"eager", "torch"}
    for r in rows:
        assert r["problems"] == [] and r["machine"]["kind"] == "cpu"
        assert r["arithmetic"] == r["dtype"] == "float32"
        assert max(r["errors"].values()) <= r["tolerance"]
        seconds = r["times"]["median_us"] * 1e-6
        copy = r["ceilings"]["copy_gb_per_s"] * 1e9
        matmul = r["ceilings"]["matmul_tflop_per_s"]["float32"] * 1e12
        roof = max(r["bytes"] / copy, r["flops"] / matmul)
        assert r["attained_percent"] == pytest.approx(100 * roof / seconds, rel=0.05, abs=0.01)
        assert r["gb_per_s"] == pytest.approx(r["bytes"] / seconds / 1e9, abs=6e-4)
    # A gradient is computed for what it is asked for, and nothing else.
    asked = {r["detail"].split(", ")[-1]: set(r["errors"]) for r in rows if r["pass"] == "backward"}
    assert asked["to the input"] == {"out", "x"}
    assert asked["to the weight"] == {"out", "weight"}
    assert drawn == [rows] and out.with_name("roofline.png").is_file()
    text = capsys.readouterr().out
    assert "TFLOP" not in text and re.search(r"float32 at [\d,]+\.\d GFLOP/s", text)
    assert "farthest below" in text and "4x16x8x8" in text and "roofline.png" in text
    # A second time only what is missing; the picture has all.
    out.unlink()
    harness.append_rows(out, [r for r in rows if r["operator"] != "apply_mask"])
    assert command.main(options(out, *chosen, "--resume", "--picture-format", "pdf")) == 0
    assert out.with_name("roofline.pdf").read_bytes().startswith(b"%PDF")
    assert not out.with_name("roofline.png").exists()
    again = list(harness.read_rows(out))
    assert sorted(r["case"] for r in again) == sorted(r["case"] for r in rows)
    assert again[-1]["operator"] == "apply_mask" and drawn[-1] == again


def test_fused_convolution_beside_the_separate_one():
    """In Triton's interpreter; the row of the fused one is that of its fastest tile."""
    if torch.cuda.is_available():
        pytest.skip("without a GPU kernels run on CPU tensors")
    case = FusedCase(Convolution((2, 8, 4, 4), 16, kernel=1, stride=1, padding=0), "residual")
    separate, fused = row.measure_case(case, row.Plan(torch.float32, CPU, 1, ROOFS))
    assert separate["problems"] == fused["problems"] == []
    assert (separate["backend"], fused["backend"]) == ("separate", "triton")
    assert separate["pass"] == fused["pass"] == "evaluation"
    assert separate["detail"] == fused["detail"] == "1x1 -> 16"
    assert separate["bytes"] == fused["bytes"]
    assert len(fused["tiles_us"]) == 3
    assert fused["times"]["median_us"] == min(fused["tiles_us"].values())
    assert fused["tiles_us"][fused["tile"]] == fused["times"]["median_us"]


def test_a_wrong_result_gets_no_time(tmp_path, monkeypatch, capsys, small_ceilings, drawn):
    right = ConvolutionCase.convolve

    def wrong_in_float32(self, x, weight, bias=None):
        out = right(self, x, weight, bias)
        return out if x.dtype == torch.float64 else 1.1 * out

    monkeypatch.setattr(ConvolutionCase, "convolve", wrong_in_float32)
    out = tmp_path / "roofline.jsonl"
    more = ["--operators", "apply_mask", "convolution", "--max-cases", "3"]
    assert command.main(options(out, *more)) == 1
    rows = list(harness.read_rows(out))
    bad = [r for r in rows if r["operator"] == "convolution"]
    assert len(bad) == 3 and len(rows) == 7
    for r in bad:
        assert r["times"] == {} and r["attained_percent"] is None
        assert any("out is wrong" in problem for problem in r["problems"])
    assert drawn[0] == [r for r in rows if r["operator"] == "apply_mask"]
    text = capsys.readouterr().out
    assert "failures:" in text and "convolution 2x3x16x16 3x3 -> 8" in text


def test_what_raises_is_a_problem_of_its_row():
    class Broken(ConvolutionCase):
        def convolve(self, x, weight, bias=None):
            if x.dtype == torch.float64:
                return super().convolve(x, weight, bias)
            raise RuntimeError("no such kernel")

    plan = row.Plan(torch.float32, CPU, 1, ROOFS)
    rows = row.measure_case(Broken(CONVOLUTION), plan)
    assert [r["problems"] for r in rows] == 3 * [["RuntimeError: no such kernel"]]
    assert table.by_distance(rows) == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--operators", "convoluton"], ["operators", "convoluton", "'convolution'"]),
        (["--backends", "tritn"], ["backends", "tritn", "'triton'"]),
        (["--backends", "separate", "--operators", "linear"], ["backends separate", "linear"]),
    ],
)
def test_bad_options(more, words, tmp_path):
    out = tmp_path / "rows.jsonl"
    with pytest.raises(UserError) as error:
        command.main(options(out, *more))
    assert all(word in str(error.value) for word in words)
    assert not out.exists()


def test_triton_needs_a_gpu_or_its_interpreter(monkeypatch, tmp_path):
    monkeypatch.setattr("scotoma.kernels.backends.interpreting", lambda: False)
    with pytest.raises(UserError, match="TRITON_INTERPRET"):
        command.main(options(tmp_path / "rows.jsonl", "--backends", "triton"))


def test_usual_backends():
    def out_of(device, *more):
        return command.left_out(command.parse(list(more)), torch.device(device))

    assert out_of("cuda") == ()
    assert out_of("cpu") == ("triton",)
    assert set(out_of("cuda", "--backends", "triton", "eager")) == {"separate", *command.LIBRARIES}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu_is_said():
    with pytest.raises(UserError, match="--cpu"):
        command.main([])


@pytest.mark.parametrize("flops", [100, 10_000, 100_000_000])
def test_attained_is_of_the_lower_roof(flops):
    """Attained operations a second over min(matrix ceiling, bandwidth * intensity)."""
    moved, seconds = 1000, 2e-5
    intensity = flops / moved
    roof = min(1e12, 1e9 * intensity)
    expected = 100 * flops / seconds / roof
    assert ROOFS.attained_percent(seconds, moved, flops, "float32") == pytest.approx(expected)
    assert (
        ROOFS.attained_percent(ROOFS.seconds(moved, flops, "bfloat16"), moved, flops, "bfloat16")
        == 100
    )


def test_the_table_begins_with_the_farthest_from_its_roof(capsys):
    def one(name, percent, flops, kind="cuda"):
        return {
            "operator": name, "kind": "", "pass": "forward", "backend": "cudnn", "detail": "",
            "shape": [1, 2, 3, 4], "bytes": 1000, "flops": flops, "arithmetic": "float32",
            "ceilings": ROOFS.as_row(), "times": {"median_us": 10.0}, "gb_per_s": 1.0,
            "tflop_per_s": 1.0, "attained_percent": percent, "problems": [],
            "machine": {"kind": kind},
        }  # fmt: skip

    rows = [one("near", 90.0, 10), one("far", 5.0, 10**8), one("failed", None, 1)]
    assert [r["operator"] for r in table.by_distance(rows)] == ["far", "near"]
    assert [table.roof_of(r) for r in rows[:2]] == ["memory", "float32"]
    for shown, kind, head, number in (
        (rows, "cuda", "TFLOP/s", "1.00"),
        ([one("slow", 1.0, 10, "cpu")], "cpu", "GFLOP/s", "1,000.00"),
    ):
        columns = {c.header: list(c.cells) for c in table.table(shown).columns}
        assert columns[head][0] == number, kind
        assert len(columns[head]) == sum(r["operator"] != "failed" for r in shown)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
def test_flops_and_bytes_of_convolutions(kernel, stride):
    layer = Convolution((2, 6, 9, 7), 10, kernel, stride, padding=kernel // 2)
    case = ConvolutionCase(layer)
    call = case.draw(torch.float32, CPU)
    for step in case.passes(4):
        x, weight = (t.detach().requires_grad_() for t in call.operands[:2])
        with FlopCounterMode(display=False) as counter:
            out = case.convolve(x, weight)
            forward = counter.get_total_flops()
            if step.name == "backward":
                wanted = {"x": x, "weight": weight}[step.wanted[0]]
                torch.autograd.grad(out, wanted, call.grad_out)
        counted = counter.get_total_flops() - (forward if step.name == "backward" else 0)
        assert step.flops == counted
        assert tuple(out.shape) == layer.out_shape
        assert step.moved == x.nbytes + weight.nbytes + out.nbytes


def test_flops_and_bytes_of_linear_layers():
    case = LinearCase(Linear(5, 7, 3))
    x, weight, bias = case.draw(torch.float32, CPU).operands
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.linear(x, weight, bias)
    steps = case.passes(2)
    assert {step.flops for step in steps} == {counter.get_total_flops()}
    assert {step.moved for step in steps} == {2 * (5 * 7 + 7 * 3 + 5 * 3)}


@pytest.mark.parametrize(
    ("kind", "mode", "forward", "backward"),
    [
        # statistics 4; sub, multiply-add, mask, ReLU | twice: compute again 4, compare, select,
        # mask; sums 4; terms 4, scale
        ("none", "training", 9, 23),
        # ... and the addition | a bit selects instead
        ("residual", "training", 10, 13),
        ("none", "evaluation", 5, 8),
        ("projection", "evaluation", 10, 15),
    ],
)
def test_flops_around_batch_norm(kind, mode, forward, backward):
    site = Site(kind, (4, 16, 3, 5), mode=mode)
    found = counts.norm_flops(site)
    assert found == {"forward": forward * site.elements, "backward": backward * site.elements}


def test_bytes_of_fused_operators():
    """One bfloat16 read or written is two bytes; a mask that the batch shares is not counted."""
    site = Site("residual", (4, 16, 3, 5))
    forward, backward = NormCase(site).passes(2)
    assert (forward.moved, backward.moved) == (8.125 * site.elements, 12.25 * site.elements)
    assert {step.moved for step in MaskCase(site.shape).passes(2)} == {4 * site.elements}
    for kind, outputs in (("none", 1), ("residual", 2)):
        (step,) = FusedCase(CONVOLUTION, kind).passes(2)
        out = prod(CONVOLUTION.out_shape)
        assert step.moved == 2 * (2 * 6 * 9 * 7 + 10 * 6 * 3 * 3 + outputs * out)
        after = {"none": 5, "residual": 6}[kind]
        assert step.flops == 2 * out * 6 * 9 + after * out


@pytest.mark.parametrize("name", list(OPERATORS))
def test_every_case_can_be_measured(name):
    """In half precision, where dtypes differ; the first and the last case of each operator."""
    found = cases([name], small=True)
    plan = row.Plan(torch.bfloat16, CPU, 1, ROOFS, without=("triton",))
    for case in (found[0], found[-1]):
        rows = row.measure_case(case, plan)
        assert rows and all(r["problems"] == [] and r["times"] for r in rows)
        assert all(r["bytes"] > 0 and r["flops"] > 0 for r in rows)


def test_layers_are_those_of_the_networks():
    convolutions, linears = network_layers(["resnet18", "resnet50"], batch=7, image_size=32)
    assert len(set(convolutions)) == len(convolutions)
    found = {(c.shape[1:], c.out_channels, c.kernel, c.stride): c for c in convolutions}
    assert all(c.shape[0] == 7 for c in convolutions)
    assert found[(64, 32, 32), 64, 3, 1].users == "resnet18 x4, resnet50 x3"
    assert found[(64, 32, 32), 128, 1, 2].users == "resnet18 x1"
    assert found[(1024, 8, 8), 256, 1, 1].users == "resnet50 x5"
    assert {(n.batch, n.in_features, n.out_features) for n in linears} == {
        (7, 512, 10),
        (7, 2048, 10),
    }


def test_problems_of_every_tile_are_kept():
    def one(tile, median, problems=()):
        times = {"median_us": median} if median else {}
        return {"backend": "triton", "tile": tile, "times": times, "problems": list(problems)}

    other = {"backend": "separate", "tile": "", "times": {}, "problems": []}
    merged = row.fastest([other, one("a", 3.0), one("b", 2.0), one("c", None, ["out is wrong"])])
    assert merged[0] is other
    assert (merged[1]["tile"], merged[1]["times"]) == ("b", {"median_us": 2.0})
    assert merged[1]["tiles_us"] == {"a": 3.0, "b": 2.0, "c": None}
    assert merged[1]["problems"] == ["tile c: out is wrong"]


def test_matmul_ceilings_restore_the_precision(small_ceilings):
    torch.set_float32_matmul_precision("high")
    try:
        roofs = ceilings.measure(CPU, torch.bfloat16)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(roofs.matmul) == {"bfloat16", "float32"}
    assert roofs.copy > 0 and min(roofs.matmul.values()) > 0


@pytest.mark.gpu
def test_command_on_a_gpu(tmp_path, drawn):
    """Every operator's first case, under graph replay, by all backends."""
    rows = []
    for name in OPERATORS:
        out = tmp_path / name / "roofline.jsonl"
        more = ["--operators", name, "--max-cases", "1", "--repeats", "2", "--out", str(out)]
        assert command.main(more) == 0
        rows += harness.read_rows(out)
    assert {r["backend"] for r in rows} == {"triton", "eager", "separate", "cudnn", "cublas"}
    assert all(r["times"] and r["settings"]["clock"] == "graph" for r in rows)
