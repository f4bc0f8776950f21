"""From results to numbers with intervals."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scotoma.bench.paper.estimates import Estimate, combined, estimate, read_values, share, wilson
from scotoma.bench.paper.experiment import Experiment, Measure
from scotoma.defective.errors import UserError
from scotoma.defective.robustness.rates import proportion

counts = st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


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


@given(counts)
def test_wilson_is_that_of_rates(count):
    k, n = count
    rate = proportion(k, n)
    assert wilson(k / n, n) == pytest.approx((rate["low"], rate["high"]), abs=1e-12)


@given(counts, st.floats(0.5, 0.999))
def test_wilson_holds_its_value_and_widens_with_the_level(count, level):
    k, n = count
    low, high = wilson(k / n, n, level)
    assert 0 <= low <= k / n <= high <= 1
    wider = wilson(k / n, n, (1 + level) / 2)
    assert wider[0] <= low and high <= wider[1] and wider != (low, high)


@given(st.floats(0, 1), st.integers(1, 1000))
def test_more_images_narrow_the_interval(value, n):
    few, many = wilson(value, n), wilson(value, 4 * n)
    assert few[0] <= many[0] + 1e-12 and many[1] <= few[1] + 1e-12
    assert many[1] - many[0] < few[1] - few[0]


@pytest.mark.parametrize(("value", "n"), [(0.5, 0), (-0.1, 9), (1.1, 9), (math.nan, 9)])
def test_wilson_of_what_is_no_share(value, n):
    with pytest.raises(UserError, match=f"n={n}"):
        wilson(value, n)


@pytest.mark.parametrize("level", [0, 1, -0.5, 95, math.nan])
def test_level_is_a_fraction(level):
    with pytest.raises(UserError, match="level is"):
        share(0.5, 10).interval(level)


def test_rate_of_one_seed():
    found = of({"defence": proportion(30, 40)})
    assert found == share(0.75, 40) and found.rate and found.n == 40
    assert found.per_seed == (0.75,)
    assert found.interval() == (found.low, found.high) == wilson(0.75, 40)
    assert found.interval(0.999) == wilson(0.75, 40, 0.999)


def test_score_of_one_seed():
    found = of({"score": 3e-5, "score_interval": [2e-5, 5e-5], "n": 500}, quantity="score")
    assert found == Estimate(3e-5, 2e-5, 5e-5, 500, (3e-5,))
    assert found.interval() == pytest.approx((2e-5, 5e-5))
    # 2.5758 / 1.95996 = 1.3142 times as far on each side.
    assert found.interval(0.99) == pytest.approx((3e-5 - 1.31422e-5, 3e-5 + 2.62844e-5), rel=1e-4)


@pytest.mark.parametrize("more", [{}, {"score_interval": None}])
def test_score_without_an_interval(more):
    found = of({"score": 3e-5, **more}, quantity="score")
    assert (found.low, found.high, found.n) == (None, None, 0)
    assert found.interval() is None and found.interval(0.9) is None


def test_several_seeds():
    found = of(*({"defence": proportion(k, n)} for k, n in ((400, 1000), (500, 1000), (540, 900))))
    assert found.per_seed == (0.4, 0.5, 0.6) and found.value == pytest.approx(0.5)
    assert found.n == 900
    for level, quantile in ((0.95, 4.302653), (0.99, 9.924843)):
        half = quantile * 0.1 / math.sqrt(3)
        low, high = wilson(0.5, 900, level)
        wanted = 0.5 - math.hypot(half, 0.5 - low), 0.5 + math.hypot(half, high - 0.5)
        assert found.interval(level) == pytest.approx((max(0.0, wanted[0]), min(1.0, wanted[1])))
    assert (found.low, found.high) == found.interval()


def test_seeds_of_scores_share_their_images():
    """As in Table 6: what the choice of images leaves open, three seeds on them do not settle."""
    scores = [Estimate(v, v / 2, v * 3, 500, (v,)) for v in (0.9, 1.0, 1.1)]
    found = combined(scores)
    half = 4.302653 * 0.1 / math.sqrt(3)
    wanted = 1 - math.hypot(half, 0.5), 1 + math.hypot(half, 2)
    assert (found.low, found.high) == pytest.approx(wanted, rel=1e-5)
    assert found.interval(0.99)[1] > found.high and not found.rate
    alike = combined([scores[1]] * 3)
    assert (alike.low, alike.high) == pytest.approx((0.5, 3.0))
    unknown = combined([*scores[:2], Estimate(1.1, None, None, 500, (1.1,))])
    assert unknown.spans == () and unknown.high == pytest.approx(1 + half, rel=1e-5)


@pytest.mark.parametrize("seeds", [3, 10])
def test_coverage_where_seeds_share_their_images(seeds):
    """Half of the variance is the images', and no number of seeds shows it."""
    generator, inside, draws, n = random.Random(4), 0, 400, 200
    spread = math.sqrt(0.25 / n * seeds)
    for _ in range(draws):
        images = [generator.random() for _ in range(n)]
        moves = [generator.gauss(0, spread) for _ in range(seeds)]
        found = combined([share(sum(u < 0.5 + m for u in images) / n, n) for m in moves])
        inside += found.low <= 0.5 <= found.high
    assert inside / draws > 0.93


