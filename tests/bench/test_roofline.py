"""``scotoma bench roofline`` end to end on a CPU, and the figures that it holds times against."""

import re
from dataclasses import replace
from math import prod

import pytest
import torch
from matplotlib.figure import Figure
from scotoma.bench import roofline
from scotoma.bench.harness import append_rows, read_rows
from scotoma.bench.operands import OpShape
from scotoma.bench.operators import (
    OPERATORS,
    Layer,
    Variant,
    cases,
    fused_case,
    layer_case,
    mask_case,
    network_layers,
    norm_case,
    norm_flops,
)
from scotoma.bench.roofline import measure_case, roofs
from torch.utils.flop_counter import FlopCounterMode

CPU = torch.device("cpu")
ROOFS = {"copy_gb_per_s": 1.0, "matmul_tflop_per_s": {"float32": 1.0, "bfloat16": 8.0}}
FLOAT32 = torch.float32, CPU
CONVOLUTION = Layer((2, 6, 9, 7), 10, kernel=3, stride=2, padding=1)


@pytest.fixture
def small_ceilings(monkeypatch):
    """The machine's roofs, measured on little."""
    monkeypatch.setitem(roofline.PRODUCT_SIZE, "cpu", 64)
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
    chosen = ["--operators", "linear", "convolution", "apply_mask", "--max-cases", "4"]
    assert roofline.main(options(out, *chosen)) == 0
    rows = list(read_rows(out))
    assert {r["operator"] for r in rows} == {"apply_mask", "convolution"}
    assert {r["backend"] for r in rows} == {"eager", "torch"}
    for r in rows:
        assert r["problems"] == [] and r["machine"]["kind"] == "cpu"
        assert r["arithmetic"] == r["dtype"] == "float32"
        assert max(r["errors"].values()) <= r["tolerance"]
        seconds = r["times"]["median_us"] * 1e-6
        least = max(roofs(r, r["ceilings"]).values())
        assert r["attained_percent"] == pytest.approx(100 * least / seconds, abs=6e-3)
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
    append_rows(out, [r for r in rows if r["operator"] != "apply_mask"])
    assert roofline.main(options(out, *chosen, "--resume", "--picture-format", "pdf")) == 0
    assert out.with_name("roofline.pdf").read_bytes().startswith(b"%PDF")
    assert not out.with_name("roofline.png").exists()
    again = list(read_rows(out))
    assert sorted(r["case"] for r in again) == sorted(r["case"] for r in rows)
    assert again[-1]["operator"] == "apply_mask" and drawn[-1] == again


def test_fused_convolution_beside_the_separate_one():
    """In Triton's interpreter; the row of the fused one is that of its fastest tile."""
    if torch.cuda.is_available():
        pytest.skip("without a GPU kernels run on CPU tensors")
    case = fused_case(Layer((2, 8, 4, 4), 16), "residual", *FLOAT32)
    separate, fused = measure_case(case, *FLOAT32, 1, ROOFS)
    assert separate["problems"] == fused["problems"] == []
    assert (separate["backend"], fused["backend"]) == ("separate", "triton")
    assert separate["pass"] == fused["pass"] == "evaluation"
    assert separate["detail"] == fused["detail"] == "1x1 -> 16"
    assert separate["bytes"] == fused["bytes"]
    assert len(fused["tiles_us"]) == 3
    assert fused["times"]["median_us"] == min(fused["tiles_us"].values())
    assert fused["tiles_us"][fused["tile"]] == fused["times"]["median_us"]


def test_a_variant_that_is_wrong_or_fails_gets_no_time(tmp_path, drawn):
    def broken(*given):
        raise RuntimeError("no such kernel")

    case = layer_case(CONVOLUTION, *FLOAT32)
    run = case.variants[0].run
    others = [Variant("wrong", lambda *given: 1.1 * run(*given)), Variant("broken", broken)]
    rows = measure_case(replace(case, variants=[*case.variants, *others]), *FLOAT32, 1, ROOFS)
    for right, wrong, failed in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        assert right["times"] and not right["problems"]
        assert any("out is wrong" in problem for problem in wrong["problems"])
        assert failed["problems"] == ["RuntimeError: no such kernel"]
        assert wrong["times"] == failed["times"] == {} and wrong["attained_percent"] is None
    assert roofline.brief(rows).count("failed") == 6
    roofline.draw(rows, tmp_path / "roofline", "png")
    assert drawn == [rows[::3]]


def test_usual_backends():
    def out_of(device, *more):
        return roofline.left_out(roofline.parse(list(more)), torch.device(device))

    assert out_of("cuda") == ()
    assert out_of("cpu") == ("triton",)
    assert set(out_of("cuda", "--backends", "triton", "eager")) == {"separate", *roofline.LIBRARIES}


def test_the_table_begins_with_the_farthest_from_its_roof():
    def one(name, percent, flops, kind="cuda"):
        return {
            "operator": name, "kind": "", "pass": "forward", "backend": "cudnn", "detail": "",
            "shape": [1, 2, 3, 4], "bytes": 1000, "flops": flops, "arithmetic": "float32",
            "ceilings": ROOFS, "times": {"median_us": 10.0}, "gb_per_s": 1.0,
            "tflop_per_s": 1.0, "attained_percent": percent, "machine": {"kind": kind},
        }  # fmt: skip

    # Attained operations a second over min(matrix ceiling, bandwidth * intensity).
    for flops in (100, 10_000, 100_000_000):
        least = flops / min(1e12, 1e9 * flops / 1000)
        assert max(roofs(one("", 1.0, flops), ROOFS).values()) == pytest.approx(least)
    rows = [one("near", 90.0, 10), one("far", 5.0, 10**8), one("failed", None, 1)]
    columns = {c.header: list(c.cells) for c in roofline.table(rows).columns}
    assert columns["operator"] == ["far", "near"] and columns["roof"] == ["float32", "memory"]
    assert columns["TFLOP/s"] == ["1.00", "1.00"] and columns["us above it"] == ["9.5", "1.0"]
    (rate,) = [c for c in roofline.table([one("", 1.0, 10, "cpu")]).columns if "FLOP" in c.header]
    assert (rate.header, list(rate.cells)) == ("GFLOP/s", ["1,000.00"])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
