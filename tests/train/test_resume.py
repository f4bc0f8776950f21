"""A run that was stopped, at any moment, ends with the weights of one that never was."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cut_runs import assert_same_weights, stop_after
from scotoma.defective import UserError, load_model
from scotoma.defective.serialization import read_details
from scotoma.train.engine import Engine
from scotoma.train.loop import StopRequest, Trainer
from scotoma.train.run import main, run_training
from scotoma.train.runfolder import RunFolder

AVERAGED = {"ema": 0.9, "schedule": "step", "milestones": [1]}
DROPPED = {"regularizer": "dropblock", "defects": "standard"}
ATTACKED = {"adversarial_eps": 0.03, "adversarial_steps": 1}
PAIRED = ATTACKED | {"logit_pairing": 0.5, "thermometer": 4}
CHOSEN = {"evaluate_on": "validation", "validation_fraction": 0.05}


@pytest.mark.parametrize(
    ("changes", "stop"),
    [
        ({"augment": "crop-flip"}, 3),
        ({"augment": "crop-flip"}, 7),
        (AVERAGED | DROPPED | CHOSEN, 7),
        (PAIRED, 3),
        *(
            pytest.param(changes, stop, marks=pytest.mark.slow)
            for changes in (AVERAGED, DROPPED, ATTACKED, PAIRED, CHOSEN)
            for stop in (3, 7)
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_ctrl_c_then_resume_is_bit_equal(tiny, monkeypatch, changes, stop):
    """5 steps an epoch: step 3 is in the first epoch, step 7 in the second."""
    compare_cut_and_whole(tiny, monkeypatch, changes, stop)


def test_the_gradient_scaler_resumes_too(tiny, monkeypatch):
    """float16 is slow on a CPU, so the run is smaller."""
    changes = {"precision": "float16", "train_limit": 160, "test_limit": 20}
    compare_cut_and_whole(tiny, monkeypatch, changes, stop=5)


@pytest.mark.parametrize(
    ("size", "changes"),
    [
        pytest.param((20, 20), {"augment": "crop-flip"}, marks=pytest.mark.slow),
        ((90, 80), {"augment": "imagenet", "image_size": 72, "workers": 1}),
    ],
    ids=["in memory", "streamed"],
)
def test_image_folders_resume_bit_equal(tiny, monkeypatch, image_folder, size, changes):
    """Two steps an epoch; the settings that the run resolved read the same images again."""
    root = image_folder(size=size, train=12, test=4)
    changes |= {"dataset": str(root), "batch_size": 16}
    compare_cut_and_whole(tiny, monkeypatch, changes, stop=3)


def compare_cut_and_whole(tiny, monkeypatch, changes, stop):
    config = tiny(name="whole", **changes)
    _, whole = run_training(config)
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        outcome, cut = run_training(replace(config, name="cut"))
    assert outcome.stopped_by == signal.SIGINT
    assert outcome.summary is None
    outcome, _ = run_training(config, resume=cut.path)
    assert outcome.summary["epochs"] == 2
    assert_same_weights(whole.path, cut.path)
    first, second = (
        [
            {k: v for k, v in record.items() if k not in ("epoch_s", "img_per_s")}
            for record in torch.load(f.path / "resume.pt", weights_only=True)["history"]
        ]
        for f in (whole, cut)
    )
    assert first == second


@pytest.mark.parametrize(
    "moment",
    [
        "while saving",
        pytest.param("in the first epoch", marks=pytest.mark.slow),
        pytest.param("between epochs", marks=pytest.mark.slow),
    ],
)
def test_a_killed_process_resumes_bit_equal(tiny, moment, tmp_path):
    """SIGKILL at a chosen moment, in a process of its own."""
    config = tiny(name="whole")
    _, whole = run_training(config)
    script = tmp_path / "victim.py"
    script.write_text(
        f"""
import os, signal, sys, torch
from pathlib import Path
torch.set_num_threads(1)  # as in the tests
from scotoma.train import engine, runfolder
from scotoma.train.run import run_training
from scotoma.train.config import TrainConfig
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
moment = {moment!r}
if moment == "in the first epoch":
    step = engine.Engine.step
    def patched(self, batch, number, *rest):
        return die() if number == 2 else step(self, batch, number, *rest)
    engine.Engine.step = patched
elif moment == "between epochs":
    runfolder.RunFolder.write_events = lambda self, record: die()
else:
    write, states = Path.write_bytes, []
    def patched(self, content):
        if self.name.startswith(".resume.pt"):
            states.append(self)
            if len(states) == 2:
                write(self, bytes(content)[:1000])
                die()
        return write(self, content)
    Path.write_bytes = patched
