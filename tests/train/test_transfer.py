"""Transfer: rates against a count by hand, sets that do not fit, nothing left to count."""

from dataclasses import replace

import pytest
import torch
from fitted_networks import classes_of, hand_made_set, named, pixels_of, sample_images
from scotoma.defective.errors import UserError
from scotoma.defective.robustness.rates import read_outcomes
from scotoma.train.robustness.protocols import CleanPredictions, evaluate_clean
from scotoma.train.robustness.transfer import check_set, content_digest, evaluate_transfer
from scotoma.train.store import Store


@pytest.fixture(scope="module")
def images():
    return sample_images()


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return named(tmp_path_factory.mktemp("nets"), ("standard", 0), ("0.5-Bottom", 1))


@pytest.fixture(scope="module")
def indices():
    """In no order, and not from the first image on."""
    return torch.randperm(120, generator=torch.Generator().manual_seed(5))[:50]


@pytest.fixture(scope="module")
def made(networks, images, indices):
    return hand_made_set(images, networks[0], indices)


def altered(found):
    """Classes before and after rounding that differ, as a real rounding seldom makes them."""
    before = found.unrounded_predictions.clone()
    before[::3] = (found.labels[::3] + 1) % 10
    before[1::7] = found.labels[1::7]
    return replace(found, unrounded_predictions=before)


@pytest.mark.parametrize("pixels", ["float", "uint8"])
def test_rates_equal_a_count_by_hand(tmp_path, networks, images, indices, pixels):
    source, target = networks
    found = altered(hand_made_set(images, source, indices, pixels))
    results = evaluate_transfer(
        target, found, images, Store(tmp_path), batch_size=7, common=networks
    )["results"]

    clean = classes_of(target.model, pixels_of(images, indices)).tolist()
    stored = found.images.float() / (255 if pixels == "uint8" else 1)
    after = classes_of(target.model, stored).tolist()
    counts = {}

    def count(name, among, holds):
        k, n = counts.get(name, (0, 0))
        counts[name] = (k + (among and holds), n + among)

    for row, index in enumerate(indices.tolist()):
        label = int(images.labels[index])
        source_right = int(found.clean_predictions[row]) == label
        wrong = int(found.predictions[row])
        counted = source_right and wrong != label and clean[row] == label
        before = source_right and found.unrounded_predictions[row] != label and clean[row] == label
        count("defence", counted, after[row] == label)
        count("defence_all", True, after[row] == label)
        count("defence_common", counted, after[row] == label)  # the source is right there
        count("same_wrong_class", counted, after[row] == wrong)
        count("fooled_source", source_right, wrong != label)
        if pixels == "uint8":
            count("defence_unrounded", bool(before), after[row] == label)
    rates = {
        name: (r["k"], r["n"]) for name, r in results.items() if isinstance(r, dict) and "k" in r
    }
    assert rates == counts
    right, among = read_outcomes(results["outcomes"], len(indices))
    assert (int(right.sum()), int(among.sum())) == counts["defence"] and not (right & ~among).any()
    label = images.labels[indices]
    assert torch.equal(right, among & (torch.tensor(after) == label))
    # The cases are there, or this test would say little.
    assert 0 < counts["defence"][0] < counts["defence"][1] < counts["fooled_source"][1]
    assert results["relation"] == "transfer" and results["warnings"] == []
    assert results["shown"] == {
        "target": "0.5-Bottom-1",
        "target_arch": "resnet18",
        "target_defects": "0.5-Bottom",
        "source": "standard-0",
        "attack": "blend-by-hand:strength=0.5",
        "pixels": pixels,
    }


def test_the_common_images_are_those_that_all_targets_get_right(
    tmp_path, networks, images, indices, made
):
    (source, one), (other,) = networks, named(tmp_path, ("standard", 2))
    found = made
    cells, clean = Store(tmp_path / "cells"), CleanPredictions(images, 50)
    options = {"batch_size": 50, "clean": clean}
    alone = evaluate_transfer(one, found, images, cells, **options)["results"]
    both = evaluate_transfer(one, found, images, cells, common=[one, other], **options)["results"]
    assert "defence_common" not in alone
    right = torch.ones(len(indices), dtype=torch.bool)
    for target in (one, other):
        right &= classes_of(target.model, pixels_of(images, indices)) == found.labels
    assert both["defence_common"]["n"] == int((found.fooled & right).sum())
    assert 0 < both["defence_common"]["n"] < both["defence"]["n"] == alone["defence"]["n"]
    # Another choice of targets is another result.
    cell = evaluate_transfer(one, found, images, cells, common=[one, source], **options)
    assert cell["results"]["defence_common"]["n"] != both["defence_common"]["n"]


def test_the_source_itself_and_an_ensemble_with_it(tmp_path, networks, images, made):
    pair = [str(tmp_path / f"{name}.safetensors") for name in ("0.5-Bottom-1", "standard-0")]
    *_, ensemble = named(tmp_path, ("0.5-Bottom", 1), ("standard", 0), ensembles=[pair])
    own, mixed = (
        evaluate_transfer(target, made, images, Store(tmp_path), batch_size=60)["results"]
        for target in (networks[0], ensemble)
    )
    assert own["relation"] == mixed["relation"] == "white-box"
    assert own["defence"]["k"] == 0 and own["defence"]["n"] == int(made.fooled.sum())
    assert own["same_wrong_class"]["rate"] == 1.0
    assert mixed["shown"]["target_arch"] == "resnet18"
    assert mixed["shown"]["target_defects"] == "0.5-Bottom+standard"


