"""Two processes under torchrun: the same training as one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import scotoma
from scotoma.train.engine import Engine
from scotoma.train.run import run_training
from scotoma.train.runfolder import RunFolder

SETTINGS = {"width": 4, "train_limit": 290, "test_limit": 101, "batch_size": 64, "epochs": 2}
# A slow training magnifies roundings least, so that runs can be compared closely.
SETTINGS["lr"] = 0.01


def torchrun(
    out: Path, name: str, *extra: str, program: tuple[str, ...] = ("-m", "scotoma.train")
) -> subprocess.CompletedProcess:
    """290 images leave a last batch of 34 that does not fill a step."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += ["2", *program, "--device", "cpu", "--out", str(out), "--name", name]
    for key, value in SETTINGS.items():
        command += [f"--{key.replace('_', '-')}", str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *extra], capture_output=True, text=True, env=environment, timeout=300
    )


def history(folder: Path):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


CHANGED = """
import os
import signal
import sys
import torch
import torch.distributed as dist
from scotoma.defective import mask_sites
from scotoma.train import run
from scotoma.train.cli import main
from scotoma.train.distributed import end
from scotoma.train.engine import Engine

def as_nccl_does(name):
    "Refuse what ProcessGroupNCCL refuses, which Gloo takes."
    original = getattr(dist, name)

    def collective(*args, **options):
        for tensor in args:
            if isinstance(tensor, torch.Tensor) and not tensor.is_contiguous():
                last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
                assert last, f"Tensors must be contiguous: {name} {tuple(tensor.shape)}"
        return original(*args, **options)

    setattr(dist, name, collective)

for name in ("broadcast", "all_reduce", "all_gather_into_tensor"):
    as_nccl_does(name)

def another_mask(build):
    def built(*args):
        model = build(*args)
        if os.environ["RANK"] == "1":
            next(iter(mask_sites(model).values()))[0, 0, 0].logical_not_()
        return model

    return built

def killed(step):
    def stepped(self, batch, number, *rest):
        if number == 7 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batch, number, *rest)

    return stepped

if sys.argv[1] == "killed":
    Engine.step = killed(Engine.step)
if sys.argv[1] == "another-mask":
    run.build_model = another_mask(run.build_model)
end(main(["train", *sys.argv[2:]]))
"""


@pytest.fixture
def changed(tmp_path):
    """Words that run ``scotoma train`` with collectives as strict as NCCL's."""
    path = tmp_path / "changed.py"
    path.write_text(CHANGED)
    return lambda *words: (str(path), *words)


def test_two_processes_have_the_loss_curve_of_one(tiny, tmp_path, changed):
    """Synchronised statistics and the same global batches; only the order of sums differs.

    In channels_last, as on a GPU, where masks lie in the order of the activations; and every
    collective is one that NCCL takes.
    """
    _, alone = run_training(tiny(**SETTINGS, channels_last=True))
    done = torchrun(tmp_path, "two", "--channels-last", "true", program=changed("strict"))
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


@pytest.mark.slow
def test_local_statistics_are_another_training(tiny, tmp_path, changed):
    """With --no-sync-stats each process normalises by its half of the batch; NCCL takes it all."""
    _, alone = run_training(tiny(**SETTINGS))
    options = ["--no-sync-stats", "--channels-last", "true", "--ema", "0.9"]
    done = torchrun(tmp_path, "local", *options, program=changed("strict"))
    assert done.returncode == 0, done.stderr
    one, two = history(alone.path)[-1], history(tmp_path / "local")[-1]
    assert abs(two["train/loss"] - one["train/loss"]) > 2e-3 * one["train/loss"]
    assert two["train/loss"] < 2.5


def test_processes_with_different_masks_are_refused(tmp_path, changed):
    done = torchrun(tmp_path, "odd", "--defects", "0.3-Bottom", program=changed("another-mask"))
    assert done.returncode != 0
    assert done.stderr.count("the processes have drawn different masks") == 1
    assert not (tmp_path / "odd").exists()


def test_a_killed_rank_is_said_with_how_to_go_on(tmp_path, changed):
    """By the kernel, say, when memory runs out; in the second epoch."""
    done = torchrun(tmp_path, "cut", "--save-seconds", "0", program=changed("killed"))
    assert done.returncode != 0
    said = "another process of this training ended"
    command = f"torchrun --nproc-per-node 2 -m scotoma.train --resume {tmp_path / 'cut'}"
    (line,) = (line for line in done.stderr.splitlines() if said in line)
    assert command in line
    assert RunFolder(tmp_path / "cut").load_state()["epoch"] == 1


def test_bad_input_under_torchrun_is_said_once(tmp_path):
    done = torchrun(tmp_path, "bad", "--arch", "resnet19")
    assert done.returncode != 0
    assert done.stderr.count("scotoma train: error: architecture 'resnet19' is unknown") == 1
    assert not (tmp_path / "bad").exists()


@pytest.mark.slow
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
        outcome, folder = run_training(config)
    assert outcome.stopped_by
    done = torchrun_resume(folder.path)
    assert done.returncode == 0, done.stderr
    _, whole = run_training(tiny(**SETTINGS, name="whole"))
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
