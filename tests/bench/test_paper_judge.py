"""Numbers with intervals, their differences, and verdicts on claims."""

import math
import random
from dataclasses import replace
from statistics import NormalDist, fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scotoma.bench.paper.judge import (
    ABOVE,
    HOLDS,
    NOT_DECIDABLE,
    NOT_SUPPORTED,
    OPEN,
    REVERSED,
    SUPPORTED,
    Claim,
    Comparison,
    Elsewhere,
    Estimate,
    combined,
    difference,
    judge,
    logarithm,
    outcome,
    share,
    student,
    wilson,
)
from scotoma.defective.errors import UserError
from scotoma.defective.robustness.rates import proportion

sizes = st.integers(1, 5000)
counts = sizes.flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
shares = counts.map(lambda count: share(count[0] / count[1], count[1]))
levels = st.floats(0.5, 0.9999)
SCORES = [Estimate(v, v / 2, v * 3, 500, (v,)) for v in (0.9, 1.0, 1.1)]


# Numbers.


@given(counts, levels)
def test_wilson_is_that_of_rates_and_holds_its_value(count, level):
    k, n = count
    rate = proportion(k, n)
    assert wilson(k / n, n) == pytest.approx((rate["low"], rate["high"]), abs=1e-12)
    low, high = wilson(k / n, n, level)
    known = stats.binomtest(k, n).proportion_ci(level, "wilson")
    assert (low, high) == pytest.approx((known.low, known.high), abs=1e-9)
    assert 0 <= low <= k / n <= high <= 1


@pytest.mark.parametrize(("value", "n"), [(0.5, 0), (-0.1, 9), (1.1, 9), (math.nan, 9)])
def test_wilson_of_what_is_no_share(value, n):
    with pytest.raises(UserError, match=f"n={n}"):
        wilson(value, n)


@pytest.mark.parametrize("level", [0, 1, -0.5, 95, math.nan])
def test_level_is_a_fraction(level):
    with pytest.raises(UserError, match="level is"):
        share(0.5, 10).interval(level)


def test_student():
    for freedom, level, known in ((2, 0.95, 4.302653), (2, 0.99, 9.924843), (20, 0.95, 2.085963)):
        assert student(level, freedom) == pytest.approx(known, rel=1e-6)
    assert student(0.95, 10**7) == pytest.approx(NormalDist().inv_cdf(0.975), rel=1e-6)


def test_score_of_one_seed():
    found = Estimate(3e-5, 2e-5, 5e-5, 500, (3e-5,))
    assert found.interval() == pytest.approx((2e-5, 5e-5))
    # 2.5758 / 1.95996 = 1.3142 times as far on each side.
    assert found.interval(0.99) == pytest.approx((3e-5 - 1.31422e-5, 3e-5 + 2.62844e-5), rel=1e-4)
    assert Estimate(3e-5, None, None, 0, (3e-5,)).interval(0.9) is None


def test_several_seeds():
    found = combined([share(0.4, 1000), share(0.5, 1000), share(0.6, 900)])
    assert found.per_seed == (0.4, 0.5, 0.6) and found.value == pytest.approx(0.5)
    assert found.n == 900 and found.rate
    for level, quantile in ((0.95, 4.302653), (0.99, 9.924843)):
        half = quantile * 0.1 / math.sqrt(3)
        low, high = wilson(0.5, 900, level)
        wanted = 0.5 - math.hypot(half, 0.5 - low), 0.5 + math.hypot(half, high - 0.5)
        assert found.interval(level) == pytest.approx((max(0.0, wanted[0]), min(1.0, wanted[1])))
    assert (found.low, found.high) == found.interval()
    # All seeds may attack the same images, whose choice no number of seeds averages out.
    equal = combined([share(0, 200)] * 3)
    assert equal.interval(0.999) == wilson(0, 200, 0.999)
    assert combined([]) is None and combined([equal]) is equal


