"""``scotoma bench layers`` end to end on a CPU, and what its figures are made of."""

import json
import math

import pytest
import torch
from scotoma.bench import harness
from scotoma.bench.layers import (
    accuracy,
    command,
    contestants,
    memory,
    operands,
    released,
    sweep,
    table,
)
from scotoma.bench.layers.sites import Site, headline_sites, network_sites
from scotoma.bench.layers.traffic import minimum_bytes
from scotoma.defective import UserError, model_names
from torch.utils._python_dispatch import TorchDispatchMode

CPU = torch.device("cpu")
SHAPE = (2, 12, 5, 5)


def test_command_leaves_rows_and_a_table(tmp_path, capsys):
    out = tmp_path / "new" / "layers.jsonl"
    options = ["--cpu", "--max-sites", "1", "--repeats", "2", "--out", str(out)]
    assert command.main(options) == 0
    rows = list(harness.read_rows(out))
    assert [row["contestant"] for row in rows] == ["eager", "compile"]
    for row in rows:
        assert row["machine"]["kind"] == "cpu"
        assert row["machine"]["torch"] == torch.__version__
        assert row["problems"] == []
        assert max(row["errors"].values()) <= row["tolerance"]
        assert set(row["errors"]) == {"out", "x", "weight", "bias"}
        assert row["mode"] == "training"
        assert row["saved_bytes_per_element"] == pytest.approx(row["saved_bytes"] / 4096, abs=1e-3)
        for cache in ("cold", "hot"):
            for step in ("forward", "backward", "both"):
                time = row["times"][cache]["wall"][step]
                assert 0 < time["p10_us"] <= time["median_us"] <= time["p90_us"]
                expected = row["bytes"][step] / time["median_us"] / 1e3
                assert time["gb_per_s"] == pytest.approx(expected, abs=0.06)
    text = capsys.readouterr().out
    assert "4x16x8x8 none" in text and "compile" in text