def test_many_seeds_have_their_own_quantile():
    scores = [float(number) for number in range(1, 22)]  # standard deviation 6.2048
    found = of(*({"score": score} for score in scores), quantity="score")
    half = 2.085963 * 6.204837 / math.sqrt(21)
    assert (found.low, found.high) == pytest.approx((11 - half, 11 + half), rel=1e-5)


def test_equal_seeds_are_not_certain():
    """All seeds may attack the same images, whose choice no number of seeds averages out."""
    found = of(*({"defence": proportion(0, 200)} for _ in range(3)))
    assert (found.low, found.high) == wilson(0, 200)
    assert found.interval(0.999) == wilson(0, 200, 0.999)


def test_seeds_of_scores_need_no_interval_of_their_own():
    found = of({"score": 1.0}, {"score": 3.0}, quantity="score")
    # 12.706 times the standard error of 1; no score is below 0.
    assert found.value == 2 and found.low == 0 and found.high == pytest.approx(14.706, rel=1e-4)
    assert not found.rate


def test_rates_and_scores_together_are_no_rate():
    assert not combined([share(0.5, 10), Estimate(0.4, None, None, 0, (0.4,))]).rate


def test_draws_of_an_image_are_no_images():
    draws = [proportion(k, 100) for k in (80, 90, 85)]
    found = of({"accuracy": proportion(255, 300), "per_draw": draws}, quantity="accuracy")
    assert found == share(0.85, 100)


def test_what_is_not_there():
    assert estimate([Measure(Written(), "defence")], None) is None
    there = Measure(Written({"defence": proportion(3, 4)}), "defence")
    assert estimate([there, Measure(Written(), "defence")], None) is None
    assert of({"defence": proportion(3, 4)}, {"defence": proportion(0, 0)}) is None
    assert of({"score": None}, quantity="score") is None
    assert estimate([], None) is None and combined([]) is None


def test_index_of_a_cell():
    result = Written({"defence": proportion(1, 4)}, {"defence": proportion(3, 4)})
    assert estimate([Measure(result, "defence", 1)], None).value == 0.75


def test_values_of_an_experiment():
    there = Measure(Written({"defence": proportion(3, 4)}), "defence")
    cells = {("a", "c"): (there,), ("b", "c"): (there, Measure(Written(), "defence"))}
    found = read_values(Experiment(("a", "b"), ("c",), cells), None)
    assert found == {("a", "c"): share(0.75, 4)}


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
    ],
)
def test_damaged_result(results):
    with pytest.raises(UserError, match=r"results/one.json: no result of a reproduction"):
        of(results)


def test_cell_that_is_not_there():
    with pytest.raises(UserError, match="remove it"):
        of({"defence": proportion(1, 4)}, index=3)
