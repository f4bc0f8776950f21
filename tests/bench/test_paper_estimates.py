"""Numbers read from results."""

import math
from dataclasses import replace

import pytest
import torch
from paper_smoke import context, learning_setup
from scotoma.bench.paper.artefacts import Result
from scotoma.bench.paper.estimates import Estimate, combined, share, wilson
from scotoma.bench.paper.experiment import Measure, estimate, read_values
from scotoma.bench.paper.setup import fgsm
from scotoma.defective.errors import UserError
from scotoma.defective.robustness.rates import outcomes_of, proportion


class Written:
    """A result with these cells, or one that is not there."""

    def __init__(self, *cells):
        self.cells = cells

    def is_done(self, store):
        return bool(self.cells)

    def read(self, store):
        return list(self.cells)

    def path(self, store):
        return "results/one.json"


def of(*results, quantity="defence", index=0):
    """The estimate of one result for each seed."""
    return estimate([Measure(Written(each), quantity, index) for each in results], None)


def test_rates_and_scores_of_one_seed():
    found = of({"defence": proportion(30, 40)})
    assert found == share(0.75, 40) and found.rate and found.n == 40
    assert found.per_seed == (0.75,)
    assert found.interval() == (found.low, found.high) == wilson(0.75, 40)
    assert found.interval(0.999) == wilson(0.75, 40, 0.999)
    found = of({"score": 3e-5, "score_interval": [2e-5, 5e-5], "n": 500}, quantity="score")
    assert found == Estimate(3e-5, 2e-5, 5e-5, 500, (3e-5,))
    for more in ({}, {"score_interval": None}):
        found = of({"score": 3e-5, **more}, quantity="score")
        assert (found.low, found.high, found.n) == (None, None, 0)
        assert found.interval() is None and found.interval(0.9) is None


def test_several_seeds_and_draws_of_an_image():
    rates = [{"defence": proportion(k, n)} for k, n in ((400, 1000), (500, 1000), (540, 900))]
    assert of(*rates) == combined([share(0.4, 1000), share(0.5, 1000), share(0.6, 900)])
    draws = [proportion(k, 100) for k in (80, 90, 85)]
    found = of({"accuracy": proportion(255, 300), "per_draw": draws}, quantity="accuracy")
    assert found == share(0.85, 100)  # draws are no images


def test_what_is_there_and_what_is_not():
    there, absent = Measure(Written({"defence": proportion(3, 4)}), "defence"), Written()
    places = {("a", "c"): (there,), ("b", "c"): (there, Measure(absent, "defence")), ("d", "c"): ()}
    assert read_values(places, None) == {("a", "c"): share(0.75, 4)}
    assert of({"defence": proportion(3, 4)}, {"defence": proportion(0, 0)}) is None
    assert of({"score": None}, quantity="score") is None
    two = Written({"defence": proportion(1, 4)}, {"defence": proportion(3, 4)})
    assert estimate([Measure(two, "defence", 1)], None).value == 0.75


@pytest.mark.parametrize(
    "results",
    [
        {},
        {"defence": "much"},
        {"defence": {}},
        {"defence": {"rate": 0.5}},
        {"defence": {"rate": 1.5, "n": 4}},
        {"defence": {"rate": math.nan, "n": 4}},
        {"defence": {"rate": 0.5, "n": 0}},
        {"defence": {"rate": "x", "n": 4}},
        {"defence": proportion(1, 4), "per_draw": [4]},
        {"defence": math.nan},
        {"defence": math.inf},
        {"defence": 2.0, "defence_interval": [3.0, 4.0]},
        {"defence": 2.0, "defence_interval": [1.0]},
        {"defence": 2.0, "defence_interval": [None, 3.0]},
        {"defence": 2.0, "defence_interval": ["a", "b"]},
        {"defence": 2.0, "n": "many"},
        {"other": proportion(1, 4)},
    ],
)
def test_damaged_result(results):
    with pytest.raises(UserError, match=r"results/one.json: no result of a reproduction"):
        of(results)


def test_cell_that_is_not_there():
    with pytest.raises(UserError, match="remove it"):
        of({"defence": proportion(1, 4)}, index=3)


def test_which_images_a_rate_counts(store):
    setup, here = learning_setup(), context(store)
    target = setup.target("a", "resnet18", seed=0)
    sample = setup.sample("cifar10", ())
    images = setup.adversarial(target, fgsm(64), sample)
    few = replace(images, most=12)
    for artefact in (target.members[0], sample, images, few):
        artefact.make(here)
    indices = sample.read(store)[0].tolist()
    labels = here.images(sample.data).labels
    right = here.clean(sample.data).of(target.load(here), labels.new_tensor(range(1000))) == labels
    found = {}
    for result, count in (
        (Result.transfer(target, few), 12),
        (Result.transfer(target, images), 16),
        (Result.white_box(target, fgsm(64), sample), 16),
        (Result.clean(target), 1000),
    ):
        result.make(here)
        quantity = "accuracy" if result.protocol == "clean" else "defence"
        one = estimate([Measure(result, quantity)], store)
        (kept,) = one.outcomes
        assert (kept.right & kept.among).sum() / kept.among.sum() == one.value
        assert kept.among.sum() == one.n and not (kept.right & ~kept.among).any()
        assert len(kept.images) == count
        found[result.protocol] = kept
        # Twice as many seeds have twice the outcomes; another quantity has none.
        assert len(estimate([Measure(result, quantity)] * 2, store).outcomes) == 2
        if result.protocol == "transfer":
            assert estimate([Measure(result, "fooled_source")], store).outcomes == ()
    assert found["clean"].images.tolist() == list(range(1000))
    assert found["clean"].right.tolist() == right.tolist()
    assert found["white-box"].images.tolist() == indices
    assert found["white-box"].among.tolist() == right[indices].tolist()
    sample.path(store).unlink()
    result = Result.white_box(target, fgsm(64), sample)
    assert estimate([Measure(result, "defence")], store).outcomes == ()


def test_outcomes_of_another_rate_are_damage():
    class Clean(Written):
        protocol = "clean"

    three = outcomes_of(torch.tensor([True, True, True, False]))
    for k, good in ((3, True), (2, False)):
        measure = Measure(Clean({"accuracy": proportion(k, 4), "outcomes": three}), "accuracy")
        if good:
            assert estimate([measure], None).outcomes[0].right.tolist() == [True] * 3 + [False]
        else:
            with pytest.raises(UserError, match="not those of the rate"):
                estimate([measure], None)
