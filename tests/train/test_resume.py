"""A run that was stopped, at any moment, ends with the weights of one that never was."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cut_runs import assert_same_weights, before_step, stop_after
from forks import Forked
from scotoma.defective import UserError, load_model
from scotoma.defective.serialization import read_details
from scotoma.train import cli
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
        (PAIRED | {"train_limit": 150}, 2),
        # Slow on a CPU.
        ({"precision": "float16", "train_limit": 100, "test_limit": 20}, 3),
        *(
            pytest.param(changes, stop, marks=pytest.mark.slow)
            for changes in (AVERAGED, DROPPED, ATTACKED, PAIRED, CHOSEN, {"precision": "float16"})
            for stop in (3, 7)
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_ctrl_c_then_resume_is_bit_equal(tiny, ran, changes, stop):
    """5 steps an epoch (2 of the smaller): some stop in the first epoch, some in the second."""
    compare_cut_and_whole(tiny(**changes), ran, stop)


@pytest.mark.parametrize(
    ("size", "changes"),
    [
        pytest.param((20, 20), {"augment": "crop-flip"}, marks=pytest.mark.slow),
        ((90, 80), {"augment": "imagenet", "image_size": 72, "workers": 1}),
    ],
    ids=["in memory", "streamed"],
)
def test_image_folders_resume_bit_equal(tiny, ran, image_folder, size, changes):
    """Two steps an epoch; the settings that the run resolved read the same images again."""
    root = image_folder(size=size, train=12, test=4)
    compare_cut_and_whole(tiny(dataset=str(root), batch_size=16, **changes), ran, stop=3)


def compare_cut_and_whole(config, ran, stop):
    """The run that was cut goes on in a folder of another place and name."""
    whole, cut = ran(config), ran(config, stop)
    outcome, resumed = run_training(config, resume=cut)
    assert outcome.summary["epochs"] == 2
    assert (resumed.path, outcome.summary["name"]) == (cut, cut.name)
    assert_same_weights(whole, cut)
    states = [torch.load(folder / "resume.pt", weights_only=True) for folder in (whole, cut)]
    for state in states:
        for record in state["history"]:
            del record["epoch_s"], record["img_per_s"]
    assert states[0]["history"] == states[1]["history"]
    assert states[0]["engine"]["scaler"] == states[1]["engine"]["scaler"]


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def die_while_saving():
    """In the middle of writing the second epoch's state."""
    written, write = [], Path.write_bytes

    def write_bytes(self, content):
        if self.name.startswith(".resume.pt"):
            written.append(self)
            if len(written) == 2:
                write(self, bytes(content)[:1000])
                die()
        return write(self, content)

    Path.write_bytes = write_bytes


def die_in_the_first_epoch():
    before_step(pytest.MonkeyPatch(), 2, die)


def die_between_epochs():
    RunFolder.write_events = die


@pytest.mark.parametrize(
    "moment",
    [
        die_while_saving,
        pytest.param(die_in_the_first_epoch, marks=pytest.mark.slow),
        pytest.param(die_between_epochs, marks=pytest.mark.slow),
    ],
)
def test_a_killed_process_resumes_bit_equal(tiny, ran, moment, tmp_path):
    """SIGKILL at a chosen moment, in a process of its own."""
    config = tiny(name="killed")

    def work():
        moment()
        run_training(config)

    status, _, errors = Forked(work, tmp_path / "said").wait()
    assert status == -signal.SIGKILL, errors
    killed = Path(config.out) / "killed"
    outcome, _ = run_training(config, resume=killed)
    assert outcome.summary["epochs"] == 2
    assert_same_weights(ran(config), killed)
    lines = (killed / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert not list(killed.glob(".*"))  # half-written files are cleared away


STREAMED = {"image_size": 72, "workers": 2, "batch_size": 4, "save_seconds": 1000.0}


def test_sigterm_to_the_process_group_saves_and_says_how_to_go_on(tiny, image_folder, tmp_path):
    """As from timeout, SLURM and systemd, to a command whose workers ignore it."""
    root, out = image_folder(size=(80, 80), train=30, test=2), tmp_path / "runs"
    settings = STREAMED | {"dataset": root, "epochs": 500, "width": 4, "out": out, "name": "long"}
    words = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
    training = Forked(lambda: cli.main(["train", *words]), tmp_path / "said")
    deadline = time.monotonic() + 60
    while not (out / "long" / "resume.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert training.lives()
    # Nobody else goes on with it, or begins there, as long as it lives.
    for resume, overwrite in ((True, False), (False, False), (False, True)):
        asked = tiny(out=str(out), name="long", overwrite=overwrite)
        with pytest.raises(UserError, match=rf"is running there \(process {training.pid} on"):
            run_training(asked, out / "long" if resume else None)
    os.killpg(training.pid, signal.SIGTERM)
    status, said, errors = training.wait()
    assert status == 128 + signal.SIGTERM, errors
    assert f"scotoma train --resume {out / 'long'}" in said
    state = RunFolder(out / "long").load_state()
    assert state["epoch"] + state["step"] > 0
    assert not (out / "long" / ".lock").exists()


@pytest.mark.usefixtures("unwatched_children")
def test_a_killed_worker_loses_no_step(tiny, ran, image_folder, monkeypatch):
    """As the kernel kills when memory runs out. torch looks every five seconds."""
    root = image_folder(size=(80, 80), train=20, test=2)
    config = tiny(dataset=str(root), epochs=1, **STREAMED | {"workers": 1})

    def kill_workers():
        for worker in multiprocessing.active_children():
            worker.kill()

    with monkeypatch.context() as patch, pytest.raises(UserError) as ended:
        before_step(patch, 2, kill_workers)
        run_training(replace(config, name="cut"))
    cut = Path(config.out) / "cut"
    for words in ("worker was killed", "less than 1 --workers", f"--resume {cut}"):
        assert words in str(ended.value)
    assert RunFolder(cut).load_state()["step"] > 2
    run_training(config, resume=cut)
    assert_same_weights(ran(config), cut)


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


SMALL = {"train_limit": 100, "test_limit": 20}
"""Two steps an epoch."""


def test_epochs_since_the_last_checkpoint_are_repeated(tiny, ran, monkeypatch):
    """Checkpoints are rare here, and the process dies in epoch 3: only its metrics are there."""
    config = tiny(epochs=3, **SMALL)

    class Death(BaseException):
        pass

    def death():
        raise Death

    with monkeypatch.context() as patch, pytest.raises(Death):
        before_step(patch, 5, death)
        run_training(replace(config, name="cut", save_seconds=1e6))
    whole, cut = ran(config), Path(config.out) / "cut"
    assert len((cut / "metrics.jsonl").read_text().splitlines()) == 2
    assert torch.load(cut / "resume.pt", weights_only=True)["epoch"] == 1
    run_training(config, resume=cut)
    assert len((cut / "metrics.jsonl").read_text().splitlines()) == 3
    assert_same_weights(whole, cut)
    best = [load_model(folder / "best.safetensors").state_dict() for folder in (whole, cut)]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])