def test_seeds_of_scores_share_their_images():
    """As in Table 6: what the choice of images leaves open, three seeds on them do not settle."""
    found = combined(SCORES)
    half = 4.302653 * 0.1 / math.sqrt(3)
    wanted = 1 - math.hypot(half, 0.5), 1 + math.hypot(half, 2)
    assert (found.low, found.high) == pytest.approx(wanted, rel=1e-5)
    assert found.interval(0.99)[1] > found.high and not found.rate
    alike = combined([SCORES[1]] * 3)
    assert (alike.low, alike.high) == pytest.approx((0.5, 3.0))
    unknown = combined([*SCORES[:2], Estimate(1.1, None, None, 500, (1.1,))])
    assert unknown.spans == () and unknown.high == pytest.approx(1 + half, rel=1e-5)
    # 12.706 times the standard error of 1; no score is below 0.
    apart = combined([Estimate(v, None, None, 0, (v,)) for v in (1.0, 3.0)])
    assert (apart.low, apart.high) == (0, pytest.approx(14.706, rel=1e-4))
    assert not combined([share(0.5, 10), Estimate(0.4, None, None, 0, (0.4,))]).rate


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


# Differences.


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
def test_a_difference_holds_its_value_and_is_antisymmetric(a, b, level):
    found, other = difference(a, b, level), difference(b, a, level)
    assert found == pytest.approx((-other.value, -other.high, -other.low))
    assert -1 - 1e-9 <= found.low <= found.value <= found.high <= 1 + 1e-9
    wider = difference(a, b, (1 + level) / 2)
    assert wider.low <= found.low and found.high <= wider.high


@given(shares, st.floats(0, 1), levels)
def test_constants_are_exact(a, constant, level):
    found, (low, high) = difference(a, constant, level), a.interval(level)
    assert (found.low, found.high) == pytest.approx((low - constant, high - constant))
    assert difference(constant, constant, level).high == 0


@pytest.mark.parametrize("other", [share(0.5, 10), 0.5, Estimate(0.5, None, None, 5, (0.5,))])
def test_without_an_interval_all_is_possible(other):
    score = Estimate(0.9, None, None, 100, (0.9,))
    assert difference(score, other) == (pytest.approx(0.4), -math.inf, math.inf)
    for wanted in (ABOVE, (-math.inf, 0.05), (-0.5, 0.5)):
        assert outcome(score, other, wanted, 1) == OPEN


def test_coverage_of_images_and_of_seeds():
    """True differences are covered in about 95 % of draws; 1,000 draws have an error of 0.7 %. Of
    three seeds each, Student's intervals are wide, their hybrid rather too wide."""
    generator, images, seeds, draws = random.Random(1), 0, 0, 1000
    for _ in range(draws):
        one, other = (
            share(sum(generator.random() < p for _ in range(n)) / n, n)
            for p, n in ((0.95, 60), (0.7, 90))
        )
        found = difference(one, other)
        images += found.low <= 0.25 <= found.high
        one, other = (
            combined([Estimate(generator.gauss(mean, 1), None, None, 0, (0,)) for _ in range(3)])
            for mean in (12, 10)
        )
        found = difference(one, other)
        seeds += found.low <= 2 <= found.high
    assert 0.935 < images / draws < 0.975 and 0.95 < seeds / draws < 0.999


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
        refuted += REVERSED in kinds
        at_95 += below
    assert refuted / draws < 0.08 and at_95 / draws > 0.6


def test_outcomes_and_margins():
    same, more, less = share(0.50, 9000), share(0.60, 9000), share(0.40, 9000)
    found = {
        wanted: [outcome(a, same, wanted, 3) for a in (less, same, more)]
        for wanted in (ABOVE, (-0.05, 0.05), (-math.inf, 0.05), (-0.05, math.inf))
    }
    assert list(found.values()) == [
        [REVERSED, OPEN, HOLDS],
        [REVERSED, HOLDS, REVERSED],
        [HOLDS, HOLDS, REVERSED],
        [REVERSED, HOLDS, HOLDS],
    ]
    # Fewer images leave even equals open.
    assert outcome(share(0.5, 200), share(0.5, 200), (-0.05, 0.05), 3) == OPEN
    # Holding needs no adjustment for the number of comparisons, and reversing does.
    a, b = share(0.55, 1000), share(0.50, 1000)  # z = 2.24
    assert [outcome(a, b, ABOVE, m) for m in (1, 50)] == [HOLDS, HOLDS]
    assert [outcome(b, a, ABOVE, m) for m in (1, 50)] == [REVERSED, OPEN]
    # Bounds are open.
    assert outcome(0.5, 0.5, ABOVE, 1) == OPEN
    assert outcome(0.5, 0.25, (-0.25, 0.25), 1) == outcome(0.25, 0.5, (-0.25, 0.25), 1) == OPEN


