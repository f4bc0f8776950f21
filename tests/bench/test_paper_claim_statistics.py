"""Differences with intervals, and when a comparison holds."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scotoma.bench.paper.claims.statistics import (
    EVERYWHERE,
    Outcome,
    adjusted,
    difference,
    logarithm,
    outcome,
)
from scotoma.bench.paper.estimates import Estimate, combined, share
from scotoma.defective.errors import UserError

ABOVE = (0.0, math.inf)
sizes = st.integers(1, 5000)
shares = st.builds(lambda k, n: share(min(k, n) / n, n), st.integers(0, 5000), sizes)
levels = st.floats(0.5, 0.9999)


def test_newcombe_s_own_example():
    """Newcombe (1998), table II, method 10, rows (a), (d) and (g)."""
    for (k, m), (j, n), expected in (
        ((56, 70), (48, 80), (0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.1705, 0.8090)),
        ((5, 56), (0, 29), (-0.0381, 0.1926)),
    ):
        found = difference(share(k / m, m), share(j / n, n))
        assert (found.low, found.high) == pytest.approx(expected, abs=6e-5)
        assert found.value == pytest.approx(k / m - j / n)


@given(shares, shares, levels)
def test_antisymmetric(a, b, level):
    one, other = difference(a, b, level), difference(b, a, level)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))


@given(shares, shares, levels)
def test_holds_its_value_and_stays_among_differences(a, b, level):
    found = difference(a, b, level)
    assert -1 - 1e-9 <= found.low <= found.value <= found.high <= 1 + 1e-9
    wider = difference(a, b, (1 + level) / 2)
    assert wider.low <= found.low and found.high <= wider.high


@given(st.floats(0, 1), st.floats(0, 1), sizes, levels)
def test_more_images_narrow_it(a, b, n, level):
    few = difference(share(a, n), share(b, n), level)
    many = difference(share(a, 4 * n), share(b, 4 * n), level)
    assert few.low <= many.low + 1e-12 and many.high <= few.high + 1e-12
    assert many.high - many.low < few.high - few.low


@given(shares, st.floats(0, 1), levels)
def test_constants_are_exact(a, constant, level):
    found, (low, high) = difference(a, constant, level), a.interval(level)
    assert (found.low, found.high) == pytest.approx((low - constant, high - constant))
    assert difference(constant, constant, level).high == 0


@pytest.mark.parametrize("other", [share(0.5, 10), 0.5, Estimate(0.5, None, None, 5, (0.5,))])
def test_without_an_interval_all_is_possible(other):
    score = Estimate(0.9, None, None, 100, (0.9,))
    found = difference(score, other)
    assert (found.value, found.low, found.high) == (pytest.approx(0.4), *EVERYWHERE)
    for wanted in (ABOVE, (-math.inf, 0.05), (-0.5, 0.5)):
        assert outcome(score, other, wanted, 1) is Outcome.OPEN


@pytest.mark.parametrize(
    ("a", "b", "m", "n"), [(0.5, 0.5, 200, 150), (0.05, 0.1, 200, 200), (0.95, 0.7, 60, 90)]
)
def test_coverage_of_images(a, b, m, n):
    """True differences are covered in about 95 % of draws; 2,000 draws have an error of 0.5 %."""
    generator, inside, draws = random.Random(1), 0, 2000
    for _ in range(draws):
        one = share(sum(generator.random() < a for _ in range(m)) / m, m)
        other = share(sum(generator.random() < b for _ in range(n)) / n, n)
        found = difference(one, other)
        inside += found.low <= a - b <= found.high
    assert 0.935 < inside / draws < 0.975


def test_coverage_of_seeds():
    """Of three seeds each: Student's intervals are wide, their hybrid rather too wide."""
    generator, inside, draws = random.Random(2), 0, 1000
    for _ in range(draws):
        one, other = (
            combined([Estimate(generator.gauss(mean, 1), None, None, 0, (0,)) for _ in range(3)])
            for mean in (12, 10)
        )
        found = difference(one, other)
        inside += found.low <= 2 <= found.high
    assert 0.95 < inside / draws < 0.999


def test_logarithms_of_seeds_keep_their_own_intervals():
    scores = [Estimate(v, v / 2, v * 3, 500, (v,)) for v in (0.9, 1.0, 1.1)]
    other = [Estimate(1.5 * v, 0.75 * v, 4.5 * v, 500, (1.5 * v,)) for v in (0.9, 1.0, 1.1)]
    found = logarithm(combined(scores))
    assert found.spans == tuple((math.log(e.low), math.log(e.high)) for e in scores)
    low, high = found.interval()
    assert low < math.log(0.5) and high > math.log(3)
    assert outcome(logarithm(combined(other)), found, ABOVE, 1) is Outcome.OPEN
    nothing = logarithm(combined([replace(each, low=0.0) for each in scores]))
    assert nothing.interval()[0] == -math.inf


