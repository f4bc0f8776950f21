"""Adversarial training: what it reports of robustness, and that reporting changes nothing."""

import warnings

import pytest
import torch
from cut_runs import assert_same_weights, history
from scotoma.defective import UserError, load_model
from scotoma.defective.attacks import LSPGA, PGD, Status, pgd
from scotoma.train.datasets import load_dataset
from scotoma.train.run import run_training

ATTACK = {"adversarial_eps": 0.1, "adversarial_step": 0.05, "adversarial_steps": 2}


@pytest.mark.parametrize(
    ("changes", "attack"),
    [
        ({"epochs": 1}, PGD(eps=0.1, step=0.05, steps=2, random_start=True, seed=3)),
        ({"thermometer": 8, "lr": 0.05}, LSPGA(eps=0.1, steps=2, seed=3)),
    ],
    ids=["pgd", "ls-pga"],
)
def test_robust_accuracy_is_that_of_the_saved_network_under_the_same_attack(tiny, changes, attack):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # of a gradient for the pixels
        asked = tiny(adversarial_test_images=60, seed=3, **ATTACK | changes)
        outcome, folder = run_training(asked)
    model = load_model(folder.path / "last.safetensors")
    test = load_dataset("sample").limited(None, 100, 3).test
    chosen = torch.randperm(100, generator=torch.Generator().manual_seed(3))[:60]
    images = test.images[chosen].permute(0, 3, 1, 2).float() / 255
    result = attack(model, images, test.labels[chosen])
    expected = float((result.status == Status.RESISTED).double().mean())
    # An image on the edge may fall on the other side when its batch is another one.
    reported = history(folder.path)[-1]["test/robust_acc1"]
    assert 0 < reported == pytest.approx(expected, abs=1.01 / 60)
    assert outcome.summary["test/robust_acc1"] == reported


def test_reporting_changes_no_weight_and_is_only_of_adversarial_training(tiny, ran):
    changes = {"train_limit": 64, "epochs": 1, "adversarial_eps": 0.1, "adversarial_steps": 1}
    silent, told = (
        run_training(tiny(adversarial_test_images=count, name=str(count), **changes))[1].path
        for count in (0, 30)
    )
    assert "test/robust_acc1" not in history(silent)[0]
    assert "test/robust_acc1" in history(told)[0]
    assert_same_weights(silent, told)
    ordinary = ran(tiny())
    assert not any("robust" in key for key in history(ordinary)[0])
    assert "robust" not in (ordinary / "summary.json").read_text()


def test_validation_images_choose_and_the_test_set_is_used_once_at_the_end(tiny):
    """Also to be attacked; of averaged, clipped, dropped and paired weights."""
    changes = ATTACK | {"evaluate_on": "validation", "validation_fraction": 0.2, "ema": 0.9}
    changes |= {"logit_pairing": 0.5, "clip_norm": 1.0, "regularizer": "dropblock"}
    outcome, folder = run_training(tiny(train_limit=100, epochs=1, test_limit=40, **changes))
    (record,) = history(folder.path)
    held = {key for key in record if key.startswith(("val/", "test/"))}
    assert held == {"val/loss", "val/acc1", "val/robust_acc1"}
    assert torch.isfinite(torch.tensor(record["train/loss"]))
    assert outcome.summary["best"]["on"] == "val"
    for key in ("test/acc1", "test/robust_acc1"):
        assert 0 <= outcome.summary[key] <= 1


@pytest.mark.slow
def test_the_attack_makes_training_more_robust(tiny):
    """Trained against eps 0.1 for a moment, and not: the first resists that attack better."""
    changes = {"epochs": 3, "width": 6, "train_limit": 700, "test_limit": 200}
    ordinary = run_training(tiny(**changes))[1]
    trained = run_training(tiny(**changes, **ATTACK))[1]
    test = load_dataset("sample").limited(None, 200, 0).test
    images = test.images.permute(0, 3, 1, 2).float() / 255
    robust = []
    for run in (ordinary, trained):
        model = load_model(run.path / "last.safetensors")
        found = pgd(model, images, test.labels, 0.1, 0.05, 4)
        robust.append(float((model(found).argmax(1) == test.labels).float().mean()))
    assert robust[1] > robust[0] + 0.05


def test_a_negative_number_of_images_is_refused(tiny):
    with pytest.raises(UserError, match=r"--adversarial-test-images is -1; expected 0 or more"):
        tiny(adversarial_test_images=-1)