@given(shares, shares, st.floats(-0.5, 0.5), st.integers(1, 300))
def test_mirrored_comparisons_agree(a, b, margin, comparisons):
    """a - b above a margin is b - a below its negative; and it never holds together with that of b
    above a."""
    one = outcome(a, b, (margin, math.inf), comparisons)
    assert one == outcome(b, a, (-math.inf, -margin), comparisons)
    one, other = outcome(a, b, ABOVE, comparisons), outcome(b, a, ABOVE, comparisons)
    assert {one, other} not in ({HOLDS}, {REVERSED})
    assert one != REVERSED or other == HOLDS


def test_logarithms():
    found = logarithm(Estimate(math.e, 1.0, math.e**2, 500, (math.e,)))
    assert (found.value, found.low, found.high, found.n, found.rate) == (1, 0, 2, 500, False)
    assert logarithm(Estimate(1.0, 0.0, 2.0, 9, (1.0,))).low == -math.inf
    assert logarithm(Estimate(1.0, None, None, 9, (1.0,))).interval() is None
    found = logarithm(Estimate(4.2, 0.0, 12.0, 9, (1.0, math.e, math.e**2)))
    half = 4.302653 / math.sqrt(3)
    assert found.value == pytest.approx(1)
    assert found.interval() == pytest.approx((1 - half, 1 + half), rel=1e-5)
    # Seeds keep their own intervals, and a difference is a ratio.
    found = logarithm(combined(SCORES))
    assert found.spans == tuple((math.log(e.low), math.log(e.high)) for e in SCORES)
    nothing = logarithm(combined([replace(each, low=0.0) for each in SCORES]))
    assert nothing.interval()[0] == -math.inf
    for scores in ((0.0,), (1.0, -1.0)):
        with pytest.raises(UserError, match="expected more than 0"):
            logarithm(Estimate(fmean(scores), None, None, 5, scores))


# Verdicts.


def values_of(**rates):
    """{("a", "c"): a share of 1,000 images, ...}."""
    return {(row, "c"): share(rate, 1000) for row, rate in rates.items()}


def claim_of(*pairs, **more):
    return Claim("a claim", "4", tuple(Comparison((a, "c"), (b, "c")) for a, b in pairs), **more)


def told(verdict):
    return verdict.verdict, verdict.holds, verdict.open, verdict.reversed


@pytest.mark.parametrize(
    ("pairs", "rates", "expected"),
    [
        (("ab", "bc"), {"a": 0.9, "b": 0.8, "c": 0.7}, (SUPPORTED, 2, 0, 0)),
        (("ab", "bc"), {"a": 0.9, "b": 0.6, "c": 0.8}, (NOT_SUPPORTED, 1, 0, 1)),
        (("ab", "bc"), {"a": 0.9, "b": 0.81, "c": 0.8}, (NOT_DECIDABLE, 1, 1, 0)),
        # What is missing hides no reversal, and supports nothing.
        (("ab", "bc"), {"a": 0.1, "b": 0.9}, (NOT_SUPPORTED, 0, 0, 1)),
        (("ab", "bc"), {"a": 0.9, "b": 0.1}, (NOT_DECIDABLE, 1, 0, 0)),
        # A reversal of z = 2.2 refutes a claim of one comparison, and none of twenty, also if the
        # others are missing: a failed artefact makes nothing more certain.
        (("ab",), {"a": 0.50, "b": 0.55}, (NOT_SUPPORTED, 0, 0, 1)),
        (
            ("ab", *["de"] * 19),
            {"a": 0.50, "b": 0.55, "d": 0.9, "e": 0.1},
            (NOT_DECIDABLE, 19, 1, 0),
        ),
        (("ab", *["xy"] * 19), {"a": 0.50, "b": 0.55}, (NOT_DECIDABLE, 0, 1, 0)),
    ],
)
def test_verdicts(pairs, rates, expected):
    claim, values = claim_of(*pairs), values_of(**rates)
    verdict = judge(claim, values, True)
    assert told(verdict) == expected
    assert (verdict.claim, verdict.section, verdict.stated) == ("a claim", "4", True)
    # Numbers of the budget smoke decide nothing, and are counted.
    smoke = judge(claim, values, False)
    assert told(smoke) == (NOT_DECIDABLE, *expected[1:])
    assert smoke.evidence == verdict.evidence + "; these numbers decide nothing about the paper"


