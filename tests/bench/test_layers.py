"""``scotoma bench layers`` end to end on a CPU, and what its figures are made of."""

import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from scotoma.bench import harness, layers, operands, roofline, step
from scotoma.bench.operands import OpShape, minimum_bytes
from scotoma.defective import UserError, model_names
from torch.utils._python_dispatch import TorchDispatchMode

CPU = torch.device("cpu")
SHAPE = (2, 12, 5, 5)


def measured(folder, *options, status=0):
    """The rows that a run leaves. Its options are added to those of a small one."""
    out = folder / "new" / "layers.jsonl"
    options = ["--max-sites", "1", "--repeats", "1", *options, "--cpu", "--out", str(out)]
    assert layers.main(options) == status
    return list(harness.read_rows(out))


def check_rows(rows):
    for row in rows:
        assert row["machine"]["kind"] == "cpu"
        assert row["machine"]["torch"] == torch.__version__
        assert row["problems"] == []
        assert max(row["errors"].values()) <= row["tolerance"]
        inputs = {"x"} | ({"residual"} if row["site"]["kind"] == "residual" else set())
        more = {"weight", "bias"} if row["mode"] == "training" else {"inference"}
        assert set(row["errors"]) == {"out", *inputs, *more}
        for cache in ("cold", "hot"):
            for name in ("forward", "backward", "both"):
                time = row["times"][cache]["wall"][name]
                assert 0 < time["p10_us"] <= time["median_us"] <= time["p90_us"]
                expected = row["bytes"][name] / time["median_us"] / 1e3
                assert time["gb_per_s"] == pytest.approx(expected, abs=0.06)


def test_command_leaves_rows_and_a_table(tmp_path, capsys):
    """Of a shape of one's own, in each form, in training and in evaluation."""
    shape = ["--shape", "2x8x4x4", "--max-sites", "2"]
    options = [*shape, "--mode", "both", "--repeats", "2", "--variants", "eager", "released"]
    rows = measured(tmp_path, *options)
    check_rows(rows)
    assert [(row["mode"], row["site"]["kind"], row["contestant"]) for row in rows] == [
        (mode, kind, name)
        for mode in ("training", "evaluation")
        for kind in ("none", "residual")
        for name in ("eager", "released")
    ]
    for row in rows:
        assert row["site"]["users"] == "--shape" and row["site"]["shape"] == [2, 8, 4, 4]
        per_element = pytest.approx(row["saved_bytes"] / 256, abs=1e-3)
        assert row["saved_bytes_per_element"] == per_element
    assert "2x8x4x4 residual, evaluation" in capsys.readouterr().out
    # A second time only what is missing, of the same variants.
    assert measured(tmp_path, *options, "--resume") == rows
    more = [*shape, "--variants", "eager", "--repeats", "2", "--resume", "--mode", "evaluation"]
    assert len(measured(tmp_path, *more)) == len(rows) + 2


@pytest.mark.slow
def test_what_is_compiled_is_measured_too(tmp_path):
    rows = measured(tmp_path)
    assert [row["contestant"] for row in rows] == ["eager", "compile"]
    check_rows(rows)


