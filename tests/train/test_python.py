"""Training from Python: keywords are the command's options, and what comes back is the run."""

import json
import re
import subprocess
import sys

import pytest
import torch
from cut_runs import stop_after
from scotoma.defective import UserError
from scotoma.train import Run, TrainConfig, load_dataset, train
from scotoma.train.settings import parse, parse_keywords

SMALL = {"width": 4, "train_limit": 300, "test_limit": 100, "batch_size": 64, "epochs": 2}


def test_a_run_is_model_history_summary_and_folder(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 4)
        train(**SMALL, defects="0.3-Bottom", out=tmp_path, name="mine", device="cpu")
    run = train(resume=tmp_path / "mine")
    assert isinstance(run, Run) and run.folder == tmp_path / "mine"
    assert run.summary == json.loads((run.folder / "summary.json").read_text())
    assert [record["epoch"] for record in run.history] == [1, 2]
    # The model needs nothing else than pixels, and has the reported accuracy.
    test = load_dataset("sample").limited(None, 100, 0).test
    with torch.no_grad():
        logits = run.model(test.images.permute(0, 3, 1, 2).float() / 255)
    accuracy = (logits.argmax(1) == test.labels).double().mean()
    assert float(accuracy) == run.summary["test/acc1"] == run.history[-1]["test/acc1"]
    with pytest.raises(UserError, match="leave out epochs"):
        train(resume=run.folder, epochs=3)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"batch_size": 64, "defects": "0.3-Bottom"}, "--batch-size 64 --defects 0.3-Bottom"),
        (
            {"dataset": "cifar10", "recipe": "paper-cifar10"},
            "--dataset cifar10 --recipe paper-cifar10",
        ),
        (
            {"nesterov": False, "channels_last": True, "milestones": (2, 3), "ema": 0.9},
            "--no-nesterov --channels-last true --milestones [2,3] --ema 0.9",
        ),
    ],
    ids=["batch", "recipe", "kinds"],
)
def test_keywords_mean_what_options_mean(keywords, words):
    assert parse_keywords(keywords) == parse(words.split())[0]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"epoch": 5}, "unknown setting 'epoch'. Did you mean 'epochs'?"),
        ({"epochs": "many"}, "--epochs is 'many'; expected a whole number"),
        ({"epochs": 0}, "--epochs is 0; expected at least 1"),
        ({"download": "yes"}, "download is 'yes'; expected true or false"),
        ({"schedule": "onecycle"}, "Did you mean 'one-cycle'?"),
        ({"logit_pairing": 0.5}, "--logit-pairing is 0.5 without --adversarial-eps"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_wrong_settings_are_refused_before_any_work(tmp_path, keywords, message):
    with pytest.raises(UserError, match=re.escape(message)):
        train(out=tmp_path, **keywords)
    assert not any(tmp_path.iterdir())


def test_the_packages_show_their_interfaces_and_import_them_late():
    script = """
import sys, scotoma, scotoma.defective, scotoma.train
assert 'train' in dir(scotoma.train) and 'create_model' in dir(scotoma)
from scotoma.defective import UserError
assert scotoma.UserError is UserError and 'torch' not in sys.modules
import scotoma.train.run, scotoma.defective.attacks, scotoma.kernels
from scotoma.train import train
assert callable(train) and train is scotoma.train.run.train
packages = scotoma, scotoma.defective, scotoma.defective.attacks, scotoma.kernels, scotoma.train
for p in packages:
    assert dir(p) == sorted(p.__all__), p
    assert all(getattr(p, name) is not None for name in dir(p))
    assert not hasattr(p, 'nothing')
assert scotoma.create_model is scotoma.defective.create_model
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_interface_takes_every_setting():
    assert parse_keywords({}) == parse([])[0]
    assert isinstance(parse_keywords({"device": "cpu"}, resuming=True), TrainConfig)