run_training(TrainConfig(**{ {**vars(config), "name": "killed"}!r}))
"""
    )
    process = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    killed = Path(config.out) / "killed"
    outcome, _ = run_training(config, resume=killed)
    assert outcome.summary["epochs"] == 2
    assert_same_weights(whole.path, killed)
    lines = (killed / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert not list(killed.glob(".*"))  # half-written files are cleared away


def test_sigterm_saves_too_and_the_command_says_how_to_go_on(tiny, tmp_path):
    command = [sys.executable, "-m", "scotoma.train", "--out", str(tmp_path), "--name", "long"]
    command += [
        "--save-seconds",
        "0",
        "--width",
        "4",
        "--epochs",
        "500",
        "--train-limit",
        "300",
        "--test-limit",
        "20",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "long" / "resume.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    # Nobody else goes on with it, or begins there, as long as it lives.
    for again in (["--resume", "long"], ["--name", "long"], ["--name", "long", "--overwrite"]):
        asked = tiny(out=str(tmp_path), name="long", overwrite="--overwrite" in again)
        with pytest.raises(UserError, match=rf"is running there \(process {process.pid} on"):
            run_training(asked, tmp_path / "long" if "--resume" in again else None)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert f"scotoma train --resume {tmp_path / 'long'}" in output


STREAMED = {"image_size": 72, "workers": 2, "batch_size": 4, "save_seconds": 1000.0}


def test_sigterm_to_the_process_group_finds_workers_that_ignore_it(tiny, image_folder, tmp_path):
    """As from timeout, SLURM and systemd; in a process group of its own."""
    root = image_folder(size=(80, 80), train=30, test=2)
    config = tiny(dataset=str(root), epochs=500, name="long", **STREAMED)
    script = (
        "import sys; from scotoma.train.run import run_training\n"
        "from scotoma.train.config import TrainConfig\n"
        f"outcome, _ = run_training(TrainConfig(**{vars(config)!r})); sys.exit(outcome.stopped_by)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    metrics, deadline = Path(config.out) / "long" / "metrics.jsonl", time.monotonic() + 60
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == signal.SIGTERM, errors
    state = RunFolder(metrics.parent).load_state()
    assert state["epoch"] + state["step"] > 0
    assert not (metrics.parent / ".lock").exists()


@pytest.mark.usefixtures("unwatched_children")
def test_a_killed_worker_loses_no_step(tiny, image_folder, monkeypatch):
    """As the kernel kills when memory runs out. torch looks every five seconds."""
    root = image_folder(size=(80, 80), train=20, test=2)
    config = tiny(dataset=str(root), epochs=1, **STREAMED | {"workers": 1})
    _, whole = run_training(replace(config, name="whole"))
    original = Engine.step

    def step(self, batch, number, *rest):
        if number == 2:
            for worker in multiprocessing.active_children():
                worker.kill()
        return original(self, batch, number, *rest)

    with monkeypatch.context() as patch, pytest.raises(UserError) as ended:
        patch.setattr(Engine, "step", step)
        run_training(replace(config, name="cut"))
    cut = whole.path.with_name("cut")
    for words in ("worker was killed", "less than 1 --workers", f"--resume {cut}"):
        assert words in str(ended.value)
    assert RunFolder(cut).load_state()["step"] > 2
    run_training(config, resume=cut)
    assert_same_weights(whole.path, cut)


def test_metrics_grow_by_a_line_and_what_was_half_written_is_mended(tmp_path):
    history = [{"epoch": number} for number in range(1, 5)]
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epoch": 9}\n{"epo')
    folder = RunFolder(tmp_path)
    folder.write_metrics(history[:3])
    inode = file.stat().st_ino
    folder.write_metrics(history)
    assert file.stat().st_ino == inode  # not written whole
    assert [json.loads(line) for line in file.read_text().splitlines()] == history


def test_why_a_state_could_not_be_saved_is_said(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"removed, renamed or unmounted .* --resume FOLDER"):
        RunFolder(tmp_path / "gone").save_state({})

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp", read_only)
    with pytest.raises(UserError, match=r"Read-only file system\. .* is whole\. Mend that, then"):
        RunFolder(tmp_path).save_state({})


def test_epochs_since_the_last_checkpoint_are_repeated(tiny, monkeypatch):
    """Checkpoints are rare here, and the process dies in epoch 3: only its metrics are there."""
    config = tiny(epochs=3, name="whole")
    _, whole = run_training(config)

    class Death(BaseException):
        pass

    def die(self, batch, number, *rest):
        if number == 12:
            raise Death
        return original(self, batch, number, *rest)

    original = Engine.step
    with monkeypatch.context() as patch, pytest.raises(Death):
        patch.setattr(Engine, "step", die)
        run_training(replace(config, name="cut", save_seconds=1e6))
    cut = whole.path.with_name("cut")
    assert len((cut / "metrics.jsonl").read_text().splitlines()) == 2
    assert torch.load(cut / "resume.pt", weights_only=True)["epoch"] == 1
    run_training(config, resume=cut)
    assert len((cut / "metrics.jsonl").read_text().splitlines()) == 3
    assert_same_weights(whole.path, cut)
    best = [load_model(f / "best.safetensors").state_dict() for f in (whole.path, cut)]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])


def test_a_finished_run_resumes_to_its_result(tiny):
    config = tiny()
    outcome, folder = run_training(config)
    before = (folder.path / "last.safetensors").read_bytes()
    again, _ = run_training(config, resume=folder.path)
    assert again.summary["test/acc1"] == outcome.summary["test/acc1"]
    assert (folder.path / "last.safetensors").read_bytes() == before


@pytest.mark.parametrize("state", [True, False], ids=["with its state", "without"])
def test_a_finished_run_whose_weights_are_gone_gets_them_back(tiny, monkeypatch, state):
    """From its state, or trained anew: then the old summary is not taken for the new one's."""
    config = tiny(epochs=1)
    _, folder = run_training(config)
    path, copy = folder.path, folder.path.with_name("copy")
    shutil.copytree(path, copy)
    for name in ["last.safetensors"] if state else ["last.safetensors", "resume.pt"]:
        (path / name).unlink()
    seen, save_model = [], RunFolder.save_model

    def save(self, *rest):
        seen.append((path / "summary.json").exists())
        save_model(self, *rest)

    monkeypatch.setattr(RunFolder, "save_model", save)
    run_training(config, resume=path)
    assert_same_weights(path, copy)
    assert set(seen) == {state}
    kept = path / ("summary.json" if state else "summary-before.json")
    assert json.loads(kept.read_text()) == json.loads((copy / "summary.json").read_text())


