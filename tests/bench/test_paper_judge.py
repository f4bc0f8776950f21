"""Numbers with intervals, their differences, and verdicts on claims."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scotoma.bench.paper.estimates import (
    Estimate,
    Outcomes,
    combined,
    difference,
    exact,
    logarithm,
    share,
    wilson,
)
from scotoma.bench.paper.judge import (
    ABOVE,
    HOLDS,
    NOT_DECIDABLE,
    NOT_SUPPORTED,
    OPEN,
    REVERSED,
    SUPPORTED,
    UNDECIDED,
    Claim,
    Comparison,
    Elsewhere,
    at_scale,
    judge,
    outcome,
)
from scotoma.defective.errors import UserError
from scotoma.defective.robustness.rates import proportion

counts = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
shares = counts.map(lambda count: share(count[0] / count[1], count[1]))
levels = st.floats(0.5, 0.9999)
SCORES = [Estimate(v, v / 2, v * 3, 500, (v,)) for v in (0.9, 1.0, 1.1)]


def bare(*values, n=0):
    """A score of these seeds without an interval of its own."""
    return combined([Estimate(v, None, None, n, (v,)) for v in values])


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


@pytest.mark.parametrize(
    ("call", "words"),
    [
        *((lambda value=v: wilson(value, 9), "n=9") for v in (-0.1, 1.1, math.nan)),
        (lambda: wilson(0.5, 0), "n=0"),
        *((lambda level=v: share(0.5, 10).interval(level), "level is") for v in (0, 1, -1, 95)),
        (lambda: share(0.5, 10).interval(math.nan), "level is"),
        (lambda: logarithm(exact(0.0)), "expected more than 0"),
        (lambda: logarithm(Estimate(1.0, None, None, 5, (1.0, -1.0))), "expected more than 0"),
        (lambda: judge(claim_of("ab", score=True), {A: exact(1), B: exact(0)}, True), "score is 0"),
    ],
)
def test_what_is_no_number(call, words):
    with pytest.raises(UserError, match=words):
        call()


def test_one_seed():
    found = Estimate(3e-5, 2e-5, 5e-5, 500, (3e-5,))
    assert found.interval() == pytest.approx((2e-5, 5e-5))
    # 2.5758 / 1.95996 = 1.3142 times as far on each side.
    assert found.interval(0.99) == pytest.approx((3e-5 - 1.31422e-5, 3e-5 + 2.62844e-5), rel=1e-4)
    assert bare(3e-5).interval(0.9) is None
    assert combined([]) is None and combined([found]) is found


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
    assert combined([share(0, 200)] * 3).interval(0.999) == wilson(0, 200, 0.999)
    assert not combined([share(0.5, 10), bare(0.4)]).rate


def test_seeds_of_scores_share_their_images():
    """As in Table 6: what the choice of images leaves open, three seeds on them do not settle."""
    found = combined(SCORES)
    half = 4.302653 * 0.1 / math.sqrt(3)
    wanted = 1 - math.hypot(half, 0.5), 1 + math.hypot(half, 2)
    assert (found.low, found.high) == pytest.approx(wanted, rel=1e-5)
    assert found.interval(0.99)[1] > found.high and not found.rate
    alike = combined([SCORES[1]] * 3)
    assert (alike.low, alike.high) == pytest.approx((0.5, 3.0))
    unknown = combined([*SCORES[:2], bare(1.1)])
    assert unknown.spans == () and unknown.high == pytest.approx(1 + half, rel=1e-5)
    # 12.706 times the standard error of 1; no score is below 0.
    apart = bare(1.0, 3.0)
    assert (apart.low, apart.high) == (0, pytest.approx(14.706, rel=1e-4))


def test_logarithms():
    found = logarithm(Estimate(math.e, 1.0, math.e**2, 500, (math.e,)))
    assert (found.value, found.low, found.high, found.n, found.rate) == (1, 0, 2, 500, False)
    assert logarithm(Estimate(1.0, 0.0, 2.0, 9, (1.0,))).low == -math.inf
    assert logarithm(bare(1.0)).interval() is None
    found = logarithm(Estimate(4.2, 0.0, 12.0, 9, (1.0, math.e, math.e**2)))
    half = 4.302653 / math.sqrt(3)
    assert found.interval() == pytest.approx((1 - half, 1 + half), rel=1e-5)
    # Seeds keep their own intervals, and a difference is a ratio.
    found = logarithm(combined(SCORES))
    assert found.spans == tuple((math.log(e.low), math.log(e.high)) for e in SCORES)
    nothing = logarithm(combined([replace(each, low=0.0) for each in SCORES]))
    assert nothing.interval()[0] == -math.inf


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
        assert found == pytest.approx((k / m - j / n, *expected), abs=6e-5)


@given(shares, shares, levels)
def test_a_difference_holds_its_value_and_is_antisymmetric(a, b, level):
    found, other = difference(a, b, level), difference(b, a, level)
    assert found == pytest.approx((-other.value, -other.high, -other.low))
    assert -1 - 1e-9 <= found.low <= found.value <= found.high <= 1 + 1e-9
    wider = difference(a, b, (1 + level) / 2)
    assert wider.low <= found.low and found.high <= wider.high
    # A constant is exact.
    low, high = (end - b.value for end in a.interval(level))
    assert difference(a, exact(b.value), level)[1:] == pytest.approx((low, high))


# Differences of rates whose images are known.


def rate_of(images, right, among):
    n, k = int(among.sum()), int((right & among).sum())
    return replace(share(k / n, n), outcomes=(Outcomes(images, right & among, among),))


def networks(rng, n, rates, seeds=1, moves=0.0):
    """An estimate for each rate: networks that find the same images hard, of several seeds, which
    differ by ``moves`` (a standard deviation)."""
    images, hard = rng.permutation(3 * n)[:n], rng.random(n)
    several = [[] for _ in rates]
    for _ in range(seeds):
        for found, rate in zip(several, rates, strict=True):
            difficulty = np.where(rng.random(n) < 0.7, hard, rng.random(n))
            right = difficulty < rate + moves * rng.standard_normal()
            found.append(rate_of(images, right, rng.random(n) < 0.8))
    return [combined(found) for found in several]


def bootstrapped(rng, a, b, draws=2000):
    """Standard deviation of a - b over draws of the images, each with all that it has."""
    n = len(a.outcomes[0].images)
    weights = rng.multinomial(n, np.full(n, 1 / n), draws)
    total = 0
    for sign, estimate in ((1, a), (-1, b)):
        for each in estimate.outcomes:
            rates = (weights @ each.right) / (weights @ each.among)
            total = total + sign * rates / len(estimate.outcomes)
    return total.std()


@pytest.mark.parametrize("seeds", [1, 3])
def test_pairs_vary_with_the_images_as_a_bootstrap_does(seeds):
    rng = np.random.default_rng(seeds)
    a, b = networks(rng, 400, (0.7, 0.5), seeds)
    found = difference(a, b)
    assert found.value == a.value - b.value
    half = found.high - found.value
    if seeds > 1:
        differences = [x - y for x, y in zip(a.per_seed, b.per_seed, strict=True)]
        half = math.sqrt(half**2 - (stats.t.ppf(0.975, 2) * stats.sem(differences)) ** 2)
    expected = stats.norm.ppf(0.975) * bootstrapped(rng, a, b)
    assert half - 1 / min(a.n, b.n) == pytest.approx(expected, rel=0.06)
    # As numbers of other images they vary more.
    bare_a, bare_b = (replace(each, outcomes=()) for each in (a, b))
    assert difference(bare_a, bare_b).high > found.high


def test_the_mean_of_differences_has_the_interval_of_one_rate_of_all_images():
    """Two comparisons on halves of the images are as one on all of them."""
    rng = np.random.default_rng(3)
    several = []
    for _ in range(3):
        right = {name: rng.random(400) < chance for name, chance in (("a", 0.8), ("b", 0.6))}
        several.append(right)

    def rate(name, chosen):
        images = np.arange(400)[chosen]
        found = []
        for right in several:
            one = Outcomes(images, right[name][chosen], np.ones(len(images), dtype=bool))
            found.append(replace(share(right[name][chosen].mean(), len(images)), outcomes=(one,)))
        return combined(found)

    halves = [slice(0, 200), slice(200, 400)]
    values = {
        (name, str(number)): rate(name, half) for name in "ab" for number, half in enumerate(halves)
    }
    claim = Claim("x", tuple(Comparison(("a", c), ("b", c)) for c in "01"))
    found = judge(claim, values, True)
    whole = difference(rate("a", slice(None)), rate("b", slice(None)))
    assert found.mean.value == pytest.approx(100 * whole.value)
    # One image more or less of 200, not of 400.
    ends = (found.mean.low, found.mean.high)
    assert ends == pytest.approx((100 * whole.low, 100 * whole.high), abs=0.3)
    assert (found.mean.n, found.mean.seeds, found.mean.where) == (200, 3, "over 2 of 2")
    assert found.effect.low < found.mean.low
    assert found.effect.value == min(
        100 * (values["a", c].value - values["b", c].value) for c in "01"
    )
    assert f"{found.effect.told} {found.effect.interval}" in found.evidence


def test_the_mean_of_one_comparison_has_its_interval():
    """Also of scores, of quoted numbers, and of rates whose images are not known."""
    for claim, values in (
        (claim_of("ab"), values_of(a=0.9, b=0.8)),
        (claim_of("ab", quoted={B: 0.5}), values_of(a=0.9)),
        (claim_of("ab", score=True), RATIO),
    ):
        found = judge(claim, values, True)
        effect, mean = found.effect, found.mean
        assert (mean.value, mean.low, mean.high) == (effect.value, effect.low, effect.high)
        assert mean.interval


def test_the_mean_where_images_are_not_known_has_the_mean_interval():
    values = values_of(a=0.9, b=0.8, c=0.6)
    found = judge(claim_of("ab", "bc"), values, True).mean
    both = [difference(values[a], values[b]) for a, b in ((A, B), (B, C))]
    ends = [100 * sum(each) / 2 for each in zip(*both, strict=True)]
    assert (found.value, found.low, found.high) == pytest.approx(ends)
    # Times, of scores.
    values = {A: bare(8.0, 12.0, 9.0), B: bare(2.0, 4.0, 3.0), C: bare(1.0, 1.0, 1.5)}
    found = judge(claim_of("ab", "bc", score=True), values, True).mean
    both = [difference(*map(logarithm, (values[a], values[b]))) for a, b in ((A, B), (B, C))]
    ends = [math.exp(sum(each) / 2) for each in zip(*both, strict=True)]
    assert (found.value, found.low, found.high) == pytest.approx(ends)
    # And none if one of them has none.
    values[C] = bare(1.0)
    assert judge(claim_of("ab", "bc", score=True), values, True).mean.interval == ""


def test_numbers_that_no_measurement_has():
    """Of edited files: images of any number, each perhaps twice, and scores of any size."""
    every = np.ones(2, dtype=bool)
    a, b = (rate_of(np.array([7, 7]) + 2**31, right, every) for right in (every, ~every))
    assert difference(a, b).value == 1
    far = {A: Estimate(1e308, None, None, 1, (1e308,)), B: exact(1e-308)}
    assert judge(claim_of("ab", score=True), far, True).effect.value > 1e300


def test_what_stands_worst_is_what_decides():
    """An open comparison goes before a smaller difference that holds."""
    values = values_of(b=0.5, d=0.5) | {("a", "c"): share(0.56, 100_000)}
    values |= {("b", "c"): share(0.5, 100_000), ("e", "c"): share(0.6, 60)}
    claim = Claim("x", tuple(Comparison((row, "c"), ("b", "c")) for row in "ae"))
    found = judge(claim, values, True)
    assert (found.holds, found.open) == (1, 1) and found.effect.where.startswith("e over b")
    assert found.effect.value > 100 * (0.56 - 0.5) and found.effect.low < 0


def test_a_claim_within_some_rows_says_so():
    claim = Claim("Red is above.", tuple(Comparison((row, "c"), ("z", "c")) for row in "ab"))
    assert claim.within("abz") is claim and claim.within("z") is None
    found = claim.within("az")
    assert found.comparisons == claim.comparisons[:1]
    assert found.text == "Of the rows that were chosen: red is above."
    other = Claim("x", (Comparison(("a", "c"), Elsewhere("table1", "q", "c")),))
    assert other.within("a") is other and other.within("b") is None


def test_seeds_that_share_images_are_no_further_images():
    (a, b) = networks(np.random.default_rng(0), 300, (0.6, 0.5))
    several = difference(combined([a] * 3), combined([b] * 3))
    assert several == pytest.approx(difference(a, b))


def test_pairs_of_other_images_count_as_independent():
    rng = np.random.default_rng(0)
    (a,), (b,) = networks(rng, 2000, (0.6,)), networks(rng, 2000, (0.5,))
    apart = replace(b, outcomes=(b.outcomes[0]._replace(images=b.outcomes[0].images + 6000),))
    found, bare_b = difference(a, apart), replace(b, outcomes=())
    assert found.high == pytest.approx(difference(a, bare_b).high + 1 / min(a.n, b.n), abs=1e-3)


def test_pairs_that_never_differ_are_not_exact():
    images, every = np.arange(50), np.ones(50, dtype=bool)
    a, b = rate_of(images, every, every), rate_of(images, ~every, every)
    assert difference(a, b) == pytest.approx((1, 1 - 0.02, 1))
    assert difference(a, a) == pytest.approx((0, -0.02, 0.02))


@pytest.mark.parametrize("moves", [0.0, 0.03])
def test_intervals_of_pairs_hold_the_truth(moves):
    rng, draws = np.random.default_rng(3), 300
    inside = 0
    for _ in range(draws):
        found = difference(*networks(rng, 200, (0.6, 0.5), seeds=3, moves=moves))
        inside += found.low <= 0.1 <= found.high
    assert inside / draws > 0.93


def test_verdicts_at_a_scale_of_ours_have_words_of_their_own():
    claim = Claim("a is above b", (Comparison(("a", "x"), ("b", "x")),))
    for other, word in ((0.1, SUPPORTED), (0.9, NOT_SUPPORTED), (0.5, UNDECIDED)):
        values = {("a", "x"): share(0.5, 100), ("b", "x"): share(other, 100)}
        found = at_scale(judge(claim, values, True), "at small scale")
        assert found.verdict == f"at small scale: {word}"


@pytest.mark.parametrize("other", [share(0.5, 10), exact(0.5), bare(0.5)])
def test_without_an_interval_all_is_possible(other):
    assert difference(bare(0.9), other) == (pytest.approx(0.4), -math.inf, math.inf)
    for wanted in (ABOVE, (-math.inf, 0.05), (-0.5, 0.5)):
        assert outcome(bare(0.9), other, wanted, 1) == OPEN


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
        one, other = (bare(*(generator.gauss(mean, 1) for _ in range(3))) for mean in (12, 10))
        found = difference(one, other)
        seeds += found.low <= 2 <= found.high
    assert 0.935 < images / draws < 0.975 and 0.95 < seeds / draws < 0.999


def test_true_claims_are_rarely_refuted():
    """75 comparisons of equals, the worst case of a true claim: 5 % at most, not 75 times 2.5 %."""
    generator, comparisons, draws, n = random.Random(3), 75, 150, 400
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
    for wanted, expected in (
        (ABOVE, [REVERSED, OPEN, HOLDS]),
        ((-0.05, 0.05), [REVERSED, HOLDS, REVERSED]),
        ((-math.inf, 0.05), [HOLDS, HOLDS, REVERSED]),
        ((-0.05, math.inf), [REVERSED, HOLDS, HOLDS]),
    ):
        assert [outcome(a, same, wanted, 3) for a in (less, same, more)] == expected
    # Fewer images leave even equals open.
    assert outcome(share(0.5, 200), share(0.5, 200), (-0.05, 0.05), 3) == OPEN
    # Holding needs no adjustment for the number of comparisons, and reversing does.
    a, b = share(0.55, 1000), share(0.50, 1000)  # z = 2.24
    assert [outcome(a, b, ABOVE, m) for m in (1, 50)] == [HOLDS, HOLDS]
    assert [outcome(b, a, ABOVE, m) for m in (1, 50)] == [REVERSED, OPEN]
    # Bounds are open.
    for pair, wanted in (((0.5, 0.5), ABOVE), ((0.5, 0.25), (-1, 0.25)), ((0.25, 0.5), (-0.25, 1))):
        assert outcome(*map(exact, pair), wanted, 1) == OPEN


@given(shares, shares, st.floats(-0.5, 0.5), st.integers(1, 300))
def test_mirrored_comparisons_agree(a, b, margin, comparisons):
    """a - b above a margin is b - a below its negative; and it never holds together with that of b
    above a."""
    one = outcome(a, b, (margin, math.inf), comparisons)
    assert one == outcome(b, a, (-math.inf, -margin), comparisons)
    one, other = outcome(a, b, ABOVE, comparisons), outcome(b, a, ABOVE, comparisons)
    assert {one, other} not in ({HOLDS}, {REVERSED})
    assert one != REVERSED or other == HOLDS


# Verdicts.

A, B, C = ("a", "c"), ("b", "c"), ("c", "c")


def values_of(**rates):
    """{("a", "c"): a share of 1,000 images, ...}."""
    return {(row, "c"): share(rate, 1000) for row, rate in rates.items()}


def claim_of(*pairs, wanted=ABOVE, **more):
    compared = (Comparison((a, "c"), (b, "c"), wanted) for a, b in pairs)
    return Claim("a claim", tuple(compared), "4", **more)


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


FAR = values_of(a=0.50, b=0.51, d=0.3)
ACROSS = Claim("", (Comparison(A, ("a", "d")),))
APART = Claim("", (Comparison(A, ("b", "d")),))
CONSTANTS = {A: exact(0.5), ("a", "d"): exact(0.25), ("b", "d"): exact(0.25)}
RATIO = {A: Estimate(4e-5, 3e-5, 6e-5, 500, (4e-5,)), B: exact(1e-5)}


@pytest.mark.parametrize(
    ("claim", "values", "words"),
    [
        (claim_of("ab"), {}, "0 of 1 comparison holds, 0 open, 0 reversed; missing: a, c | b, c"),
        (claim_of("ab", "bc"), values_of(a=0.9, b=0.81), "1 of 2 comparisons hold, 0 open, 0 rev"),
        (claim_of("ab"), values_of(a=0.81, b=0.8), "weakest: +1.00 points [-2.47, 4.47] (a ov"),
        (claim_of("ab", "ad", "ae", "af", "ag"), FAR, "; missing: e, c | f, c | g, c"),
        (claim_of("ag", "ah", "ae", "af"), FAR, "; missing: g, c | h, c | e, c and 1 more"),
        (claim_of("ab", "ad"), FAR, "weakest: -1.00 points"),
        (claim_of("ab", "ad", wanted=(-9, 0.05)), FAR, "weakest: +20.00 points"),
        (claim_of("ab", "ad", wanted=(-math.inf, 0.05)), FAR, "weakest: +20.00 poi"),
        (claim_of("ab"), {A: bare(0.9), B: bare(0.1)}, "+80.00 points, without an interval (a"),
        (claim_of("ab"), CONSTANTS | {B: exact(0)}, "+50.00 points [50.00, 50.00] (a over b, c)"),
        (ACROSS, CONSTANTS, "(a, c over d)"),
        (APART, CONSTANTS, "(a, c over b, d)"),
        (claim_of("ab", score=True), RATIO, "weakest: 4.00 times [3.00, 6.00] (a ov"),
    ],
)
def test_evidence(claim, values, words):
    """Counts, the comparison that stands worst, and what is missing."""
    assert words in judge(claim, values, True).evidence


def test_quoted_constants():
    quoted = claim_of("ab", quoted={B: 0.8})
    verdict = judge(quoted, values_of(a=0.9), True)
    assert verdict.verdict == SUPPORTED
    assert "(a over b as quoted, c); 1 with numbers that the paper quotes" in verdict.evidence
    # It goes before one's own run of the same defence, which other claims are about.
    measured = values_of(a=0.9, b=0.95)
    assert judge(quoted, measured, True) == verdict
    verdict = judge(claim_of("ab"), measured, True)
    assert verdict.verdict == NOT_SUPPORTED and "quote" not in verdict.evidence


def test_numbers_of_another_table():
    other = Elsewhere("table11", "b", "c")
    claim = Claim("a claim", (Comparison(A, other),))
    assert claim.elsewhere == ("table11",) and claim_of("ab").elsewhere == ()
    # Not the place of the same name in the own table.
    alone = judge(claim, values_of(a=0.9, b=0.1), True)
    assert alone.verdict == NOT_DECIDABLE and alone.missing == ("table11: b, c",)
    both = judge(claim, values_of(a=0.9) | {other: share(0.5, 1000)}, True)
    assert both.verdict == SUPPORTED and "(a, c over table11: b, c)" in both.evidence