def test_results_do_not_depend_on_the_batch_and_are_kept_for_what_is_in_the_set(
    tmp_path, networks, images, made
):
    def evaluate(found, size, cells):
        return evaluate_transfer(networks[1], found, images, cells, batch_size=size)["results"]

    cells = Store(tmp_path / "b")
    assert evaluate(made, 1, Store(tmp_path / "a")) == evaluate(made, 1000, cells)
    evaluate(made, 3, cells)
    assert (cells.computed, cells.reused) == (1, 1)
    for number, name in enumerate(("images", "predictions", "clean_predictions"), 2):
        changed = getattr(made, name).clone()
        changed[3] = 1 - changed[3] if name == "images" else 9 - changed[3]
        other = replace(made, **{name: changed})
        assert content_digest(other) != content_digest(made)
        evaluate(other, 60, cells)
        assert cells.computed == number


@pytest.mark.parametrize("case", ["not fooled", "target wrong", "empty"])
def test_nothing_left_to_count_is_a_warning(tmp_path, networks, images, indices, made, case):
    target, found = networks[1], made
    if case == "not fooled":
        found = replace(made, predictions=made.labels.clone())
    elif case == "target wrong":
        wrong = classes_of(target.model, pixels_of(images, indices)) != made.labels
        found = made.subset(wrong & made.fooled)
        assert len(found)
    else:
        found = made.subset(torch.zeros(0, dtype=torch.int64))
    found = with_details(
        found, data=made.details["data"] | {"fingerprint": images.fingerprint(found.indices)}
    )
    results = evaluate_transfer(target, found, images, Store(tmp_path), batch_size=9)["results"]
    assert results["defence"] == {"k": 0, "n": 0, "rate": None, "low": None, "high": None}
    assert results["defence_all"]["n"] == len(found)
    (warning,) = results["warnings"]
    assert warning.startswith("no image is left") and "\n" not in warning
    assert ("the target classifies none" in warning) == (case == "target wrong")


def with_details(found, **changes):
    return replace(found, details=found.details | changes)


def renamed(found, name="cifar10"):
    return with_details(found, data=found.details["data"] | {"name": name, "fingerprint": "0" * 32})


def wrong_class(name):
    return lambda found: replace(found, **{name: getattr(found, name) + 99})


UNKNOWN = "does not say what it was made of"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed, r"my\.set holds adversarial images of cifar10.*sample \(120\).*--dataset"),
        (lambda f: renamed(f, "sample"), "of sample, which are not the test images of sample"),
        (lambda f: replace(f, indices=f.indices + 1), "not the test images of sample"),
        (lambda f: replace(f, indices=f.indices + 100), "not the test images of sample"),
        (lambda f: replace(f, labels=(f.labels + 1) % 10), "not the test images of sample"),
        (lambda f: replace(f, images=f.images[..., :14]), "1x28x14, but standard-0 takes 1x28x28"),
        (wrong_class("predictions"), r"my\.set has predictions of class 1\d\d"),
        (wrong_class("unrounded_predictions"), r"has unrounded_predictions of class 1\d\d"),
        (lambda f: with_details(f, data=None), UNKNOWN),
        (lambda f: with_details(f, source={}), UNKNOWN),
        (lambda f: with_details(f, attack_text=None), UNKNOWN),
        (
            lambda f: with_details(f, source=f.details["source"] | {"members": [3]}),
            "description of a source is damaged",
        ),
    ],
)
def test_sets_that_do_not_fit_are_refused(tmp_path, networks, images, made, change, message):
    found = change(made)
    with pytest.raises(UserError, match=message):
        check_set(found, images, networks, "my.set")
    with pytest.raises(UserError):
        evaluate_transfer(networks[0], found, images, Store(tmp_path), batch_size=9)
    assert not list(tmp_path.glob("*.json"))


def test_a_set_of_a_part_of_the_data_is_recognised(networks, images, indices):
    """Numbers count from the first test image, so a prefix of the data holds the same images."""
    found = hand_made_set(images, networks[0], indices.clamp(max=39).unique())
    check_set(found, sample_images(60), networks)


def test_clean_predictions_are_made_once(tmp_path, networks, images):
    target, calls = networks[0], []
    hook = target.model.register_forward_hook(lambda m, x, y: calls.append(len(x[0])))
    clean = CleanPredictions(images, 32)
    some = torch.tensor([7, 3, 100, 3])
    expected = classes_of(target.model, pixels_of(images, torch.arange(120)))
    calls.clear()
    assert torch.equal(clean.of(target, some), expected[some])
    assert sum(calls) == 3
    cells = Store(tmp_path)
    cell = evaluate_clean(target, images, cells, clean=clean)
    assert sum(calls) == 120
    right = int((expected == images.labels).sum())
    assert (cell["results"]["accuracy"]["k"], cell["results"]["accuracy"]["n"]) == (right, 120)
    assert 0 < right < 120
    evaluate_clean(target, images, cells, clean=CleanPredictions(images, 32))
    assert sum(calls) == 120
    evaluate_clean(target, sample_images(60), cells, clean=CleanPredictions(sample_images(60), 32))
    assert cells.computed == 2
    hook.remove()
