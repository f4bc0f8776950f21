"""A run that was stopped, at any moment, ends with the weights of one that never was."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scotoma.defective import UserError, load_model
from scotoma.train import loop
from scotoma.train.commands.train import train
from scotoma.train.engine import Engine


def weights(folder: Path):
    return load_model(folder / "last.safetensors").state_dict()


def assert_same_weights(a: Path, b: Path):
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def stop_after(monkeypatch, steps):
    """Send this process Ctrl-C while it works on the given step."""
    original, taken = Engine.step, [0]

    def step(self, *args):
        taken[0] += 1
        if taken[0] == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *args)

    monkeypatch.setattr(Engine, "step", step)


@pytest.mark.parametrize(
    "changes",
    [
        {"augment": "crop-flip"},
        {"ema": 0.9, "schedule": "step", "milestones": [1]},
        {"regularizer": "dropblock", "defects": "standard"},
        {"adversarial_eps": 0.03, "adversarial_steps": 1},
        {"precision": "float16"},
    ],
    ids=["plain", "ema", "dropblock", "adversarial", "float16"],
)
@pytest.mark.parametrize("stop", [3, 7])
def test_ctrl_c_then_resume_is_bit_equal(tiny, monkeypatch, changes, stop):
    """5 steps an epoch: step 3 is in the first epoch, step 7 in the second."""
    config = tiny(name="whole", **changes)
    _, whole = train(config)
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        outcome, cut = train(replace(config, name="cut"))
    assert outcome.stopped_by == signal.SIGINT
    assert outcome.summary is None
    outcome, _ = train(config, resume=cut.path)
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


@pytest.mark.parametrize("moment", ["in the first epoch", "between epochs", "while saving"])
def test_a_killed_process_resumes_bit_equal(tiny, moment, tmp_path):
    """SIGKILL at a chosen moment, in a process of its own."""
    config = tiny(name="whole")
    _, whole = train(config)
    script = tmp_path / "victim.py"
    script.write_text(
        f"""
import os, signal, sys, torch
torch.set_num_threads(2)
from scotoma.train import engine, runfolder
from scotoma.train.commands.train import train
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
    save = torch.save
    def patched(state, path):
        if state["epoch"] == 2:
            path.write_bytes(b"half of a state")
            die()
        save(state, path)
    torch.save = patched
train(TrainConfig(**{ {**vars(config), "name": "killed"}!r}))
"""
    )
    process = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    killed = Path(config.out) / "killed"
    outcome, _ = train(config, resume=killed)
    assert outcome.summary["epochs"] == 2
    assert_same_weights(whole.path, killed)
    lines = (killed / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2


def test_sigterm_saves_too_and_the_command_says_how_to_go_on(tiny, tmp_path):
    command = [sys.executable, "-m", "scotoma.train", "--out", str(tmp_path), "--name", "long"]
    command += ["--width", "4", "--epochs", "500", "--train-limit", "300", "--test-limit", "20"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "long" / "resume.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert f"scotoma train --resume {tmp_path / 'long'}" in output


def test_a_finished_run_resumes_to_its_result(tiny):
    config = tiny()
    outcome, folder = train(config)
    before = (folder.path / "last.safetensors").read_bytes()
    again, _ = train(config, resume=folder.path)
    assert again.summary["test/acc1"] == outcome.summary["test/acc1"]
    assert (folder.path / "last.safetensors").read_bytes() == before


def test_a_moved_run_resumes_where_it_is(tiny, monkeypatch):
    config = tiny(name="here")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        _, folder = train(config)
    moved = folder.path.with_name("there")
    folder.path.rename(moved)
    outcome, resumed = train(config, resume=moved)
    assert outcome.summary["name"] == "there"
    assert resumed.path == moved
    assert not folder.path.exists()


def test_nothing_to_resume(tmp_path, tiny):
    with pytest.raises(UserError, match="no run to resume"):
        train(tiny(), resume=tmp_path)


def test_a_state_with_code_in_it_is_refused(tiny, tmp_path):
    """Unpickling it would create a file."""
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    config = tiny(epochs=1)
    _, folder = train(config)
    for content in (pickle.dumps(Evil()), b"PK\x03\x04 truncated", b""):
        (folder.path / "resume.pt").write_bytes(content)
        with pytest.raises(UserError, match=r"resume\.pt: damaged"):
            train(config, resume=folder.path)
    torch.save({"epoch": Evil()}, folder.path / "resume.pt")
    with pytest.raises(UserError, match=r"resume\.pt: damaged"):
        train(config, resume=folder.path)
    assert not (tmp_path / "owned").exists()


def test_an_edited_config_does_not_fit_the_state(tiny):
    config = tiny(epochs=1)
    _, folder = train(config)
    file = folder.path / "config.yaml"
    file.write_text(file.read_text().replace("width: 4", "width: 8"))
    with pytest.raises(UserError, match="does not fit"):
        train(config, resume=folder.path)


def test_a_second_ctrl_c_ends_at_once():
    with loop.StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
