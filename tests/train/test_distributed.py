"""Two processes under torchrun: the same training as one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import scotoma
from scotoma.train.commands.train import train
from scotoma.train.engine import Engine

SETTINGS = {"width": 4, "train_limit": 290, "test_limit": 101, "batch_size": 64, "epochs": 2}
# A slow training magnifies roundings least, so that runs can be compared closely.
SETTINGS["lr"] = 0.01


def torchrun(out: Path, name: str, *extra: str) -> subprocess.CompletedProcess:
    """290 images leave a last batch of 34 that does not fill a step."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += ["2", "-m", "scotoma.train", "--device", "cpu", "--out", str(out), "--name", name]
    for key, value in SETTINGS.items():
        command += [f"--{key.replace('_', '-')}", str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *extra], capture_output=True, text=True, env=environment, timeout=300
    )


def history(folder: Path):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_have_the_loss_curve_of_one(tiny, tmp_path):
    """Synchronised statistics and the same global batches; only the order of sums differs."""
    _, alone = train(tiny(**SETTINGS))
    done = torchrun(tmp_path, "two")
    assert done.returncode == 0, done.stderr
    for one, two in zip(history(alone.path), history(tmp_path / "two"), strict=True):
        assert two["train/loss"] == pytest.approx(one["train/loss"], rel=5e-4)
        assert two["test/loss"] == pytest.approx(one["test/loss"], rel=2e-3)
        assert two["train/acc1"] == pytest.approx(one["train/acc1"], abs=0.01)
    # Only rank 0 speaks and writes.
    assert done.stdout.count("run folder") == 1
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["processes"] == 2
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1


def test_local_statistics_are_another_training(tiny, tmp_path):
    """With --no-sync-stats each process normalises by its half of the batch."""
    _, alone = train(tiny(**SETTINGS))
    done = torchrun(tmp_path, "local", "--no-sync-stats")
    assert done.returncode == 0, done.stderr
    one, two = history(alone.path)[-1], history(tmp_path / "local")[-1]
    assert abs(two["train/loss"] - one["train/loss"]) > 2e-3 * one["train/loss"]
    assert two["train/loss"] < 2.5


def test_bad_input_under_torchrun_is_said_once(tmp_path):
    done = torchrun(tmp_path, "bad", "--arch", "resnet19")
    assert done.returncode != 0
    assert done.stderr.count("scotoma train: error: architecture 'resnet19' is unknown") == 1
    assert not (tmp_path / "bad").exists()


def test_an_occupied_folder_stops_all_ranks_with_one_line(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("precious")
    done = torchrun(tmp_path, "taken")
    assert done.returncode != 0
    assert done.stderr.count("taken is not empty") == 1
    ours = Path(scotoma.__file__).parent
    assert not any(f"{ours / part}/" in done.stderr for part in ("train", "defective", "kernels"))
    assert [p.name for p in (tmp_path / "taken").iterdir()] == ["notes.txt"]


def test_two_processes_resume_what_one_began(tiny, tmp_path):
    """Also the other way round: a state belongs to a run, not to a number of processes."""
    config = tiny(**SETTINGS, name="began", out=str(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "step", stop_in_step(7, Engine.step))
        outcome, folder = train(config)
    assert outcome.stopped_by
    done = torchrun_resume(folder.path)
    assert done.returncode == 0, done.stderr
    _, whole = train(tiny(**SETTINGS, name="whole"))
    for one, two in zip(history(whole.path), history(folder.path), strict=True):
        assert two["train/loss"] == pytest.approx(one["train/loss"], rel=2e-3)


def stop_in_step(number: int, original):
    def step(self, batch, current, *rest):
        if current == number:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, current, *rest)

    return step


def torchrun_resume(folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += ["2", "-m", "scotoma.train", "--resume", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
