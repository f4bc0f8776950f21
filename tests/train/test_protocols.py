"""Noise, shuffled patches and white-box attacks: resuming, shared passes, rates counted by hand."""

from dataclasses import replace

import fitted_networks
import protocol_targets as shared
import pytest
import torch
from fitted_networks import classes_of, pixels, pixels_of, sample
from protocol_targets import Shallow, Told, named, sample_images
from scotoma.defective.attacks import FGSM, PGD, GaussianNoise
from scotoma.defective.errors import UserError
from scotoma.defective.robustness.rates import proportion, read_outcomes
from scotoma.defective.robustness.shuffle import shuffle_patches
from scotoma.train.robustness.images import TestImages, sample_of_all
from scotoma.train.robustness.protocols import (
    evaluate_noise,
    evaluate_shuffle,
    evaluate_white_box,
)
from scotoma.train.robustness.sets import Source
from scotoma.train.store import Store

images, targets = shared.images, shared.targets
indices, cells = shared.indices, shared.cells

PROTOCOLS = [
    (evaluate_noise, {"epsilons": [8 / 255, 64 / 255]}),
    (evaluate_shuffle, {"grids": [2, 4]}),
]


@pytest.fixture(params=PROTOCOLS, ids=["noise", "shuffle"])
def evaluate(request, targets, images, indices, cells):
    function, settings = request.param

    def run(**changes):
        told = changes.pop("progress", Told())
        given = {"targets": targets, "images": images, "indices": indices, "store": cells}
        found = function(**given | settings | {"batch_size": 12, "progress": told} | changes)
        told.check()
        return found

    return run


def test_a_second_call_computes_nothing(evaluate, targets, cells):
    first = evaluate()
    asked = [len(target.model.seen) for target in targets]
    assert all(asked)
    assert evaluate() == first
    assert [len(target.model.seen) for target in targets] == asked
    assert cells.computed == cells.reused == 4


def test_a_target_that_joins_is_evaluated_alone(evaluate, targets):
    first = evaluate(targets=targets[:1])
    asked = len(targets[0].model.seen)
    assert not targets[1].model.seen
    both = evaluate()
    assert len(targets[0].model.seen) == asked
    assert len(targets[1].model.seen) == asked
    for cell in (*first, *both):  # the names of those whose images they are now
        cell["results"]["shown"].pop("right_for")
    assert both[::2] == first
    assert [cell["results"]["shown"]["target"] for cell in both] == ["first", "second"] * 2


def test_results_do_not_depend_on_the_batches(evaluate, tmp_path):
    one, other = (evaluate(store=Store(tmp_path / str(size)), batch_size=size) for size in (30, 11))
    assert [cell["results"] for cell in one] == [cell["results"] for cell in other]


def test_a_stopped_evaluation_keeps_finished_cells(evaluate, cells, indices, targets):
    class Stopped(Told):
        def __call__(self, done, total, text):
            super().__call__(done, total, text)
            if done > total // 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(progress=Stopped())
    assert len(cells.all()) == 2  # the first epsilon or grid, both targets
    for target in targets:
        target.model.seen.clear()
    evaluate()
    assert cells.reused == 2 and cells.computed == 4


@pytest.mark.parametrize("changed", ["seed", "indices", "digest"])
def test_what_changes_the_images_makes_a_new_cell(evaluate, cells, targets, indices, changed):
    evaluate(targets=targets[:1])
    other = {
        "seed": {"seed": 1},
        "indices": {"indices": indices[:29]},
        "digest": {"targets": [named(targets[0].model, "first", "another digest")]},
    }[changed]
    evaluate(**{"targets": targets[:1]} | other)
    assert cells.reused == 0 and cells.computed == 4


def test_the_same_pictures_under_other_numbers_are_another_cell(evaluate, cells, indices):
    """Random numbers belong to an image's number, so that the result is another."""
    evaluate()
    data = sample_images().data
    others = torch.arange(1000).roll(1)  # number i + 1 is what was number i
    turned = TestImages(replace(data, test=data.test.subset(others)), torch.device("cpu"))
    assert turned.fingerprint(indices + 1) == sample_images().fingerprint(indices)
    evaluate(images=turned, indices=indices + 1)
    assert cells.reused == 0 and cells.computed == 8


def test_a_diverged_network_is_an_error_and_no_number(evaluate, targets, cells):
    broken = Shallow(0)
    broken.last.data[0, 0] = float("nan")
    with pytest.raises(UserError, match="broken: its logits are not finite"):
        evaluate(targets=[named(broken, "broken")])
    assert not cells.all()


# Rates as counted by hand, on images that all see alike


def clean_images(indices):
    """(pixels in [0,1], labels) of test images of the sample."""
    test = sample().test
    return pixels(test.images[indices]), test.labels[indices]


def correct(target, batch, labels):
    """Counted by hand."""
    with torch.no_grad():
        return int((target.model(batch).argmax(1) == labels).sum())


