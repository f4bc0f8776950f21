"""Whole runs: they learn, in every precision and variant, and stop when they diverge."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cut_runs import history
from engines import engine_of
from scotoma.defective import UserError, load_model, mask_sites
from scotoma.train import engine, loop
from scotoma.train.loop import NonFiniteLoss
from scotoma.train.run import run_training


def test_a_run_learns_and_reports_its_last_epoch_and_its_best(tiny):
    """Chance is 10 %. Speed counts images, not steps: the last of 24 has 28."""
    outcome, folder = run_training(tiny(train_limit=1500, test_limit=300))
    first, last = history(folder.path)
    summary, best = outcome.summary, outcome.summary["best"]
    assert summary["test/acc1"] == last["test/acc1"] > 0.6
    assert last["train/loss"] < first["train/loss"]
    assert last["img_per_s"] * last["epoch_s"] == pytest.approx(1500)
    accuracies = [first["test/acc1"], last["test/acc1"]]
    assert best["acc1"] == max(accuracies) and best["on"] == "test"
    assert best["epoch"] == accuracies.index(max(accuracies)) + 1


def test_training_loss_and_accuracy_are_means_over_images(tiny):
    """With a learning rate of nearly zero and no augmentation, the epoch's mean is computable."""
    config = tiny(lr=1e-12, epochs=1, augment="none", weight_decay=0.0, train_limit=150)
    _, folder = run_training(config)
    record = history(folder.path)[0]
    engine, batches = engine_of(config)
    total = correct = 0.0
    for images, labels in batches.epoch(0, 0, 64):
        logits = engine.model(images)
        total += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        correct += float((logits.argmax(1) == labels).sum())
    assert record["train/loss"] == pytest.approx(total / 150, rel=1e-4)
    assert record["train/acc1"] == pytest.approx(correct / 150)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bfloat16", "channels_last": True, "ema": 0.9},
        {"defects": "standard", "regularizer": "spatial-dropout", "label_smoothing": 0.1}
        | {"clip_norm": 0.5, "schedule": "cosine"},
        {"defects": "0.3-Bottomx2", "mask_sampling": "bernoulli", "nesterov": False}
        | {"thermometer": 16},
        {"defects": "0.3-BottomDC", "adversarial_eps": 0.03, "adversarial_steps": 1},
        pytest.param({"precision": "float16"}, marks=pytest.mark.slow),
        pytest.param(
            {"arch": "wrn32_4", "defects": "0.1-Bottom", "regularizer": "dropblock"}
            | {"train_limit": 400},
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda c: "-".join(map(str, c.values())),
)
def test_every_setting_trains(tiny, changes):
    """One step's worth of progress: the loss of the second epoch is below that of the first."""
    outcome, folder = run_training(tiny(**{"train_limit": 260, "test_limit": 50} | changes))
    records = history(folder.path)
    assert len(records) == 2
    assert records[1]["train/loss"] < records[0]["train/loss"]
    saved = load_model(folder.path / "last.safetensors")
    expected = 0 if changes.get("defects") in ("standard", "0.3-BottomDC") else 10
    expected = 11 if changes.get("arch") == "wrn32_4" else expected
    assert len(mask_sites(saved)) == expected
    assert outcome.summary["precision"] == changes.get("precision", "float32")


def test_averaged_weights_are_those_saved(tiny):
    _, folder = run_training(tiny(epochs=1, ema=0.9, train_limit=160))
    state = torch.load(folder.path / "resume.pt", weights_only=True)["engine"]
    saved = load_model(folder.path / "last.safetensors").state_dict()
    for name, value in saved.items():
        assert torch.equal(value, state["average"][f"module.{name}"]), name
        if name.endswith("mask"):
            assert torch.equal(value, state["model"][name])
    assert not torch.equal(saved["head.weight"], state["model"]["head.weight"])


def test_half_precision_takes_as_many_optimiser_steps(tiny, monkeypatch):
    """A step skipped by the gradient scaler, or taken twice, changes the count."""
    counts = {}
    original = torch.optim.SGD.step

    def counted(self, *args, **kwargs):
        counts[precision] = counts.get(precision, 0) + 1
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", counted)
    for precision in ("float32", "bfloat16"):
        run_training(tiny(precision=precision, epochs=1, name=precision, train_limit=160))
    assert counts == {"float32": 3, "bfloat16": 3}  # 160 images, batch 64


@pytest.mark.slow
def test_compiled_training_equals_eager(tiny):
    losses = {}
    for mode in ("none", "default"):
        config = tiny(compile=mode, name=mode, epochs=1, train_limit=128, test_limit=20)
        losses[mode] = history(run_training(config)[1].path)[0]["train/loss"]
    assert losses["default"] == pytest.approx(losses["none"], rel=1e-3)


def test_a_diverged_run_stops_and_keeps_the_last_good_checkpoint(tiny, monkeypatch):
    """Epoch 1 is good; in epoch 2 the learning rate explodes."""
    original = loop.learning_rate
    monkeypatch.setattr(
        loop,
        "learning_rate",
        lambda config, step, steps: original(config, step, steps) if step < steps else 1e30,
    )
    config = tiny(epochs=3, train_limit=130)
    with pytest.raises(NonFiniteLoss) as stopped:
        run_training(config)
    message = str(stopped.value)
    for word in ("step", "epoch 2", "learning rate 1e+30", "--lr", "checkpoint of epoch 1"):
        assert word in message
    (folder,) = Path(config.out).iterdir()
    weights = load_model(folder / "last.safetensors").state_dict()
    assert all(bool(v.isfinite().all()) for v in weights.values() if v.is_floating_point())


@pytest.mark.parametrize("changes", [{"train_limit": 1}, {"train_limit": 1, "batch_size": 2}])
def test_too_few_images_for_a_step(tiny, changes):
    config = tiny(**changes)
    with pytest.raises(UserError, match="too few"):
        run_training(config)
    assert not Path(config.out).exists()


def test_a_run_whose_gradients_always_overflow_stops_with_advice(tiny, monkeypatch):
    """The loss is finite, and nothing is learnt."""
    original = engine.smoothed_cross_entropy

    def overflowing(*args, **options):
        loss = original(*args, **options)
        loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    config = tiny(precision="float16", train_limit=64, batch_size=16, epochs=9, test_limit=10)
    with monkeypatch.context() as patch, pytest.raises(NonFiniteLoss) as stopped:
        patch.setattr(engine, "smoothed_cross_entropy", overflowing)
        patch.setattr(loop, "LEAST_SCALE", 2.0**12)  # of 2**16, after 4 steps in each of 1 epoch
        run_training(config)
    for words in ("nothing is learnt", "--precision bfloat16", "No epoch was finished"):
        assert words in str(stopped.value)
    _, folder = run_training(replace(config, name="fine", epochs=1))
    assert history(folder.path)[0]["skipped_steps"] == 0


def test_momentum_survives_a_first_step_that_the_scaler_skips(tiny):
    """An overflow at the first scale is common in float16; the buffers must stay zero."""
    engine, _ = engine_of(tiny(precision="float16"))
    before = [p.clone() for p in engine.model.parameters()]
    images, labels = torch.full((8, 1, 28, 28), float("inf")), torch.zeros(8, dtype=torch.int64)
    engine.step((images, labels), 0, 0.1, 8)
    for parameter, old in zip(engine.model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
        assert not engine.optimizer.state[parameter]["momentum_buffer"].any()
