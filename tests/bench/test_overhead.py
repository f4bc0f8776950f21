"""``scotoma bench overhead``: both variants compute the same, and the launches are counted."""

import json

import pytest
import torch
from scotoma.bench import overhead
from scotoma.kernels import backends
from scotoma.train.cli import main


@pytest.mark.skipif(not backends.interpreting(), reason="needs TRITON_INTERPRET=1, as on a CPU")
@pytest.mark.parametrize("form", overhead.FORMS)
@pytest.mark.parametrize("mode", overhead.MODES)
def test_both_variants_compute_the_same(form, mode):
    ours, eager = overhead.works(form, mode, torch.float32).values()
    grad = torch.randn(overhead.SHAPE)
    with torch.set_grad_enabled(mode != "infer"):
        results = [work.forward() for work in (ours, eager)]
        torch.testing.assert_close(*results)
        assert bool(ours.inputs) == (mode != "infer")
        if ours.inputs:
            torch.testing.assert_close(
                *(torch.autograd.grad(out, ours.inputs, grad) for out in results)
            )


def test_calls_are_timed_and_their_launches_counted(tmp_path, capfd):
    """In another process than this one, in which Triton interprets."""
    file = tmp_path / "overhead.jsonl"
    argv = ["--forms", "projection", "--rounds", "2", "--calls", "2", "--out", str(file)]
    assert main(["bench", "overhead", *argv]) == 0
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["mode"], row["contestant"]) for row in rows] == [
        (mode, name) for mode in overhead.MODES for name in ("ours", "eager")
    ]
    launches = {row["mode"]: row["launches"] for row in rows if row["contestant"] == "ours"}
    assert launches["train"]["forward"] > launches["infer"]["forward"] == 1
    assert launches["train"]["backward"] > launches["attack"]["backward"] == 1
    assert launches["infer"]["backward"] == 0
    for row in rows:
        assert row["launches"] is None or row["contestant"] == "ours"
        times = row["times"]
        assert 0 < times["forward"]["best_us"] <= times["forward"]["median_us"]
        assert times["both"]["best_us"] >= times["forward"]["best_us"]
        assert row["machine"]["threads"] == 1
    assert "projection attack" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--variants", "plane"], "Did you mean 'plain'?"),  # the option's former name
        (["--modes", "eval"], "expected some of"),
        (["--loop", "--defects", "0.3-Buttom"], "0.3-Buttom"),
    ],
)
def test_bad_options_are_refused(capsys, options, text):
    assert main(["bench", "overhead", *options]) == 2
    assert text in capsys.readouterr().err


def test_the_loops_share_is_measured(capsys, monkeypatch):
    pytest.importorskip("jsonargparse", reason="jsonargparse is not installed")
    monkeypatch.setattr(overhead, "LOOP_ROUNDS", 2)
    options = ["--loop", "--device", "cpu", "--width", "4", "--batch-size", "16"]
    assert main(["bench", "overhead", *options]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name in ("bare_step_ms", "loop_step_ms", "data_step_ms"):
        assert result[name] > 0
    assert result["data_step_ms"] < result["loop_step_ms"]
    assert (result["arch"], result["defects"]) == ("resnet18", "0.3-Bottom")
    assert result["loop_share"] < 1