@pytest.mark.parametrize("variant", ["eager-fp16", "released"])
def test_a_wrong_variant_gets_no_times(tmp_path, monkeypatch, capsys, variant):
    """Its result is compared before anything is timed, that without gradients too."""
    real = layers.variant
    training = variant == "eager-fp16"

    def one_is_wrong(name, op, dtype):
        one = real("eager" if name == "eager-fp16" else name, op, dtype)._replace(name=name)

        def run(*given):
            wrong = name == variant and (training or not torch.is_grad_enabled())
            return one.run(*given) * (1.1 if wrong else 1.0)

        return one._replace(run=run)

    monkeypatch.setattr(layers, "variant", one_is_wrong)
    mode = ["--mode", "training" if training else "evaluation"]
    right, off = measured(tmp_path, *mode, "--contestants", "eager", variant, status=1)
    assert right["problems"] == [] and right["times"]
    assert off["times"] == {}
    names = [problem.split(" is wrong")[0] for problem in off["problems"]]
    # Under no_grad another kernel may run.
    assert "out" in names if training else names == ["inference"]
    assert "failures:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("verb", "options", "words"),
    [
        (layers, "--networks resnet19", ["networks", "resnet19", "resnet18"]),
        (layers, "--variants egaer", ["variants", "egaer", "eager"]),
        (layers, "--variants ours", ["'ours'", "GPU", "leave it out"]),
        (layers, "--shape 64x256x56", ["64x256x56", "64x256x56x56"]),
        (layers, "--shape 2x0x4x4", ["2x0x4x4", "at least 1"]),
        (layers, "--shape 2x3x4x4 --sites all", ["shape", "sites", "leave one"]),
        (layers, "--repeats 0", ["--repeats", "'0'"]),
        (layers, "--sits all", ["--sits", "--sites"]),
        (step, "--networks resnet19", ["networks", "resnet19", "resnet18"]),
        (step, "--networks resnet18 --contestants egaer", ["variants", "egaer", "eager"]),
        (
            step,
            "--networks resnet18 --variants eager-graph",
            ["eager-graph", "GPU", "leave it out"],
        ),
        (step, "--work trian", ["work", "trian", "train"]),
        (step, "--defects 0.3-Buttom", ["0.3-Buttom"]),
        (step, "--defects 0.3-Bottomx2 --networks vgg19", ["vgg19"]),
        (step, "--networks resnet18 --window-seconds 0", ["window-seconds", "more than 0"]),
        (roofline, "--operators convoluton", ["operators", "convoluton", "'convolution'"]),
        (roofline, "--backends tritn", ["backends", "tritn", "'triton'"]),
        (roofline, "--backends separate --operators linear", ["backends separate", "linear"]),
        (roofline, "--backends triton", ["'triton'", "TRITON_INTERPRET", "leave it out"]),
    ],
)
def test_bad_options(verb, options, words, monkeypatch):
    monkeypatch.setattr("scotoma.kernels.backends.interpreting", lambda: False)
    monkeypatch.setattr(harness, "Run", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(UserError) as error:
        verb.main(["--cpu", *options.split()])
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("verb", "options"),
    [(layers, []), (roofline, []), (step, ["--networks", "resnet18"])],
    ids=["layers", "roofline", "step"],
)
def test_what_a_machine_lacks_is_said_first(verb, options, tmp_path, monkeypatch):
    """A GPU, or a file that can be written."""
    for work in ("interleaved", "wall_seconds"):
        monkeypatch.setattr(harness, work, lambda *_: pytest.fail("work was begun"))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--cpu"):
            verb.main(options)
    (tmp_path / "file").touch()
    for out in (tmp_path, tmp_path / "file" / "rows.jsonl"):
        with pytest.raises(UserError, match="cannot be written"):
            verb.main(["--cpu", *options, "--out", str(out)])
    # Asking leaves nothing behind.
    harness.check_writable(tmp_path / "new.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_sites_are_those_of_the_networks():
    sites = layers.network_ops(["resnet18"], batch=7, image_size=32)
    found = {(s.kind, s.relu, *s.shape[1:]): s for s in sites}
    assert len(found) == len(sites)
    assert all(s.shape[0] == 7 for s in sites)
    # Stem and first convolutions of block 1; second ones; projections of blocks 2 to 4.
    assert found["none", True, 64, 32, 32].users == "resnet18 x3"
    assert found["residual", True, 64, 32, 32].users == "resnet18 x2"
    assert found["projection", True, 512, 4, 4].users == "resnet18 x1"
    # SpatialDropout parts batch norm and ReLU in blocks 3 and 4.
    assert found["none", False, 512, 4, 4].users == "resnet18 x2"
    assert all(s.masked for s in sites)
    bottlenecks = layers.network_ops(["resnet50"], batch=1, image_size=32)
    assert not any(s.masked for s in bottlenecks if s.kind == "residual")


@pytest.mark.parametrize(
    "networks",
    [["resnet18", "vgg19"], pytest.param(model_names(), marks=pytest.mark.slow)],
    ids=["two", "all"],
)
def test_sites_of_all_groups(networks):
    """What a headline shape has already is not measured again."""

    def chosen(*options):
        return layers.chosen_ops(layers.parse(["--networks", *networks, *options]))

    groups = {group: chosen("--sites", group) for group in layers.SITES[1:]}
    assert len(groups["headline"]) == 12
    assert {site.shape[0] for site in groups["imagenet"]} == {64}
    # ResNet's stem halves 224 pixels; VGG's convolutions see them all.
    assert {(64, 64, 112, 112), (64, 64, 224, 224)} <= {s.shape for s in groups["imagenet"]}
    users = " ".join(site.users for site in groups["networks"])
    assert all(name in users for name in networks)
    forms = [site.form for site in chosen()]
    assert len(set(forms)) == len(forms)
    assert set(forms) == {site.form for group in groups.values() for site in group}
    assert {site.shape[0] for site in chosen("--sites", "networks", "--batch", "3")} == {3}


@pytest.mark.parametrize(
    ("mode", "kind", "relu", "forward", "backward", "both"),
    [
        ("training", "none", True, 6, 10, 16),
        ("training", "none", False, 6, 10, 16),
        ("training", "residual", True, 8.125, 12.25, 20.375),
        ("training", "residual", False, 8, 10, 18),
        ("training", "projection", True, 10, 16, 26),
        # Backward to the inputs alone. Without gradients no bit is written; where backward follows,
        # one is.
        ("evaluation", "none", True, 4, 6, 10),
        ("evaluation", "none", False, 4, 4, 8),
        ("evaluation", "residual", True, 6, 6.125, 12.25),
        ("evaluation", "residual", False, 6, 4, 10),
        ("evaluation", "projection", True, 6, 10, 16),
        ("evaluation", "projection", False, 6, 6, 12),
    ],
)
def test_bytes_of_bfloat16(mode, kind, relu, forward, backward, both):
    """Bytes an element of one pass, counted by hand from the kernels' loads and stores."""
    op = OpShape(kind, (4, 16, 3, 5), relu=relu, mode=mode)
    expected = {"forward": forward, "backward": backward, "both": both}
    assert minimum_bytes(op, 2) == {step: count * op.elements for step, count in expected.items()}


class Traffic(TorchDispatchMode):
    """Counts the activations that operators other than batch norm read and write."""

    def __init__(self, elements):
        super().__init__()
        self.elements, self.bytes = elements, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if not any(word in str(function) for word in ("batch_norm", "detach", "view", "alias")):
            for each in (*args, *(out if isinstance(out, tuple) else (out,))):
                whole = isinstance(each, torch.Tensor) and each.numel() == self.elements
                self.bytes += each.numel() * each.element_size() if whole else 0
        return out


def released(op):
    """A call of the released layer, and the function."""
    one = layers.variant("released", op, torch.bfloat16)
    return one.own(operands.draw(op, torch.bfloat16, CPU)), one.run


@pytest.mark.parametrize(
    ("kind", "forward", "backward"),
    # mask 2 + 4, ReLU 4 + 4, cast 4 + 2 | cast 2 + 4, ReLU 4 + 4 + 4, mask 4 + 4, cast 4 + 2
    [("none", 20, 32), ("residual", 32, 32), ("projection", 38, 46)],
)
def test_bytes_of_the_released_layer(kind, forward, backward):
    """Bytes an element around batch norm, counted from what torch is asked to read and write.

    With batch norm's own 6 and 10 a branch they are the 26 and 42 that the module states.
    """
    op = OpShape(kind, SHAPE)
    call, run = released(op)
    with Traffic(op.elements) as moved:
        out = run(*call.operands)
    assert moved.bytes == forward * op.elements and out.dtype == torch.bfloat16
    with Traffic(op.elements) as moved:
        torch.autograd.grad(out, [*call.inputs().values()], call.grad_out)
    assert moved.bytes == backward * op.elements


def test_released_layer_stays_in_float32_until_the_next_convolution():
    call, _ = released(OpShape("residual", SHAPE))
    assert call.operands.residual.requires_grad and call.operands.residual.is_leaf
    call, run = released(OpShape("none", SHAPE, relu=False))  # a dropout follows, no convolution
    assert call.grad_out.dtype == run(*call.operands).dtype == torch.float32
    call, run = released(OpShape("residual", SHAPE, masked=False))  # half precision throughout
    assert call.operands.residual.dtype == run(*call.operands).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("dtype", "missing"),
    [("bfloat16", set()), ("float16", {"eager-fp16"}), ("float32", {"released"})],
)
def test_usual_variants_on_a_gpu(dtype, missing):
    names = layers.chosen_variants(layers.parse(["--dtype", dtype]), torch.device("cuda"))
    assert set(names) == set(layers.VARIANTS) - missing