def test_flops_and_bytes_of_layers(kernel, stride):
    layer = Layer((2, 6, 9, 7), 10, kernel, stride, padding=kernel // 2)
    case = layer_case(layer, *FLOAT32)
    call, run = case.draw(), case.variants[0].run
    for each in case.passes:
        x, weight = (t.detach().requires_grad_() for t in call.operands[:2])
        with FlopCounterMode(display=False) as counter:
            out = run(x, weight)
            forward = counter.get_total_flops()
            if each.name == "backward":
                wanted = {"x": x, "weight": weight}[each.wanted[0]]
                torch.autograd.grad(out, wanted, call.grad_out)
        counted = counter.get_total_flops() - (forward if each.name == "backward" else 0)
        assert each.flops == counted
        assert tuple(out.shape) == layer.out_shape
        assert each.moved == x.nbytes + weight.nbytes + out.nbytes

    case = layer_case(Layer((5, 7, 1, 1), 3, linear=True), torch.bfloat16, CPU)
    with FlopCounterMode(display=False) as counter:
        case.variants[0].run(*case.draw().operands)
    assert {each.flops for each in case.passes} == {counter.get_total_flops()}
    assert {each.moved for each in case.passes} == {2 * (5 * 7 + 7 * 3 + 5 * 3)}


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
    site = OpShape(kind, (4, 16, 3, 5), mode=mode)
    found = norm_flops(site)
    assert found == {"forward": forward * site.elements, "backward": backward * site.elements}


def test_bytes_of_fused_operators():
    """One bfloat16 read or written is two bytes; a mask that the batch shares is not counted."""
    op = OpShape("residual", (4, 16, 3, 5))
    for case, *bytes_an_element in (
        (norm_case(op, torch.bfloat16, CPU), 8.125, 12.25),
        (mask_case(op.shape, torch.bfloat16, CPU), 4, 4),
    ):
        assert [each.moved / op.elements for each in case.passes] == bytes_an_element
    for kind, outputs, after in (("none", 1, 5), ("residual", 2, 6)):
        (each,) = fused_case(CONVOLUTION, kind, torch.bfloat16, CPU).passes
        out = prod(CONVOLUTION.out_shape)
        assert each.moved == 2 * (2 * 6 * 9 * 7 + 10 * 6 * 3 * 3 + outputs * out)
        assert each.flops == 2 * out * 6 * 9 + after * out


@pytest.mark.parametrize("name", list(OPERATORS))
def test_every_case_can_be_measured(name):
    """In half precision, where dtypes differ; the first and the last case of each operator."""
    found = cases([name], torch.bfloat16, CPU)
    for case in (found[0], found[-1]):
        right = [one for one in case.variants if one.backend != "triton"]
        rows = measure_case(replace(case, variants=right), torch.bfloat16, CPU, 1, ROOFS)
        assert rows and all(r["problems"] == [] and r["times"] for r in rows)
        assert all(r["bytes"] > 0 and r["flops"] > 0 for r in rows)


def test_layers_are_those_of_the_networks():
    layers = network_layers(["resnet18", "resnet50"], batch=7, image_size=32)
    assert len(set(layers)) == len(layers) and all(layer.shape[0] == 7 for layer in layers)
    found = {(c.shape[1:], c.out_channels, c.kernel, c.stride): c for c in layers}
    assert found[(64, 32, 32), 64, 3, 1].users == "resnet18 x4, resnet50 x3"
    assert found[(64, 32, 32), 128, 1, 2].users == "resnet18 x1"
    assert found[(1024, 8, 8), 256, 1, 1].users == "resnet50 x5"
    linears = [(layer.shape, layer.out_channels) for layer in layers if layer.linear]
    assert linears == [((7, 512, 1, 1), 10), ((7, 2048, 1, 1), 10)]


def test_problems_of_every_tile_are_kept():
    def one(tile, median, problems=()):
        times = {"median_us": median} if median else {}
        return {"backend": "triton", "tile": tile, "times": times, "problems": list(problems)}

    other = {"backend": "separate", "tile": "", "times": {}, "problems": []}
    merged = roofline.fastest(
        [other, one("a", 3.0), one("b", 2.0), one("c", None, ["out is wrong"])]
    )
    assert merged[0] is other
    assert (merged[1]["tile"], merged[1]["times"]) == ("b", {"median_us": 2.0})
    assert merged[1]["tiles_us"] == {"a": 3.0, "b": 2.0, "c": None}
    assert merged[1]["problems"] == ["tile c: out is wrong"]


@pytest.mark.gpu
def test_command_on_a_gpu(tmp_path, drawn):
    """Every operator's first case, under graph replay, by all backends."""
    rows = []
    for name in OPERATORS:
        out = tmp_path / name / "roofline.jsonl"
        more = ["--operators", name, "--max-cases", "1", "--repeats", "2", "--out", str(out)]
        assert roofline.main(more) == 0
        rows += read_rows(out)
    assert {r["backend"] for r in rows} == {"triton", "eager", "separate", "cudnn", "cublas"}
    assert all(r["times"] and r["settings"]["clock"] == "graph" for r in rows)
