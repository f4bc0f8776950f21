"""Adversarial training: what it reports of robustness, and that reporting changes nothing."""

import json

import pytest
import torch
from scotoma.defective import UserError, load_model
from scotoma.defective.attacks import pgd
from scotoma.train.datasets import load_dataset
from scotoma.train.run import run_training

ATTACK = {"adversarial_eps": 0.1, "adversarial_step": 0.05, "adversarial_steps": 2}


def history(folder):
    return [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]


def test_robust_accuracy_is_that_of_the_saved_network_under_the_same_attack(tiny):
    outcome, folder = run_training(tiny(epochs=1, adversarial_test_images=60, seed=3, **ATTACK))
    model = load_model(folder.path / "last.safetensors")
    test = load_dataset("sample").limited(None, 100, 3).test
    chosen = torch.randperm(100, generator=torch.Generator().manual_seed(3))[:60]
    images = test.images[chosen].permute(0, 3, 1, 2).float() / 255
    labels = test.labels[chosen]
    found = pgd(model, images, labels, 0.1, 0.05, 2, random_start=True, seed=3)
    with torch.no_grad():
        right = (model(found).argmax(1) == labels) & (model(images).argmax(1) == labels)
        expected = float(right.double().mean())
    reported = history(folder)[0]["test/robust_acc1"]
    # An image on the edge may fall on the other side when its batch is another one.
    assert reported == pytest.approx(expected, abs=1.01 / 60)
    assert outcome.summary["test/robust_acc1"] == reported


def test_reporting_changes_no_weight(tiny):
    changes = {"train_limit": 150, "adversarial_eps": 0.1, "adversarial_steps": 1}
    runs = [run_training(tiny(adversarial_test_images=count, **changes))[1] for count in (0, 30)]
    assert "test/robust_acc1" not in history(runs[0])[0]
    assert "test/robust_acc1" in history(runs[1])[0]
    weights = [load_model(run.path / "last.safetensors").state_dict() for run in runs]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_only_adversarial_training_reports_it(tiny):
    outcome, folder = run_training(tiny(epochs=1))
    assert not any("robust" in key for key in history(folder)[0])
    assert not any("robust" in key for key in outcome.summary)


def test_with_validation_the_test_set_is_attacked_once_at_the_end(tiny):
    changes = {"evaluate_on": "validation", "validation_fraction": 0.2, "ema": 0.9}
    outcome, folder = run_training(tiny(**changes, **ATTACK))
    assert "val/robust_acc1" in history(folder)[0]
    assert "test/robust_acc1" not in history(folder)[0]
    assert 0 <= outcome.summary["test/robust_acc1"] <= 1


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
