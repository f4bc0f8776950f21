"""Two processes, as torchrun starts them: the same training as one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from cut_runs import history, stop_after
from forks import in_ranks
from scotoma.defective import mask_sites
from scotoma.train import run
from scotoma.train.cli import main
from scotoma.train.engine import Engine
from scotoma.train.run import run_training
from scotoma.train.runfolder import RunFolder

# 290 images leave a last batch of 34 that does not fill a step.
SETTINGS = {"width": 4, "train_limit": 290, "test_limit": 101, "batch_size": 64, "epochs": 2}
# A slow training magnifies roundings least, so that runs can be compared closely.
SETTINGS["lr"] = 0.01


def two_processes(out: Path, name: str, prepare=lambda: None, **more):
    """What ``scotoma train`` ends with and says on both ranks; ``prepare`` is done before."""
    settings = SETTINGS | {"device": "cpu", "out": out, "name": name} | more
    settings = {name: value for name, value in settings.items() if value is not None}
    words = ["train"]
    for key, value in settings.items():
        option = key.replace("_", "-")
        words.append(f"--no-{option}" if value is False else f"--{option}={value}")

    def work():
        prepare()
        return main(words)

    return in_ranks(work, out / "said")


def as_strict_as_nccl():
    """Refuse what ProcessGroupNCCL refuses, which Gloo takes."""

    def strict(name, original):
        def collective(*args, **options):
            for tensor in args:
                if isinstance(tensor, torch.Tensor) and not tensor.is_contiguous():
                    last = tensor.is_contiguous(memory_format=torch.channels_last)
                    assert tensor.dim() == 4 and last, f"Tensors must be contiguous: {name}"
            return original(*args, **options)

        setattr(dist, name, collective)

    for name in ("broadcast", "all_reduce", "all_gather_into_tensor"):
        strict(name, getattr(dist, name))


PAIRED = {"adversarial_eps": 0.1, "adversarial_steps": 1, "logit_pairing": 0.5, "thermometer": 4}
PAIRED |= {"adversarial_test_images": 20, "augment": "none"}


@pytest.mark.parametrize(
    ("changes", "train", "test", "accuracy"),
    [
        ({"channels_last": True}, 5e-4, 2e-3, 0.01),
        # The random start each process draws for itself.
        pytest.param(PAIRED, 2e-2, 2e-2, 0.05, marks=pytest.mark.slow),
    ],
    ids=["plain", "paired"],
)
def test_two_processes_have_the_loss_curve_of_one(tiny, tmp_path, changes, train, test, accuracy):
    """Synchronised statistics and the same global batches; only the order of sums differs.

    In channels_last, as on a GPU, where masks lie in the order of the activations; and every
    collective is one that NCCL takes.
    """
    _, alone = run_training(tiny(**SETTINGS, **changes))
    (first, said, errors), other = two_processes(tmp_path, "two", as_strict_as_nccl, **changes)
    assert (first, other[0]) == (0, 0), errors + other[2]
    for one, two in zip(history(alone.path), history(tmp_path / "two"), strict=True):
        assert two["train/loss"] == pytest.approx(one["train/loss"], rel=train)
        assert two["test/loss"] == pytest.approx(one["test/loss"], rel=test)
        assert two["train/acc1"] == pytest.approx(one["train/acc1"], abs=accuracy)
    # Only rank 0 speaks and writes.
    assert said.count("run folder") == 1 and not other[1]
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["processes"] == 2
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1


@pytest.mark.slow
def test_local_statistics_are_another_training(tiny, tmp_path):
    """With --no-sync-stats each process normalises by its half of the batch; NCCL takes it all."""
    _, alone = run_training(tiny(**SETTINGS))
    options = {"sync_stats": False, "channels_last": True, "ema": 0.9}
    ends = two_processes(tmp_path, "local", as_strict_as_nccl, **options)
    assert [status for status, *_ in ends] == [0, 0], ends
    one, two = history(alone.path)[-1], history(tmp_path / "local")[-1]
    assert abs(two["train/loss"] - one["train/loss"]) > 2e-3 * one["train/loss"]
    assert two["train/loss"] < 2.5


def draw_another_mask_on_rank_1():
    def build(*args, original=run.build_model):
        model = original(*args)
        if os.environ["RANK"] == "1":
            next(iter(mask_sites(model).values()))[0, 0, 0].logical_not_()
        return model

    run.build_model = build


def test_what_is_wrong_for_all_is_said_once(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("precious")
    for name, options, words in (
        ("odd", {"prepare": draw_another_mask_on_rank_1}, "processes have drawn different masks"),
        ("bad", {"arch": "resnet19"}, "scotoma train: error: architecture 'resnet19' is unknown"),
        ("taken", {}, "taken is not empty"),
    ):
        ends = two_processes(tmp_path, name, **options)
        assert [status for status, *_ in ends] == [2, 2]
        errors = "".join(err for *_, err in ends)
        assert errors.count(words) == 1 and "Traceback" not in errors
    left = {path.name for path in tmp_path.rglob("*") if path.parent.name != "said"}
    assert left == {"said", "taken", "notes.txt"}


def kill_rank_1_in_the_second_epoch():
    def step(self, batch, number, *rest, original=Engine.step):
        if number == 7 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, batch, number, *rest)

    Engine.step = step


def test_a_killed_rank_is_said_with_how_to_go_on(tmp_path):
    """By the kernel, say, when memory runs out."""
    (status, _, errors), (killed, *_) = two_processes(
        tmp_path, "cut", kill_rank_1_in_the_second_epoch, save_seconds=0
    )
    assert (status, killed) == (2, -signal.SIGKILL)
    (line,) = (e for e in errors.splitlines() if "another process of this training ended" in e)
    assert f"torchrun --nproc-per-node 2 -m scotoma.train --resume {tmp_path / 'cut'}" in line
    assert RunFolder(tmp_path / "cut").load_state()["epoch"] == 1


def test_two_processes_resume_what_one_began(tiny, tmp_path, monkeypatch):
    """By torchrun itself. A state belongs to a run, not to a number of processes."""
    with monkeypatch.context() as patch:
        stop_after(patch, 8)
        outcome, folder = run_training(tiny(**SETTINGS, name="began", out=str(tmp_path)))
    assert outcome.stopped_by
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += ["2", "-m", "scotoma.train", "--resume", str(folder.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run folder") == 1
    _, whole = run_training(tiny(**SETTINGS, name="whole"))
    for one, two in zip(history(whole.path), history(folder.path), strict=True):
        assert two["train/loss"] == pytest.approx(one["train/loss"], rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:densenet121", "torchvision:resnet18"])
def test_networks_of_other_libraries_have_the_loss_curve_of_one_process(tiny, tmp_path, name):
    """All their batch norms are synchronised: plain, masked, and timm's with activation."""
    settings = {"arch": name, "width": None, "train_limit": 128, "test_limit": 60, "epochs": 1}
    settings |= {"image_size": 32}
    _, alone = run_training(tiny(**SETTINGS | settings))
    (first, *_, errors), other = two_processes(tmp_path, "two", **settings)
    assert (first, other[0]) == (0, 0), errors + other[2]
    (one,), (two,) = history(alone.path), history(tmp_path / "two")
    assert two["train/loss"] == pytest.approx(one["train/loss"], rel=1e-3)
    assert two["test/loss"] == pytest.approx(one["test/loss"], rel=1e-3)