def test_evidence():
    assert judge(claim_of("ab", "bc"), values_of(a=0.9, b=0.81, c=0.8), True).evidence == (
        "1 of 2 comparisons hold, 1 open, 0 reversed; "
        "smallest difference: +1.00 points [-2.47, 4.47] (b over c, c)"
    )
    verdict = judge(claim_of("ab", "bc", "ad", "ae", "af"), values_of(a=0.9, b=0.5), True)
    assert verdict.missing == ("c, c", "d, c", "e, c", "f, c")
    assert verdict.evidence.startswith("1 of 5 comparisons hold, 0 open, 0 reversed; ")
    assert verdict.evidence.endswith("; missing: c, c | d, c | e, c and 1 more")
    assert judge(claim_of("ab"), {}, True).evidence == (
        "0 of 1 comparison holds, 0 open, 0 reversed; missing: a, c | b, c"
    )
    values = {(row, "c"): Estimate(x, None, None, 9, (x,)) for row, x in (("a", 0.9), ("b", 0.1))}
    verdict = judge(claim_of("ab"), values, True)
    assert told(verdict) == (NOT_DECIDABLE, 0, 1, 0)
    assert "+80.00 points, without an interval (a over b, c)" in verdict.evidence


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ((0.0, math.inf), "smallest difference: -1.00 points"),
        ((-math.inf, 0.05), "greatest difference: +20.00 points"),
        ((-0.05, 0.05), "farthest from equal: +20.00 points"),
    ],
)
def test_evidence_shows_the_worst(wanted, words):
    values = values_of(a=0.50, b=0.51, d=0.3)
    pairs = ((("a", "c"), ("b", "c")), (("a", "c"), ("d", "c")))
    claim = Claim("a claim", "4", tuple(Comparison(a, b, wanted) for a, b in pairs))
    assert words in judge(claim, values, True).evidence


def test_names_of_two_columns():
    values = {place: share(0.5, 100) for place in (("a", "c"), ("a", "d"), ("b", "e"))}
    for other, words in ((("a", "d"), "(a, c over d)"), (("b", "e"), "(a, c over b, e)")):
        claim = Claim("a claim", "4", (Comparison(("a", "c"), other),))
        assert words in judge(claim, values, True).evidence


def test_quoted_constants():
    quoted = claim_of("ab", quoted={("b", "c"): 0.8})
    verdict = judge(quoted, values_of(a=0.9), True)
    assert verdict.verdict == SUPPORTED
    assert "(a over b as quoted, c); 1 with numbers that the paper quotes" in verdict.evidence
    # It goes before one's own run of the same defence, which other claims are about.
    measured = values_of(a=0.9, b=0.95)
    assert judge(quoted, measured, True) == verdict
    verdict = judge(claim_of("ab"), measured, True)
    assert verdict.verdict == NOT_SUPPORTED and "quote" not in verdict.evidence


def test_numbers_of_another_table():
    claim = Claim("a claim", "A.6", (Comparison(("a", "c"), Elsewhere("table11", "b", "c")),))
    assert claim.elsewhere == ("table11",) and claim_of("ab").elsewhere == ()
    # Not the place of the same name in the own table.
    for values in (values_of(a=0.9), values_of(a=0.9, b=0.1)):
        alone = judge(claim, values, True)
        assert alone.verdict == NOT_DECIDABLE and alone.missing == ("table11: b, c",)
    both = judge(claim, values_of(a=0.9), True, {"table11": values_of(b=0.5)})
    assert both.verdict == SUPPORTED and "(a, c over table11: b, c)" in both.evidence


def test_scores_are_ratios():
    values = {
        ("a", "c"): Estimate(4e-5, 3e-5, 6e-5, 500, (4e-5,)),
        ("b", "c"): Estimate(1e-5, 1e-5, 1e-5, 500, (1e-5,)),
    }
    verdict = judge(claim_of("ab", score=True), values, True)
    assert verdict.verdict == SUPPORTED
    assert "smallest difference: 4.00 times [3.00, 6.00] (a over b, c)" in verdict.evidence
    with pytest.raises(UserError, match="a score is 0"):
        judge(claim_of("ab", score=True), values | {("b", "c"): Estimate(0, 0, 1, 5, (0,))}, True)