@pytest.mark.parametrize(
    "lost", [[], ["last.safetensors"], ["last.safetensors", "resume.pt"]], ids=len
)
def test_a_finished_run_resumes_to_its_result(tiny, ran, monkeypatch, lost):
    """Weights that are gone come back: from its state, or trained anew.

    In the last case the old summary is not taken for the new one's.
    """
    config = tiny(epochs=1, **SMALL)
    path = ran(config)
    copy = shutil.copytree(path, path.with_name("copy"))
    for name in lost:
        (path / name).unlink()
    seen, save_model = [], RunFolder.save_model

    def save(self, *rest):
        seen.append((path / "summary.json").exists())
        save_model(self, *rest)

    monkeypatch.setattr(RunFolder, "save_model", save)
    outcome, _ = run_training(config, resume=path)
    assert_same_weights(path, copy)
    state = "resume.pt" not in lost
    assert set(seen) == ({state} if lost else set())
    kept = json.loads((path / ("summary.json" if state else "summary-before.json")).read_text())
    before = json.loads((copy / "summary.json").read_text())
    assert kept == before | {"name": kept["name"]}
    assert outcome.summary["test/acc1"] == before["test/acc1"]
    if not lost:
        name = "last.safetensors"
        assert (path / name).read_bytes() == (copy / name).read_bytes()


@pytest.mark.parametrize("evaluate_on", ["test", "validation"])
def test_told_to_stop_after_the_last_step(tiny, monkeypatch, capsys, evaluate_on):
    """The run is finished, and whoever called it learns of the signal."""
    config = tiny(epochs=1, evaluate_on=evaluate_on, **SMALL)
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
    small = "--width 4 --train-limit 64 --test-limit 20 --epochs 1 --device cpu --name command"
    assert main([*small.split(), "--evaluate-on", evaluate_on, "--out", config.out]) == 0
    assert "test accuracy" in capsys.readouterr().out


def test_an_error_does_not_hide_a_signal(tiny, monkeypatch):
    def fail(self, batches):
        signal.raise_signal(signal.SIGINT)
        raise UserError("a bad file")

    monkeypatch.setattr(Trainer, "_evaluate", fail)
    stop = StopRequest()
    with pytest.raises(UserError, match="a bad file"):
        run_training(tiny(epochs=1, **SMALL), stop=stop)
    assert stop.signal == signal.SIGINT


def test_stopping_right_after_resuming_loses_nothing(tiny, ran, monkeypatch):
    """Ctrl-C again, before the resumed run took a step: details of the checkpoint stay, too."""
    config = tiny(epochs=3, **SMALL)
    folder = ran(config, 4)  # the last step of epoch 2 is finished with its epoch
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_told_to_stop", lambda self, stop: True)
        outcome, _ = run_training(config, resume=folder)
    assert outcome.summary is None
    assert read_details(folder / "last.safetensors")[1]["epoch"] == 2
    outcome, _ = run_training(config, resume=folder)
    assert outcome.summary["epochs"] == 3


def test_ctrl_c_stops_a_run_of_one_step_an_epoch(tiny, monkeypatch):
    stop_after(monkeypatch, 3)
    outcome, folder = run_training(tiny(train_limit=60, test_limit=20, epochs=50))
    assert outcome.stopped_by == signal.SIGINT
    assert len((folder.path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_run_killed_before_its_settings_were_written_can_start_again(tiny):
    config = tiny(epochs=1, name="x", **SMALL)
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