def test_accuracy_under_noise_is_what_a_loop_counts(targets, images, indices, cells):
    epsilons = [16 / 255, 64 / 255]
    found = evaluate_noise(
        targets, images, indices, cells, epsilons=epsilons, draws=3, seed=5, batch_size=7,
        progress=Told(),
    )  # fmt: skip
    assert len(found) == 4
    clean, labels = clean_images(indices)
    wrong = 0
    for number, cell in enumerate(found):
        epsilon, target = epsilons[number // 2], targets[number % 2]
        counts = []
        for seed in (5, 6, 7):
            noise = GaussianNoise(sigma=epsilon / 2, limit=2, tails="clip", seed=seed)
            noisy = (noise.noisy(clean, indices) * 255).round() / 255
            counts.append(correct(target, noisy, labels))
        results = cell["results"]
        assert results["per_draw"] == [proportion(k, 30) for k in counts]
        assert results["accuracy"] == proportion(sum(counts) / 3, 30)  # N is that of the images
        assert results["shown"]["right_for"] == [each.name for each in targets]
        assert results["epsilon"] == pytest.approx(epsilon, abs=0)
        assert results["shown"]["target"] == target.name
        assert cell["identity"]["sigma"] == epsilon / 2
        wrong += 90 - sum(counts)
    assert wrong  # or the noise did nothing


def test_all_targets_see_the_same_noise_and_each_draw_has_its_own(targets, images, indices, cells):
    arguments = {"epsilons": [32 / 255], "batch_size": 30, "progress": Told()}
    evaluate_noise(targets, images, indices, cells, **arguments)
    first, second = (target.model.images() for target in targets)
    assert torch.equal(first, second)
    draws = first.split(30)
    assert len(draws) == 3
    clean, _ = clean_images(indices)
    for draw, other in zip(draws, draws[1:] + draws[:1], strict=True):
        assert not torch.equal(draw, other)
        most = (draw - clean).abs().max()
        assert 0.9 * 32 / 255 < most <= 32 / 255 + 0.51 / 255  # clipped at 2 sigma
        assert torch.allclose(draw * 255, (draw * 255).round(), atol=1e-4)


def test_accuracy_on_shuffled_patches_is_what_a_loop_counts(targets, images, indices, cells):
    found = evaluate_shuffle(
        targets, images, indices, cells, grids=[1, 2, 4], seed=3, batch_size=7, progress=Told()
    )
    clean, labels = clean_images(indices)
    assert [cell["results"]["grid"] for cell in found] == [1, 1, 2, 2, 4, 4]
    for number, cell in enumerate(found):
        grid, target = (1, 2, 4)[number // 2], targets[number % 2]
        count = correct(target, shuffle_patches(clean, grid, 3, indices), labels)
        assert cell["results"]["accuracy"] == proportion(count, 30)
        assert cell["results"]["shown"]["target"] == target.name
        assert grid > 1 or count == 30  # the control
    assert found[4]["results"]["accuracy"]["rate"] < 1


# White-box attacks


@pytest.fixture
def few():
    return fitted_networks.sample_images()


@pytest.fixture
def network(tmp_path):
    return fitted_networks.named(tmp_path, ("standard", 0))[0]


def test_the_sample_is_of_all_images(few):
    sample = sample_of_all(few, 50, 3)
    assert len(sample.unique()) == 50 and not torch.equal(sample, sample.sort().values)
    assert torch.equal(sample_of_all(few, 20, 3), sample[:20])
    assert not torch.equal(sample_of_all(few, 50, 4), sample)
    assert len(sample_of_all(few, 5000, 0)) == 120


def test_rates_equal_a_count_by_hand(tmp_path, few, network):
    indices = sample_of_all(few, 60, 0)
    attack = PGD(eps=1 / 255, step=0.5 / 255, steps=4, random_start=True)
    cell = evaluate_white_box(network, attack, few, indices, Store(tmp_path), batch_size=25)
    results = cell["results"]
    pixels, labels = pixels_of(few, indices), few.labels[indices]
    alone = (x.split(1) for x in (pixels, labels, indices))
    found = torch.cat([attack.images(network.model, *each) for each in zip(*alone, strict=True)])
    before = classes_of(network.model, pixels) == labels
    after = classes_of(network.model, found) == labels
    rate, defence = results["robust_accuracy"], results["defence"]
    kept = read_outcomes(results["outcomes"], len(indices))
    assert [int(each.sum()) for each in kept] == [defence["k"], defence["n"]]
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


def test_cells_are_kept_for_what_determines_them(tmp_path, few, network):
    cells, indices = Store(tmp_path), sample_of_all(few, 12, 0)
    calls, told = [], []
    network.model.register_forward_hook(lambda *_: calls.append(1))

    def evaluate(who=network, attack=FGSM(eps=4 / 255), which=indices, size=6, **more):  # noqa: B008
        return evaluate_white_box(who, attack, few, which, cells, batch_size=size, **more)

    first = evaluate(Source(network), size=5, progress=lambda *now: told.append(now[:2]))
    assert told == [(5, 12), (10, 12), (12, 12)]
    calls.clear()
    assert evaluate(size=12) == first and calls == []
    harmless = evaluate(attack=FGSM(eps=1e-6))["results"]
    assert harmless["defence"]["rate"] == 1.0
    assert harmless["median_l2"] is None and harmless["median_linf"] is None
    evaluate(which=indices[:11])
    assert (cells.computed, cells.reused) == (3, 1)


def test_what_cannot_be_attacked_is_named(tmp_path, few, network):
    on = FGSM(), few, sample_of_all(few, 4, 0), Store(tmp_path)
    next(network.model.parameters()).data.fill_(float("nan"))
    with pytest.raises(UserError, match=r"standard-0, fgsm:.*not finite"):
        evaluate_white_box(network, *on, batch_size=4)
    assert not list(tmp_path.glob("*.json"))
