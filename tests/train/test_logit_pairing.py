"""Two baselines in training: adversarial logit pairing, and thermometer encoding with LS-PGA."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from cut_runs import history
from engines import CPU, engine_of
from scotoma.defective import UserError, load_model, save_model
from scotoma.defective.attacks import pgd
from scotoma.defective.attacks.lspga import LSPGA
from scotoma.defective.thermometer import bins
from scotoma.train.data import derived_seed
from scotoma.train.datasets import load_dataset
from scotoma.train.distributed import World
from scotoma.train.engine import Engine, paired_loss
from scotoma.train.robustness.models import load_named, relation
from scotoma.train.run import run_training
from scotoma.train.setup import build_model, load_data, resolve

ATTACK = {"adversarial_eps": 0.1, "adversarial_step": 0.05, "adversarial_steps": 2}
PAIRED = ATTACK | {"logit_pairing": 0.5}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def engine_and_batch(config, **changes):
    """An engine as a run has it, and a batch of 32 images."""
    engine, batches = engine_of(replace(config, **changes))
    return engine, next(iter(batches.in_order(32)))


def gradients_of_a_step(engine, batch, **more):
    """What a step hands to the optimiser, and what it returns."""
    seen = {}

    def look(*_):
        named = engine.model.named_parameters()
        seen.update({name: parameter.grad.clone() for name, parameter in named})

    engine.optimizer.register_step_pre_hook(look)
    result = engine.step(batch, 0, 0.1, more.get("global_size", len(batch[1])))
    return seen, result


def with_seed_of_step(engine):
    torch.manual_seed(derived_seed(engine.config.seed, "step", 0, 0))


# Adversarial logit pairing


def test_half_precision_logits_are_widened():
    logits = torch.tensor([[200.0, 0.0], [-200.0, 0.0]], dtype=torch.float16)
    loss = paired_loss(logits, torch.tensor([0]), 1.0)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(400.0**2 / 2 + 100.0)  # 80,000 is beyond float16


@pytest.mark.parametrize("thermometer", [0, 4])
def test_a_step_has_the_gradients_of_the_formula(tiny, thermometer):
    """One pass over clean and adversarial images together; part of a larger global batch."""
    changes = PAIRED | {"thermometer": thermometer, "label_smoothing": 0.1}
    engine, (images, labels) = engine_and_batch(tiny(), **changes)
    twin, _ = engine_and_batch(tiny(), **changes)
    seen, (loss, correct) = gradients_of_a_step(engine, (images, labels), global_size=40)
    with_seed_of_step(twin)
    attacked = twin._attacked(images, labels)
    assert (attacked - images).abs().max() <= 0.1 + 1e-6 and (attacked != images).any()
    logits = twin.model(torch.cat([images, attacked]))
    clean, adversarial = logits[:32], logits[32:]

    def smoothed(outputs):
        target = torch.full_like(outputs, 0.1 / 9)
        target[torch.arange(32), labels] = 0.9
        return -(target * outputs.log_softmax(1)).sum()

    expected = (smoothed(clean) + smoothed(adversarial)) / 2
    expected = (expected + 0.5 * (clean - adversarial).pow(2).mean(1).sum()) / 40
    parameters = dict(twin.model.named_parameters())
    by_hand = torch.autograd.grad(expected, list(parameters.values()))
    for (name, _), gradient in zip(parameters.items(), by_hand, strict=True):
        torch.testing.assert_close(seen[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
    assert int(correct) == int((adversarial.argmax(1) == labels).sum())
    # Batch statistics are those of all 64.
    assert_same(
        {k: v for k, v in engine.model.state_dict().items() if "running" in k},
        {k: v for k, v in twin.model.state_dict().items() if "running" in k},
    )


def test_without_pairing_the_step_is_plain_adversarial_training(tiny):
    """Adversarial images alone, at full weight; not the mixed batch, which a small weight gives."""
    engine, batch = engine_and_batch(tiny(), **ATTACK)
    seen, (loss, _) = gradients_of_a_step(engine, batch)
    twin, (images, labels) = engine_and_batch(tiny(), **ATTACK)
    with_seed_of_step(twin)
    expected = F.cross_entropy(twin.model(twin._attacked(images, labels)), labels)
    expected.backward()
    for name, parameter in twin.model.named_parameters():
        torch.testing.assert_close(seen[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)
    assert float(loss) == pytest.approx(expected.item(), rel=1e-6)
    mixed, batch = engine_and_batch(tiny(), **ATTACK | {"logit_pairing": 1e-12})
    _, (other, _) = gradients_of_a_step(mixed, batch)
    assert abs(float(other) - float(loss)) > 1e-4


@pytest.mark.slow
def test_pairing_draws_the_logits_together(tiny):
    """Trained with more weight, an attack moves logits less, measured by how images differ."""
    changes = ATTACK | {"train_limit": 1000, "lr": 0.1, "epochs": 4, "defects": "standard"}
    changes |= {"adversarial_test_images": 0}
    test = load_dataset("sample").limited(None, 200, 0).test
    images, gaps = test.images.permute(0, 3, 1, 2).float() / 255, []
    for weight in (1e-6, 5.0):
        _, folder = run_training(tiny(**changes, logit_pairing=weight))
        model = load_model(folder.path / "last.safetensors")
        found = pgd(model, images, test.labels, 0.1, 0.05, 3)
        with torch.no_grad():
            clean, moved = model(images), model(found)
        spread = (clean - clean.mean(0)).square().sum()
        gaps.append(float((clean - moved).square().sum() / spread))
    assert gaps[1] < 0.7 * gaps[0]


def test_pairing_needs_an_attack(tiny):
    words = r"--logit-pairing is 0\.5 without --adversarial-eps"
    with pytest.raises(UserError, match=words):
        resolve(tiny(logit_pairing=0.5), CPU)
    engine, _ = engine_and_batch(tiny(train_limit=64))
    with pytest.raises(UserError, match=words):  # a run's settings, edited by hand
        Engine(engine.model, replace(engine.config, logit_pairing=0.5), CPU, World())


def test_the_gradient_scaler_goes_with_it(tiny):
    changes = PAIRED | {"train_limit": 32, "epochs": 1, "precision": "float16", "test_limit": 10}
    _, folder = run_training(tiny(**changes, adversarial_test_images=0))
    assert 0 < history(folder.path)[0]["train/loss"] < 100


# Thermometer encoding


def test_thermometer_training_has_the_attack_of_the_library(tiny, monkeypatch):
    """From the same first logits, both find the same levels. PGD would leave the pixels where its
    random start put them."""
    engine, (images, labels) = engine_and_batch(tiny(), **ATTACK, thermometer=8)
    with_seed_of_step(engine)
    attacked = engine._attacked(images, labels)
    assert engine.model.training and (attacked - images).abs().max() <= 0.1 + 1e-6
    own = bins(attacked, 8) == bins(images, 8)
    assert torch.equal(attacked[own], images[own]) and not own.all()
    start = torch.Generator().manual_seed(derived_seed(engine.config.seed, "step", 0, 0))
    first = torch.randn(32, 1, 8, 28, 28, generator=start)
    monkeypatch.setattr("scotoma.defective.attacks.draws.normal", lambda *_: first)
    found = LSPGA(eps=0.1, steps=2).images(engine.model.eval(), images, labels)
    assert torch.equal(found, attacked)


def test_relations_of_networks_with_and_without_levels(tmp_path, tiny):
    """An old description, which has no levels, is of a network without them."""
    paths = []
    for seed, levels in ((0, 0), (1, 0), (0, 4), (1, 4), (0, 8)):
        config = resolve(tiny(seed=seed, mask_seed=0, thermometer=levels), CPU)
        model = build_model(config, load_data(config)).eval()
        paths.append(tmp_path / f"{seed}-{levels}.safetensors")
        save_model(model, paths[-1], details={"dataset": "sample"})
    plain, again, coded, coded_again, finer = load_named([str(p) for p in paths], None, CPU)
    written = [json.loads(json.dumps(m.describe())) for m in (plain, coded)]
    assert "thermometer" not in written[0]["members"][0]["spec"]
    assert written[1]["members"][0]["spec"]["thermometer"] == 4
    assert set(written[0]["members"][0]) == {"path", "spec", "digest", "mask_digest"}
    assert relation(written[0], again) == relation(written[1], coded_again) == "gray-box"
    assert relation(written[0], plain) == relation(written[1], coded) == "white-box"
    for other in (coded, finer):
        assert relation(written[0], other) == "transfer"
    assert relation(written[1], finer) == "transfer"
