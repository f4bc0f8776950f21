"""``scotoma bench layers`` end to end on a CPU, and what its figures are made of."""

import json
import math

import pytest
import torch
from scotoma.bench import results, timing
from scotoma.bench.layers import accuracy, command, contestants, memory, sweep, table
from scotoma.bench.layers.sites import Site, headline_sites, network_sites
from scotoma.bench.layers.traffic import minimum_bytes
from scotoma.defective import UserError, model_names

CPU = torch.device("cpu")
SHAPE = (2, 12, 5, 5)


def test_command_leaves_rows_and_a_table(tmp_path, capsys):
    out = tmp_path / "new" / "layers.jsonl"
    options = ["--cpu", "--max-sites", "1", "--repeats", "2", "--out", str(out)]
    assert command.main(options) == 0
    rows = list(results.read(out))
    assert [row["contestant"] for row in rows] == ["eager", "compile"]
    for row in rows:
        assert row["machine"]["kind"] == "cpu"
        assert row["machine"]["torch"] == torch.__version__
        assert row["problems"] == []
        assert max(row["errors"].values()) <= row["tolerance"]
        assert set(row["errors"]) == {"out", "x", "weight", "bias"}
        assert row["saved_bytes"] > 0
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
    right, wrong_row = results.read(out)
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


@pytest.mark.parametrize("kind", ["none", "residual", "projection"])
def test_a_wrong_gradient_is_seen(kind):
    """Every result is compared; a hundredth of error in one of them is seen."""
    site = Site(kind, SHAPE)
    call = contestants.draw(site, torch.float32, CPU)
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
    call = contestants.draw(site, torch.float32, CPU)
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

    samples = timing.interleaved(works, seconds, 3)
    assert "".join(order) == "abc" + "bca" + "cab" + "abc"
    assert samples["a"] == [5.0, 7.0, 9.0]
    spread = timing.spread([3e-6, 1e-6, 2e-6], calls=2)
    assert spread == {"median_us": 1.0, "p10_us": 0.5, "p90_us": 1.5}


def test_cold_sets_exceed_the_cache():
    assert sweep.cold_sets(10 * 2**20, 50 * 2**20) == 15
    assert sweep.cold_sets(2**30, 50 * 2**20) == sweep.COLD_SETS[0]
    assert sweep.cold_sets(1, 50 * 2**20) == sweep.COLD_SETS[1]


def test_interrupted_files_stay_readable(tmp_path):
    path = tmp_path / "rows.jsonl"
    results.append(path, [{"a": 1}])
    with path.open("a") as file:
        file.write('{"a": ')  # the writer was killed here
    results.append(path, [{"a": 2}, {"a": 3}])
    assert [row["a"] for row in results.read(path)] == [1, 2, 3]
    with pytest.raises(UserError, match="cannot be written"):
        results.append(tmp_path, [{}])


def test_losses_are_listed():
    def row(name, median):
        times = {"cold": {"graph": {"forward": {"median_us": median, "copy_percent": 80.0}}}}
        return {"site": {"name": "S"}, "contestant": name, "times": times, "problems": []}

    rows = [row("ours", 3.0), row("eager", 6.0), row("compile", 2.0)]
    assert table.losses(rows) == ["S: slower than compile: cold graph forward 1.50x"]
    assert table.table(rows).row_count == 1
    assert json.dumps(rows)