@pytest.mark.parametrize("kind", ["none", "residual", "projection"])
def test_a_wrong_gradient_is_seen(kind):
    """Every result is compared; a hundredth of error in one of them is seen."""
    op = OpShape(kind, SHAPE)
    call = operands.draw(op, torch.float32, CPU)
    expected = operands.exact_results(op, call)
    found = operands.results(operands.operator(op, "eager"), call)
    allowed = operands.tolerance(torch.float32)
    assert max(operands.errors(found, expected).values()) <= allowed
    for name in found:
        off = operands.errors(found | {name: found[name] * 1.01}, expected)
        assert off[name] > allowed
        nan = found[name].clone()
        nan[(0,) * nan.dim()] = math.nan
        assert operands.errors(found | {name: nan}, expected)[name] == math.inf


def test_saved_bytes_of_eager():
    """Batch norm saves x, weight and its statistics, the mask is saved, and ReLU its output."""
    op = OpShape("none", SHAPE)
    call = operands.draw(op, torch.float32, CPU)
    activations, mask = 2 * 4 * op.elements, op.elements // SHAPE[0]
    saved = operands.saved_bytes(operands.operator(op, "eager"), call)
    assert 0 < saved - activations - mask <= 6 * 4 * SHAPE[1]


def test_turns_rotate():
    """Each variant goes first as often as the others; the first round is not counted."""
    order = []
    works = {name: name for name in "abc"}

    def seconds(name):
        order.append(name)
        return float(len(order) - 1)

    samples = harness.interleaved(works, seconds, 3)
    assert "".join(order) == "abc" + "bca" + "cab" + "abc"
    assert samples["a"] == [5.0, 7.0, 9.0]
    spread = harness.spread([3e-6, 1e-6, 2e-6], calls=2)
    assert spread == {"median_us": 1.0, "p10_us": 0.5, "p90_us": 1.5}