def test_true_claims_are_rarely_refuted():
    """75 comparisons of equals, the worst case of a true claim: 5 % at most, not 75 times 2.5 %."""
    generator, comparisons, draws = random.Random(3), 75, 150
    n = 400
    refuted = at_95 = 0
    for _ in range(draws):
        kinds, below = set(), False
        for _ in range(comparisons):
            a, b = (share(generator.getrandbits(n).bit_count() / n, n) for _ in range(2))
            kinds.add(outcome(a, b, ABOVE, comparisons))
            below |= difference(a, b).high < 0
        refuted += Outcome.REVERSED in kinds
        at_95 += below
    assert refuted / draws < 0.08 and at_95 / draws > 0.6


def test_levels():
    assert adjusted(1) == pytest.approx(0.95) and adjusted(50) == pytest.approx(0.999)
    with pytest.raises(UserError, match="comparisons is 0"):
        adjusted(0)


def test_above():
    high, low = share(0.60, 1000), share(0.50, 1000)
    near = share(0.52, 1000)
    assert outcome(high, low, ABOVE, 20) is Outcome.HOLDS
    assert outcome(low, high, ABOVE, 20) is Outcome.REVERSED
    assert outcome(near, low, ABOVE, 20) is outcome(low, near, ABOVE, 20) is Outcome.OPEN


def test_holding_needs_no_adjustment_and_reversing_does():
    a, b = share(0.55, 1000), share(0.50, 1000)  # z = 2.24
    assert outcome(a, b, ABOVE, 1) is outcome(a, b, ABOVE, 50) is Outcome.HOLDS
    assert outcome(b, a, ABOVE, 1) is Outcome.REVERSED
    assert outcome(b, a, ABOVE, 50) is Outcome.OPEN


def test_margins():
    same, more, less = share(0.50, 9000), share(0.60, 9000), share(0.40, 9000)
    alike, no_gain, no_loss = (-0.05, 0.05), (-math.inf, 0.05), (-0.05, math.inf)
    found = {
        wanted: [outcome(a, same, wanted, 3).value for a in (less, same, more)]
        for wanted in (alike, no_gain, no_loss)
    }
    assert found[alike] == ["reversed", "holds", "reversed"]
    assert found[no_gain] == ["holds", "holds", "reversed"]
    assert found[no_loss] == ["reversed", "holds", "holds"]
    # Fewer images leave even equals open.
    assert outcome(share(0.5, 200), share(0.5, 200), alike, 3) is Outcome.OPEN


@given(shares, shares, st.floats(-0.5, 0.5), st.integers(1, 300))
def test_mirrored_comparisons_agree(a, b, margin, comparisons):
    """a - b above a margin is b - a below its negative."""
    one = outcome(a, b, (margin, math.inf), comparisons)
    other = outcome(b, a, (-math.inf, -margin), comparisons)
    assert one is other


@given(shares, shares, st.integers(1, 300))
def test_a_comparison_and_its_reverse_never_both_hold(a, b, comparisons):
    one, other = outcome(a, b, ABOVE, comparisons), outcome(b, a, ABOVE, comparisons)
    assert not {one, other} <= {Outcome.HOLDS} and not {one, other} <= {Outcome.REVERSED}
    if one is Outcome.REVERSED:
        assert other is Outcome.HOLDS


def test_bounds_are_open():
    assert outcome(0.5, 0.5, ABOVE, 1) is Outcome.OPEN
    assert outcome(0.5, 0.25, (-0.25, 0.25), 1) is Outcome.OPEN
    assert outcome(0.25, 0.5, (-0.25, 0.25), 1) is Outcome.OPEN


def test_logarithm_of_one_seed():
    found = logarithm(Estimate(math.e, 1.0, math.e**2, 500, (math.e,)))
    assert (found.value, found.low, found.high, found.n) == (1, 0, 2, 500)
    assert not found.rate
    assert logarithm(Estimate(1.0, 0.0, 2.0, 9, (1.0,))).low == -math.inf
    assert logarithm(Estimate(1.0, None, None, 9, (1.0,))).interval() is None


def test_logarithm_of_several_seeds():
    scores = Estimate(4.2, 0.0, 12.0, 9, (1.0, math.e, math.e**2))
    found = logarithm(scores)
    assert found.value == pytest.approx(1)
    half = 4.302653 / math.sqrt(3)
    assert found.interval() == pytest.approx((1 - half, 1 + half), rel=1e-5)


def test_a_ratio_is_that_of_the_scores():
    found = difference(
        logarithm(Estimate(4e-5, 3e-5, 6e-5, 500, (4e-5,))),
        logarithm(Estimate(1e-5, 1e-5, 1e-5, 500, (1e-5,))),
    )
    assert [math.exp(x) for x in (found.value, found.low, found.high)] == pytest.approx([4, 3, 6])


@pytest.mark.parametrize("scores", [(0.0,), (1.0, -1.0)])
def test_logarithm_of_what_has_none(scores):
    with pytest.raises(UserError, match="expected more than 0"):
        logarithm(Estimate(sum(scores), None, None, 5, scores))