def test_a_wrong_contestant_gets_no_times(tmp_path, monkeypatch, capsys):
    """Its result is compared before anything is timed."""
    real = contestants.contestant

    def one_is_wrong(name, site, dtype):
        player = real("eager", site, dtype)
        if name == "max-autotune":
            player.run = lambda *operands, run=player.run: 1.1 * run(*operands)
        player.name = name
        return player

    monkeypatch.setattr("scotoma.bench.layers.row.contestant", one_is_wrong)
    out = tmp_path / "layers.jsonl"
    names = ["--contestants", "eager", "max-autotune"]
    options = ["--cpu", "--max-sites", "1", "--repeats", "1", "--out", str(out), *names]
    assert command.main(options) == 1
    right, wrong_row = harness.read_rows(out)
    assert right["problems"] == [] and right["times"]
    assert wrong_row["times"] == {}
    assert any("out is wrong" in problem for problem in wrong_row["problems"])
    assert "failures:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--cpu", "--networks", "resnet19"], ["networks", "resnet19", "resnet18"]),
        (["--cpu", "--contestants", "egaer"], ["contestants", "egaer", "eager"]),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(UserError) as error:
        command.main(options)
    assert all(word in str(error.value) for word in words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu_is_said():
    with pytest.raises(UserError, match="--cpu"):
        command.main([])


def test_sites_are_those_of_the_networks():
    sites = network_sites(["resnet18"], batch=7, image_size=32)
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
    bottlenecks = network_sites(["resnet50"], batch=1, image_size=32)
    assert not any(s.masked for s in bottlenecks if s.kind == "residual")


def test_all_networks_have_sites():
    sites = network_sites(model_names(), batch=2, image_size=32)
    users = " ".join(s.users for s in sites)
    assert all(name in users for name in model_names())
    assert len(headline_sites()) == 12


@pytest.mark.parametrize(
    ("kind", "relu", "forward", "backward"),
    [
        ("none", True, 6, 10),
        ("none", False, 6, 10),
        ("residual", True, 8.125, 12.25),
        ("residual", False, 8, 10),
        ("projection", True, 10, 16),
    ],
)
def test_bytes_of_bfloat16(kind, relu, forward, backward):
    """Bytes an element of one training pass, counted by hand from the kernels' loads and stores."""
    site = Site(kind, (4, 16, 3, 5), relu=relu)
    found = minimum_bytes(site, 2)
    assert found["forward"] == forward * site.elements
    assert found["backward"] == backward * site.elements
    assert found["both"] == found["forward"] + found["backward"]


@pytest.mark.parametrize(
    ("kind", "relu", "forward", "backward", "both"),
    [
        # Without gradients no bit is written; where backward follows, one is.
        ("none", True, 4, 6, 10),
        ("none", False, 4, 4, 8),
        ("residual", True, 6, 6.125, 12.25),
        ("residual", False, 6, 4, 10),
        ("projection", True, 6, 10, 16),
        ("projection", False, 6, 6, 12),
    ],
)
def test_bytes_of_bfloat16_in_evaluation(kind, relu, forward, backward, both):
    """The same of one pass each way, backward to the inputs alone."""
    site = Site(kind, (4, 16, 3, 5), relu=relu, mode="evaluation")
    found = minimum_bytes(site, 2)
    expected = {"forward": forward, "backward": backward, "both": both}
    assert found == {step: count * site.elements for step, count in expected.items()}


def test_evaluation_is_measured_beside_training(tmp_path):
    out = tmp_path / "layers.jsonl"
    options = ["--cpu", "--max-sites", "2", "--repeats", "1", "--out", str(out), "--mode", "both"]
    assert command.main([*options, "--contestants", "eager", "released"]) == 0
    rows = list(harness.read_rows(out))
    assert [row["mode"] for row in rows] == 4 * ["training"] + 4 * ["evaluation"]
    assert len({(row["site"]["name"], row["contestant"]) for row in rows}) == 8
    for row in rows:
        assert row["problems"] == []
        inputs = {"x"} | ({"residual"} if row["site"]["kind"] == "residual" else set())
        if row["mode"] == "evaluation":
            assert set(row["errors"]) == {"out", "inference", *inputs}
        else:
            assert set(row["errors"]) == {"out", "weight", "bias", *inputs}
        assert row["times"]["cold"]["wall"]["both"]["median_us"] > 0
    # A second time only what is missing, of the same contestants.
    assert command.main([*options, "--contestants", "eager", "released", "--resume"]) == 0
    assert len(list(harness.read_rows(out))) == len(rows)
    options[2] = "1"
    assert command.main([*options, "--contestants", "eager", "--resume"]) == 0
    assert len(list(harness.read_rows(out))) == len(rows) + 2


def test_what_is_wrong_without_gradients_alone_is_seen(tmp_path, monkeypatch):
    """Evaluation is timed under no_grad, where another kernel may run."""
    real = contestants.contestant

    def wrong(name, site, dtype):
        player = real(name, site, dtype)
        if name == "released":
            right = player.run
            player.run = lambda *o: right(*o) * (1.0 if torch.is_grad_enabled() else 1.1)
        return player

    monkeypatch.setattr("scotoma.bench.layers.row.contestant", wrong)
    out = tmp_path / "layers.jsonl"
    options = ["--cpu", "--max-sites", "1", "--repeats", "1", "--out", str(out)]
    options += ["--mode", "evaluation", "--contestants", "eager", "released"]
    assert command.main(options) == 1
    right, off = harness.read_rows(out)
    assert right["problems"] == [] and off["times"] == {}
    assert [p.split(" is ")[0] for p in off["problems"]] == ["inference"]


@pytest.mark.parametrize(
    ("kind", "forward", "backward"),
    # mask 2 + 4, ReLU 4 + 4, cast 4 + 2 | cast 2 + 4, ReLU 4 + 4 + 4, mask 4 + 4, cast 4 + 2
    [("none", 20, 32), ("residual", 32, 32), ("projection", 38, 46)],
)
def test_bytes_of_the_released_layer(kind, forward, backward):
    """Bytes an element around batch norm, counted from what torch is asked to read and write.

    With batch norm's own 6 and 10 a branch they are the 26 and 42 that the module states.
    """
    site = Site(kind, SHAPE)
    player = contestants.contestant("released", site, torch.bfloat16)
    call = player.own(operands.draw(site, torch.bfloat16, CPU))
    with Traffic(site.elements) as moved:
        out = player.run(*call.operands)
    assert moved.bytes == forward * site.elements
    assert out.dtype == torch.bfloat16
    with Traffic(site.elements) as moved:
        torch.autograd.grad(out, call.inputs(), call.grad_out)
    assert moved.bytes == backward * site.elements


class Traffic(TorchDispatchMode):
    """Counts the activations that operators other than batch norm read and write."""

    def __init__(self, elements):
        super().__init__()
        self.elements, self.bytes = elements, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        views = ("detach", "view", "alias")
        if not any(word in str(function) for word in ("batch_norm", *views)):
            given = [*args, *(out if isinstance(out, tuple) else (out,))]
            whole = [t for t in given if isinstance(t, torch.Tensor) and self.is_whole(t)]
            self.bytes += sum(t.numel() * t.element_size() for t in whole)
        return out

    def is_whole(self, tensor):
        return tensor.numel() == self.elements


def test_released_layer_stays_in_float32_until_the_next_convolution():
    def own(site):
        player = contestants.contestant("released", site, torch.bfloat16)
        call = player.own(operands.draw(site, torch.bfloat16, CPU))
        return call, player.run(*call.operands)

    call, out = own(Site("residual", SHAPE))
    assert call.operands.mask.dtype == call.operands.residual.dtype == torch.float32
    assert call.operands.residual.requires_grad and call.operands.residual.is_leaf
    assert call.operands.x.dtype == call.grad_out.dtype == out.dtype == torch.bfloat16
    call, out = own(Site("none", SHAPE, relu=False))  # a dropout follows, no convolution
    assert call.grad_out.dtype == out.dtype == torch.float32
    unmasked = Site("residual", SHAPE, masked=False)
    assert released.adapter(unmasked) is None  # half precision throughout
    assert own(unmasked)[1].dtype == torch.bfloat16


def test_sites_of_large_images():
    """All networks take them; what a headline shape has already is not measured again."""
    options = command.parse(["--sites", "imagenet"])
    large = command.chosen_sites(options)
    users = " ".join(site.users for site in large)
    assert all(name in users for name in model_names())
    assert {site.shape[0] for site in large} == {64}
    # ResNet's stem halves 224 pixels; VGG's convolutions see them all.
    assert {(64, 64, 112, 112), (64, 64, 224, 224)} <= {site.shape for site in large}
    two = ["--networks", "resnet18", "vgg19"]
    everything = command.chosen_sites(command.parse(two))
    forms = [site.form for site in everything]
    assert len(set(forms)) == len(forms)
    assert set(forms) == {
        site.form
        for group in command.SITES[1:]
        for site in command.chosen_sites(command.parse([*two, "--sites", group]))
    }
    batch = command.parse(["--sites", "imagenet", "--networks", "resnet18", "--batch", "3"])
    assert {site.shape[0] for site in command.chosen_sites(batch)} == {3}


@pytest.mark.parametrize(
    ("dtype", "missing"),
    [("bfloat16", set()), ("float16", {"eager-fp16"}), ("float32", {"released"})],
)
def test_usual_contestants_on_a_gpu(dtype, missing):
    names = command.contestants(command.parse(["--dtype", dtype]), torch.device("cuda"))
    assert set(names) == set(contestants.CONTESTANTS) - missing


@pytest.mark.parametrize("kind", ["none", "residual", "projection"])
def test_a_wrong_gradient_is_seen(kind):
    """Every result is compared; a hundredth of error in one of them is seen."""
    site = Site(kind, SHAPE)
    call = operands.draw(site, torch.float32, CPU)
    expected = accuracy.exact_results(site, call)
    found = accuracy.results(contestants.contestant("eager", site, torch.float32).run, call)
    assert max(accuracy.errors(found, expected).values()) <= accuracy.tolerance(torch.float32)
    for name in found:
        off = accuracy.errors(found | {name: found[name] * 1.01}, expected)
        assert off[name] > accuracy.tolerance(torch.float32)
        nan = found[name].clone()
        nan[(0,) * nan.dim()] = math.nan
        assert accuracy.errors(found | {name: nan}, expected)[name] == math.inf


def test_saved_bytes_of_eager():
    """Batch norm saves x, weight and its statistics, the mask is saved, and ReLU its output."""
    site = Site("none", SHAPE)
    call = operands.draw(site, torch.float32, CPU)
    run = contestants.contestant("eager", site, torch.float32).run
    activations, mask = 2 * 4 * site.elements, site.elements // SHAPE[0]
    vectors = memory.saved_bytes(run, call) - activations - mask
    assert 0 < vectors <= 6 * 4 * SHAPE[1]


def test_turns_rotate():
    """Each contestant goes first as often as the others; the first round is not counted."""
    order = []
    works = {name: lambda name=name: order.append(name) for name in "abc"}
    clock = iter(range(100))

    def seconds(work):
        work()
        return float(next(clock))

    samples = harness.interleaved(works, seconds, 3)
    assert "".join(order) == "abc" + "bca" + "cab" + "abc"
    assert samples["a"] == [5.0, 7.0, 9.0]
    spread = harness.spread([3e-6, 1e-6, 2e-6], calls=2)
    assert spread == {"median_us": 1.0, "p10_us": 0.5, "p90_us": 1.5}


def test_cold_sets_exceed_the_cache():
    assert sweep.cold_sets(10 * 2**20, 50 * 2**20) == 15
    assert sweep.cold_sets(2**30, 50 * 2**20) == sweep.COLD_SETS[0]
    assert sweep.cold_sets(1, 50 * 2**20) == sweep.COLD_SETS[1]


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_runs_forward_without_gradients(training):
    """But not where backward follows."""
    site = Site("residual", SHAPE, mode="training" if training else "evaluation")
    call, seen = operands.draw(site, torch.float32, CPU), []
    run = contestants.contestant("eager", site, torch.float32).run

    def watched(*given):
        seen.append(torch.is_grad_enabled())
        return run(*given)

    work = sweep.Sweep(watched, [call], hot=True, calls=2, training=training)
    work.forward()
    work.both()
    assert seen == 2 * [training] + 2 * [True]
    assert len(work.grads[0]) == (4 if training else 2)  # x, residual, and two parameters


def test_interrupted_files_stay_readable(tmp_path):
    path = tmp_path / "rows.jsonl"
    harness.append_rows(path, [{"a": 1}])
    with path.open("a") as file:
        file.write('{"a": ')  # the writer was killed here
    harness.append_rows(path, [{"a": 2}, {"a": 3}])
    assert [row["a"] for row in harness.read_rows(path)] == [1, 2, 3]
    with pytest.raises(UserError, match="cannot be written"):
        harness.append_rows(tmp_path, [{}])


def test_losses_are_listed():
    def row(name, median):
        times = {"cold": {"graph": {"forward": {"median_us": median, "copy_percent": 80.0}}}}
        return {"site": {"name": "S"}, "contestant": name, "times": times, "problems": []}

    rows = [row("ours", 3.0), row("eager", 6.0), row("compile", 2.0)]
    assert table.losses(rows) == ["S: slower than compile: cold graph forward 1.50x"]
    assert table.table(rows).row_count == 1
    assert json.dumps(rows)