def test_cold_sets_exceed_the_cache():
    assert operands.cold_sets(10 * 2**20, 50 * 2**20) == 15
    assert operands.cold_sets(2**30, 50 * 2**20) == operands.COLD_SETS[0]
    assert operands.cold_sets(1, 50 * 2**20) == operands.COLD_SETS[1]


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_runs_forward_without_gradients(training):
    """But not where backward follows."""
    op = OpShape("residual", SHAPE, mode="training" if training else "evaluation")
    call, seen = operands.draw(op, torch.float32, CPU), []
    run = operands.operator(op, "eager")

    def watched(*given):
        seen.append(torch.is_grad_enabled())
        return run(*given)

    work = operands.Sweep(watched, [call], hot=True, training=training)
    work.forward()
    work.both()
    assert seen == 2 * [training] + 2 * [True]
    assert len(work.grads[0]) == (4 if training else 2)  # x, residual, and two parameters


def test_graphs_are_timed_beside_calls(monkeypatch):
    """Here a graph is a function; what cannot be captured is a problem of its row."""
    capturing = []
    graph = SimpleNamespace(replay=lambda: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream: nullcontext(capturing.append(1)))

    def uncapturable(*given):
        if capturing:
            raise RuntimeError("a copy to the host")
        return run(*given)

    op = OpShape("none", SHAPE)
    run, call = operands.operator(op, "eager"), operands.draw(op, torch.float32, CPU)
    sweeps = {name: operands.Sweep(one, [call]) for name, one in (("a", run), ("b", uncapturable))}
    rows = {name: {"problems": []} for name in sweeps}
    found = [*operands.timings(sweeps, "both", ("wall", "graph"), CPU, 1, rows, "cold both")]
    assert [one[:2] for one in found] == [("wall", "a"), ("wall", "b"), ("graph", "a")]
    assert all(times["median_us"] >= 0 for *_, times in found)
    assert rows["a"]["problems"] == []
    assert rows["b"]["problems"] == ["no CUDA graph of cold both: RuntimeError: a copy to the host"]


def test_interrupted_files_stay_readable(tmp_path):
    path = tmp_path / "rows.jsonl"
    harness.append_rows(path, [{"a": 1}])
    with path.open("a") as file:
        file.write('{"a": ')  # the writer was killed here
    harness.append_rows(path, [{"a": 2}, {"a": 3}])
    assert [row["a"] for row in harness.read_rows(path)] == [1, 2, 3]


def test_slower_cases_are_listed():
    def row(name, median):
        times = {"cold": {"graph": {"forward": {"median_us": median, "copy_percent": 80.0}}}}
        return {"site": {"name": "S"}, "contestant": name, "times": times, "problems": []}

    rows = [row("ours", 3.0), row("eager", 6.0), row("compile", 2.0)]
    slower = ["S: slower than compile: cold graph forward 1.50x"]
    assert layers.slower_sites(rows) == (2, slower)
    assert layers.table(rows).row_count == 1
