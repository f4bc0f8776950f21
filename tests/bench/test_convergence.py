"""``scotoma bench convergence``: the clock, the target, and that it trains what training trains."""

from dataclasses import replace

import pytest
import torch
from scotoma.bench import convergence
from scotoma.bench.convergence import Run, mean_and_error, measure_run
from scotoma.bench.harness import read_rows
from scotoma.defective import UserError
from scotoma.train.run import run_training
from scotoma.train.settings import parse
from scotoma.train.setup import load_data, resolve

CPU = torch.device("cpu")
SMALL = ["--width", "4", "--train-limit", "300", "--test-limit", "100", "--batch-size", "64"]
SMALL += ["--epochs", "2", "--lr", "0.05"]


@pytest.mark.parametrize(
    "extra", [pytest.param([], marks=pytest.mark.slow), ["--ema", "0.9"]], ids=["plain", "ema"]
)
def test_runs_are_those_of_training(tmp_path, extra):
    """What is done once, before the clock runs, leaves no trace in the weights."""
    config, _ = parse([*SMALL, *extra, "--out", str(tmp_path), "--seed", "1"])
    outcome, _ = run_training(replace(config, device="cpu", backend="eager"))
    data = load_data(resolve(config, CPU))
    config = resolve(replace(config, seed=7, mask_seed=7), CPU)  # the run's own counts
    row = measure_run(Run("eager", 1), config, data, CPU, 0.9)
    assert row["accuracy"] == outcome.summary["test/acc1"]
    assert row["history"][-1]["accuracy"] == row["accuracy"]
    assert row["history"][-1]["loss"] == outcome.summary["test/loss"]
    assert row["epochs"] == len(row["history"]) == 2 and row["problems"] == []


def test_command(tmp_path, capsys, monkeypatch):
    out = tmp_path / "rows.jsonl"
    options = ["--cpu", "--seeds", "2", "--target", "0.05", "--out", str(out), *SMALL]
    assert convergence.main(options) == 0
    rows = list(read_rows(out))
    assert [(row["contestant"], row["seed"]) for row in rows] == [("eager", 0), ("eager", 1)]
    for row in rows:
        first = next(e for e in row["history"] if e["accuracy"] >= 0.05)
        assert row["seconds_to_target"] == first["seconds"]
        assert row["epochs_to_target"] == first["epoch"]
        assert row["history"][0]["seconds"] < row["history"][1]["seconds"] == row["train_s"]
        assert row["settings"]["target"] == 0.05 and "out" not in row["settings"]
    assert "2 of 2 at 5.00%" in capsys.readouterr().out
    # Another seed joins; those that are there stay as they are. Other settings are another run.
    done = []
    measured = dict.fromkeys(("seconds_to_target", "epochs_to_target"))
    measured |= {"accuracy": 0.5, "train_s": 1.0, "problems": []}
    shown = {"arch": "", "defects": "", "dataset": "", "contestant": "eager", "target": 0.05}
    monkeypatch.setattr(
        convergence, "measure_run", lambda run, *_: done.append(str(run)) or measured | shown
    )
    options[2] = "3"
    assert convergence.main([*options, "--resume"]) == 0 and done == ["eager seed 2"]
    assert list(read_rows(out))[:2] == rows
    assert convergence.main([*options[:2], "1", *options[3:], "--resume", "--lr", "0.01"]) == 0
    assert done[1:] == ["eager seed 0"]


def test_evaluation_is_not_on_the_clock(monkeypatch):
    """With a slow evaluation the seconds of training stay what they are."""
    clock = {"now": 0.0}
    monkeypatch.setattr(convergence, "_now", lambda device: clock["now"])
    step, evaluate = convergence.Engine.step, convergence.Engine.evaluate

    def slow_step(self, *arguments):
        clock["now"] += 1.0
        return step(self, *arguments)

    def slow_evaluate(self, *arguments):
        clock["now"] += 100.0
        return evaluate(self, *arguments)

    monkeypatch.setattr(convergence.Engine, "step", slow_step)
    monkeypatch.setattr(convergence.Engine, "evaluate", slow_evaluate)
    config = resolve(parse(SMALL)[0], CPU)
    row = measure_run(Run("eager", 0), config, load_data(config), CPU, 0.0)
    assert [e["seconds"] for e in row["history"]] == [5.0, 10.0]  # 300 images in batches of 64
    assert row["seconds_to_target"] == 5.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "93"], ["target", "93", "0.93"]),
        (["--seed", "4"], ["--seed", "leave it out"]),
        (["--compile=default"], ["--compile", "variants"]),
        (["--epohcs", "4"], ["--epohcs", "--epochs"]),
        (["--contestants", "fast"], ["variants", "fast"]),
        (["--contestants", "eager-graph"], ["--cuda-graph", "GPU"]),
        (["--contestants", "reference"], ["reference", "bench step"]),
        (["--evaluate-on", "validation"], ["evaluate-on", "test"]),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(UserError) as error:
        convergence.main(["--cpu", *options])
    assert all(word in str(error.value) for word in words)


def test_diverged_runs_are_said(tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    options = ["--cpu", "--seeds", "1", "--out", str(out), *SMALL, "--lr", "1e30"]
    assert convergence.main(options) == 1
    (row,) = read_rows(out)
    assert row["problems"] == ["training diverged"]
    assert row["seconds_to_target"] is None and row["epochs_to_target"] is None
    assert "diverged" in capsys.readouterr().out


def test_mean_and_standard_error():
    assert mean_and_error([], ".2f") == "-" and mean_and_error([2.0], ".2f") == "2.00"
    assert mean_and_error([1.0, 2.0, 3.0, 4.0], ".3f") == f"2.500 ± {(5 / 3) ** 0.5 / 2:.3f}"
