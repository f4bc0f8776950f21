"""White-box attacks against a count by hand."""

import pytest
import torch
from fitted_networks import classes_of, named, pixels_of, sample_images
from scotoma.defective.attacks import FGSM, PGD
from scotoma.defective.errors import UserError
from scotoma.train.robustness.images import sample_of_all
from scotoma.train.robustness.protocols import evaluate_white_box
from scotoma.train.robustness.sets import Source
from scotoma.train.store import Store


@pytest.fixture
def images():
    return sample_images()


@pytest.fixture
def target(tmp_path):
    return named(tmp_path, ("standard", 0))[0]


def test_the_sample_is_of_all_images(images):
    sample = sample_of_all(images, 50, 3)
    assert len(sample.unique()) == 50 and not torch.equal(sample, sample.sort().values)
    assert torch.equal(sample_of_all(images, 20, 3), sample[:20])
    assert not torch.equal(sample_of_all(images, 50, 4), sample)
    assert len(sample_of_all(images, 5000, 0)) == 120


def test_rates_equal_a_count_by_hand(tmp_path, images, target):
    indices = sample_of_all(images, 60, 0)
    attack = PGD(eps=1 / 255, step=0.5 / 255, steps=4, random_start=True)
    cell = evaluate_white_box(target, attack, images, indices, Store(tmp_path), batch_size=25)
    results = cell["results"]
    pixels, labels = pixels_of(images, indices), images.labels[indices]
    alone = (x.split(1) for x in (pixels, labels, indices))
    found = torch.cat([attack.images(target.model, *each) for each in zip(*alone, strict=True)])
    before = classes_of(target.model, pixels) == labels
    after = classes_of(target.model, found) == labels
    rate, defence = results["robust_accuracy"], results["defence"]
    assert (rate["k"], rate["n"]) == (int((after & before).sum()), 60)
    assert (defence["k"], defence["n"]) == (int((after & before).sum()), int(before.sum()))
    assert 0 < defence["k"] < defence["n"] < 60
    turned = (found - pixels).flatten(1)[before & ~after]
    assert results["median_linf"] == pytest.approx(1 / 255, rel=1e-4)
    assert results["median_l2"] == pytest.approx(float(turned.norm(dim=1).quantile(0.5)), rel=1e-4)
    assert (results["forwards_mean"], results["backwards_mean"]) == (4.0, 4.0)
    assert results["statuses"] == {
        "fooled": int((before & ~after).sum()),
        "resisted": int((before & after).sum()),
        "misclassified": int((~before).sum()),
    }
    assert results["shown"]["attack"] == str(attack)


def test_cells_are_kept_for_what_determines_them(tmp_path, images, target):
    cells, indices = Store(tmp_path), sample_of_all(images, 12, 0)
    calls, told = [], []
    target.model.register_forward_hook(lambda *_: calls.append(1))

    def evaluate(who=target, attack=FGSM(eps=4 / 255), which=indices, size=6, **more):  # noqa: B008
        return evaluate_white_box(who, attack, images, which, cells, batch_size=size, **more)

    first = evaluate(Source(target), size=5, progress=lambda *now: told.append(now[:2]))
    assert told == [(5, 12), (10, 12), (12, 12)]
    calls.clear()
    assert evaluate(size=12) == first and calls == []
    harmless = evaluate(attack=FGSM(eps=1e-6))["results"]
    assert harmless["defence"]["rate"] == 1.0
    assert harmless["median_l2"] is None and harmless["median_linf"] is None
    evaluate(which=indices[:11])
    assert (cells.computed, cells.reused) == (3, 1)


def test_what_cannot_be_attacked_is_named(tmp_path, images, target):
    on = FGSM(), images, sample_of_all(images, 4, 0), Store(tmp_path)
    next(target.model.parameters()).data.fill_(float("nan"))
    with pytest.raises(UserError, match=r"standard-0, fgsm:.*not finite"):
        evaluate_white_box(target, *on, batch_size=4)
    assert not list(tmp_path.glob("*.json"))