@pytest.mark.parametrize("evaluate_on", ["test", "validation"])
def test_told_to_stop_after_the_last_step(tiny, monkeypatch, capsys, evaluate_on):
    """The run is finished, and whoever called it learns of the signal."""
    config = tiny(epochs=1, evaluate_on=evaluate_on)
    evaluate, calls = Trainer._evaluate, []

    def told(self, batches):
        calls.append(batches)
        if len(calls) == (2 if evaluate_on == "validation" else 1):  # the test set, in the end
            signal.raise_signal(signal.SIGTERM)
        return evaluate(self, batches)

    monkeypatch.setattr(Trainer, "_evaluate", told)
    outcome, folder = run_training(config)
    assert outcome.stopped_by == signal.SIGTERM
    assert outcome.summary["epochs"] == 1 and (folder.path / "summary.json").exists()
    # The command did what it was asked for.
    calls.clear()
    options = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()]
    assert main([*options, "--out", config.out, "--name", "command"]) == 0
    assert "test accuracy" in capsys.readouterr().out


SMALL = {"width": 4, "train_limit": 64, "test_limit": 20, "epochs": 1, "device": "cpu"}


def test_an_error_does_not_hide_a_signal(tiny, monkeypatch):
    def fail(self, batches):
        signal.raise_signal(signal.SIGINT)
        raise UserError("a bad file")

    monkeypatch.setattr(Trainer, "_evaluate", fail)
    stop = StopRequest()
    with pytest.raises(UserError, match="a bad file"):
        run_training(tiny(epochs=1), stop=stop)
    assert stop.signal == signal.SIGINT


def test_stopping_right_after_resuming_loses_nothing(tiny, monkeypatch):
    """Ctrl-C again, before the resumed run took a step: details of the checkpoint stay, too."""
    config = tiny(name="whole", epochs=3)
    with monkeypatch.context() as patch:
        stop_after(patch, 10)  # the last step of epoch 2 is finished with its epoch
        _, folder = run_training(config)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_told_to_stop", lambda self, stop: True)
        outcome, _ = run_training(config, resume=folder.path)
    assert outcome.summary is None
    assert read_details(folder.path / "last.safetensors")[1]["epoch"] == 2
    outcome, _ = run_training(config, resume=folder.path)
    assert outcome.summary["epochs"] == 3


def test_a_moved_run_resumes_where_it_is(tiny, monkeypatch):
    config = tiny(name="here")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        _, folder = run_training(config)
    moved = folder.path.with_name("there")
    folder.path.rename(moved)
    outcome, resumed = run_training(config, resume=moved)
    assert outcome.summary["name"] == "there"
    assert resumed.path == moved
    assert not folder.path.exists()


def test_ctrl_c_stops_a_run_of_one_step_an_epoch(tiny, monkeypatch):
    stop_after(monkeypatch, 3)
    outcome, folder = run_training(tiny(train_limit=60, epochs=50))
    assert outcome.stopped_by == signal.SIGINT
    assert len((folder.path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_run_killed_before_its_settings_were_written_can_start_again(tiny):
    config = tiny(epochs=1, name="x")
    (Path(config.out) / "x").mkdir(parents=True)
    (Path(config.out) / "x" / ".config.yaml.abc.tmp").write_text("epo")
    run_training(config)


@pytest.mark.slow
def test_compiled_runs_resume_bit_equal(tiny, monkeypatch):
    """The resumed process meets the short last batch first; shapes must not become dynamic."""
    config = tiny(name="whole", compile="default", train_limit=172, epochs=1)
    _, whole = run_training(config)
    torch.compiler.reset()
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        _, cut = run_training(replace(config, name="cut"))
    torch.compiler.reset()
    run_training(config, resume=cut.path)
    assert_same_weights(whole.path, cut.path)


def test_a_second_ctrl_c_ends_at_once():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
