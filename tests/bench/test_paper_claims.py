"""Claims, verdicts on them, and what the paper's own numbers say of them."""

import math

import pytest
from paper_smoke import tiny_setup
from scotoma.bench.paper.claims import RULES, claims_of, judge
from scotoma.bench.paper.claims.claim import (
    NOT_DECIDABLE,
    NOT_SUPPORTED,
    SUPPORTED,
    Claim,
    Comparison,
    Elsewhere,
)
from scotoma.bench.paper.claims.own_numbers import own_values
from scotoma.bench.paper.estimates import Estimate, share
from scotoma.bench.paper.experiments import definitions
from scotoma.bench.paper.published import TABLES, published
from scotoma.defective.errors import UserError

NAMES = (*(f"table{number}" for number in TABLES), "figure4", "figure5")
_DROPOUT = "Standard CNN + "
SIGN = {SUPPORTED: "+", NOT_SUPPORTED: "-", NOT_DECIDABLE: "?"}

# For each claim: supported (+), not supported (-) or open (?) by the paper's own numbers, and how
# many of its comparisons hold, are open, and are reversed.
PINNED = {
    "table1": "+3/0/0 +1/0/0",
    "table2": (
        "+4/0/0 +2/0/0 +4/0/0 +1/0/0 +3/0/0 +2/0/0 ?0/0/0 ?3/1/0 "
        "+2/0/0 +4/0/0 +1/0/0 +3/0/0 +2/0/0 ?0/0/0 ?3/1/0"
    ),
    "table3": "+2/0/0 +1/0/0 +2/0/0 +1/0/0 +3/0/0 +3/0/0 ?0/0/0",
    "table4": "+50/0/0 +25/0/0 +10/0/0",
    "table5": (
        "+16/0/0 +8/0/0 +8/0/0 ?3/1/0 +12/0/0 +12/0/0 +16/0/0 +8/0/0 +2/0/0 +2/0/0 +4/0/0 +16/0/0"
    ),
    "table6": "?0/1/0 ?0/3/0 ?0/3/0",
    "table7": "+4/0/0 +2/0/0 +4/0/0 +1/0/0 ?2/2/0 +3/0/0 ?0/0/0",
    "table8": "+50/0/0 +25/0/0 +10/0/0",
    "table9": "+50/0/0 +25/0/0 +10/0/0",
    "table10": "+2/0/0 +4/0/0",
    "table11": "+2/0/0 +4/0/0",
    "table12": "+12/0/0 ?8/4/0 +12/0/0 ?0/1/0",
    "table13": "+15/0/0 +5/0/0",
    "table14": (
        "-53/1/2 +24/0/0 -28/3/1 ?5/3/0 -18/2/1 +21/0/0 +35/0/0 ?20/1/0 +3/0/0 "
        "+3/0/0 +7/0/0 ?91/2/0 -0/3/28 +3/0/0 -20/0/1 +4/0/0 -21/6/1 ?6/1/0"
    ),
    "table15": (
        "+56/0/0 +24/0/0 ?28/4/0 ?5/3/0 +21/0/0 ?20/1/0 +35/0/0 +21/0/0 +3/0/0 "
        "+3/0/0 +7/0/0 +93/0/0 -0/2/29 +3/0/0 +21/0/0 +4/0/0 ?15/13/0 +7/0/0"
    ),
    "table16": (
        "+56/0/0 +24/0/0 ?31/1/0 ?5/3/0 ?20/1/0 ?20/1/0 +35/0/0 +21/0/0 +3/0/0 "
        "+3/0/0 +7/0/0 +93/0/0 -2/28/1 +3/0/0 +21/0/0 +4/0/0 ?12/16/0 ?6/1/0"
    ),
    "table17": (
        "+56/0/0 +24/0/0 ?28/4/0 ?5/3/0 ?20/1/0 +21/0/0 +35/0/0 +21/0/0 +3/0/0 "
        "+3/0/0 +7/0/0 +93/0/0 -0/10/21 +3/0/0 +21/0/0 +4/0/0 ?18/10/0 +7/0/0"
    ),
    "table18": (
        "+48/0/0 ?21/3/0 +24/0/0 ?5/3/0 ?17/1/0 ?17/1/0 +30/0/0 +18/0/0 +3/0/0 "
        "+3/0/0 +6/0/0 +93/0/0 -0/4/27 +3/0/0 +18/0/0 +4/0/0 ?18/6/0 +6/0/0"
    ),
    "figure5": "+7/0/0 ?4/3/0",
}


def values_of(**rates):
    """{("a", "c"): a share of 1,000 images, ...}."""
    return {(row, "c"): share(rate, 1000) for row, rate in rates.items()}


def claim_of(*pairs, **more):
    return Claim("a claim", "4", tuple(Comparison((a, "c"), (b, "c")) for a, b in pairs), **more)


def counts(verdict):
    return verdict.holds, verdict.open, verdict.reversed


@pytest.mark.parametrize("name", list(PINNED))
def test_the_paper_s_own_numbers(name):
    others = {"table10": own_values("table10"), "table11": own_values("table11")}
    verdicts = [judge(each, own_values(name), True, others) for each in claims_of(name)]
    found = [f"{SIGN[v.verdict]}{v.holds}/{v.open}/{v.reversed}" for v in verdicts]
    assert found == PINNED[name].split()
    # The paper has no number of its own for what it quotes.
    assert all(bool(v.missing) == ("our own runs" in v.claim) == v.ours for v in verdicts)
    assert not any(v.stated and v.ours for v in verdicts)


def test_what_the_paper_s_own_numbers_contradict():
    found = [
        (name, each.text.partition(",")[0].partition(" (")[0])
        for name in PINNED
        for each in claims_of(name)
        if judge(each, own_values(name), True).verdict == NOT_SUPPORTED
    ]
    step = "At equal scale"
    assert found == [
        ("table14", "Defective bottom layers make the network more robust"),
        ("table14", "The smaller the keep probability of the bottom"),
        ("table14", "Defective layers in the bottom defend better than in the top"),
        ("table14", step),
        ("table14", "Twice as many channels in the defective blocks lower the defence."),
        ("table14", "Five defective networks together are more robust than one."),
        *((f"table{number}", step) for number in (15, 16, 17, 18)),
    ]


def test_own_numbers():
    assert own_values("figure4") == own_values("figure3") == {}
    found = own_values("table4")
    assert len(found) == 90 and found["VGG-19", "ResNet-18"] == share(0.3346, 5000)
    assert found["VGG-19", "Test Accuracy"] == share(0.9393, 10_000)
    assert own_values("table15")["ResNet-18", "CW20"] == share(0.0219, 1000)
    assert own_values("table3")["Defective CNN", "PGD"] == share(0.3232, 10_000)
    assert own_values("table1")["Standard CNN", "2x2"] == share(0.9953, 4000)
    assert own_values("table6")["Standard CNN", "S(M)"].interval() is None
    assert set(own_values("table12")) - set(own_values("table12")).intersection(
        (r, c) for r in published(12).rows for c in published(12).columns
    ) == {(f"{row} + Adv. Training", "PGD (2,7,8)") for row in ("ResNet-18", "0.5-Bottom")}
    # Quoted rows are no measurements; claims have them as constants.
    assert not any(row == "TLA" for row, _ in own_values("table2"))


@pytest.mark.parametrize("name", NAMES)
def test_claims_of_every_table(name):
    claims = claims_of(name)
    assert claims
    assert len({each.text for each in claims}) == len(claims)
    for each in claims:
        assert each.text.endswith(".") and each.comparisons
        assert len(set(each.comparisons)) == len(each.comparisons)
        assert all(c.a != c.b and c.wanted[0] < c.wanted[1] for c in each.comparisons)
        assert each.score == (name == "table6")
    if name in definitions():
        assert definitions()[name].section in {each.section for each in claims} or name == "table5"


@pytest.mark.parametrize("name", NAMES)
def test_claims_name_places_that_are_measured_or_quoted(name):
    cells = definitions()[name].build(tiny_setup()).cells
    for each in claims_of(name):
        for side in (s for c in each.comparisons for s in (c.a, c.b)):
            if isinstance(side, Elsewhere):
                assert (side.row, side.column) in definitions()[side.name].build(tiny_setup()).cells
            # Table 3 leaves out the two dropout networks, which the paper has.
            elif side not in each.quoted and not (
                name == "table3" and side[0].startswith(_DROPOUT)
            ):
                assert side in cells


def test_no_claims():
    assert claims_of("figure3") == claims_of("figure14") == claims_of("table99") == ()
    assert RULES


def test_supported_if_all_hold():
    verdict = judge(claim_of("ab", "bc"), values_of(a=0.9, b=0.8, c=0.7), True)
    assert verdict.verdict == SUPPORTED and counts(verdict) == (2, 0, 0)
    assert (verdict.claim, verdict.section, verdict.stated) == ("a claim", "4", True)
    assert verdict.missing == ()


def test_not_supported_if_one_is_reversed():
    verdict = judge(claim_of("ab", "bc"), values_of(a=0.9, b=0.6, c=0.8), True)
    assert verdict.verdict == NOT_SUPPORTED and counts(verdict) == (1, 0, 1)


def test_not_decidable_if_one_is_open():
    verdict = judge(claim_of("ab", "bc"), values_of(a=0.9, b=0.81, c=0.8), True)
    assert verdict.verdict == NOT_DECIDABLE and counts(verdict) == (1, 1, 0)
    assert verdict.evidence == (
        "1 of 2 comparisons hold, 1 open, 0 reversed; "
        "smallest difference: +1.00 points [-2.47, 4.47] (b over c, c)"
    )


def test_the_number_of_comparisons_sets_the_level():
    """A reversal of z = 2.2 refutes a claim of one comparison, and none of twenty."""
    values = values_of(a=0.50, b=0.55, d=0.9, e=0.1)
    assert judge(claim_of("ab"), values, True).verdict == NOT_SUPPORTED
    many = judge(claim_of("ab", *["de"] * 19), values, True)
    assert many.verdict == NOT_DECIDABLE and counts(many) == (19, 1, 0)
    # Missing comparisons count, so that a failed artefact makes nothing more certain.
    missing = judge(claim_of("ab", *["xy"] * 19), values, True)
    assert missing.verdict == NOT_DECIDABLE and counts(missing) == (0, 1, 0)


@pytest.mark.parametrize("rate", [0.5, 0.8, 0.95])
def test_smoke_decides_nothing_and_counts(rate):
    values = values_of(a=rate, b=0.8)
    decided, smoke = (judge(claim_of("ab"), values, decides) for decides in (True, False))
    assert smoke.verdict == NOT_DECIDABLE and counts(smoke) == counts(decided)
    assert smoke.evidence == decided.evidence + "; these numbers decide nothing about the paper"


def test_missing_numbers():
    verdict = judge(claim_of("ab", "bc", "ad", "ae", "af"), values_of(a=0.9, b=0.5), True)
    assert verdict.verdict == NOT_DECIDABLE and counts(verdict) == (1, 0, 0)
    assert verdict.missing == ("c, c", "d, c", "e, c", "f, c")
    assert verdict.evidence.startswith("1 of 5 comparisons hold, 0 open, 0 reversed; ")
    assert verdict.evidence.endswith("; missing: c, c | d, c | e, c and 1 more")


def test_missing_numbers_do_not_hide_a_reversal():
    verdict = judge(claim_of("ab", "bc"), values_of(a=0.1, b=0.9), True)
    assert verdict.verdict == NOT_SUPPORTED and verdict.missing == ("c, c",)


def test_nothing_measured():
    verdict = judge(claim_of("ab"), {}, True)
    assert verdict.verdict == NOT_DECIDABLE and counts(verdict) == (0, 0, 0)
    assert verdict.evidence == ("0 of 1 comparison holds, 0 open, 0 reversed; missing: a, c | b, c")


def test_without_intervals_all_is_open():
    values = {(row, "c"): Estimate(x, None, None, 9, (x,)) for row, x in (("a", 0.9), ("b", 0.1))}
    verdict = judge(claim_of("ab"), values, True)
    assert verdict.verdict == NOT_DECIDABLE and counts(verdict) == (0, 1, 0)
    assert "+80.00 points, without an interval (a over b, c)" in verdict.evidence


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


def test_constants_of_tables_2_3_and_7():
    for name, count in (("table2", 9), ("table3", 6), ("table7", 7)):
        known = {place: x for each in claims_of(name) for place, x in each.quoted.items()}
        assert len(known) == count
        for (row, column), constant in known.items():
            assert published(int(name[5:])).value(row, column) == constant
            assert row in published(int(name[5:])).quoted


def test_numbers_of_another_table():
    there = Elsewhere("table11", "b", "c")
    claim = Claim("a claim", "A.6", (Comparison(("a", "c"), there),))
    assert claim.elsewhere == ("table11",) and claim_of("ab").elsewhere == ()
    values = values_of(a=0.9)
    alone = judge(claim, values, True)
    assert alone.verdict == NOT_DECIDABLE and alone.missing == ("table11: b, c",)
    # Not the place of the same name in the own table.
    assert judge(claim, values_of(a=0.9, b=0.1), True).missing
    both = judge(claim, values, True, {"table11": values_of(b=0.5)})
    assert both.verdict == SUPPORTED and "(a, c over table11: b, c)" in both.evidence
    assert [c.elsewhere for c in claims_of("table10")] == [(), ("table11",)]
    assert [c.elsewhere for c in claims_of("table11")] == [(), ("table10",)]


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


def test_names_of_two_columns_of_a_row():
    values = {("a", "c"): share(0.9, 100), ("a", "d"): share(0.1, 100)}
    claim = Claim("a claim", "4", (Comparison(("a", "c"), ("a", "d")),))
    assert "(a, c over d)" in judge(claim, values, True).evidence
    values |= {("b", "e"): share(0.1, 100)}
    claim = Claim("a claim", "4", (Comparison(("a", "c"), ("b", "e")),))
    assert "(a, c over b, e)" in judge(claim, values, True).evidence


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


def test_dropout_does_not_help_against_the_boundary_attack():
    """Within 1.25 times the standard network's score, whatever its magnitude."""
    (*_, claim) = claims_of("table6")

    def verdict(factor, spread):
        rows = dict.fromkeys([c.a[0] for c in claim.comparisons], factor) | {"Standard CNN": 1.0}
        scores = {
            row: tuple(1e-5 * x * s for s in (1 - spread, 1, 1 + spread)) for row, x in rows.items()
        }
        return judge(
            claim, {(r, "S(M)"): Estimate(s[1], s[0], s[2], 9, s) for r, s in scores.items()}, True
        ).verdict

    assert verdict(1.1, 0.01) == SUPPORTED and verdict(0.5, 0.01) == SUPPORTED
    assert verdict(3.0, 0.01) == NOT_SUPPORTED and verdict(1.1, 0.3) == NOT_DECIDABLE


def test_noise():
    """Figure 4, of which the paper prints no numbers."""
    columns = [str(level) for level in (2, 4, 8, 16, 24, 32, 40, 48, 56, 64)]

    def values(defective, standard=(0.99, 0.98, 0.97, 0.9, 0.7, 0.5, 0.4, 0.3, 0.2, 0.15)):
        rows = {"ResNet-18": standard} | dict.fromkeys(
            ("0.5-Bottom", "0.3-Bottom", "0.1-Bottom"), defective
        )
        return {
            (row, column): share(rate, 5000)
            for row, rates in rows.items()
            for column, rate in zip(columns, rates, strict=True)
        }

    def verdicts(rates, *standard):
        measured = values(rates, *standard)
        return "".join(SIGN[judge(each, measured, True).verdict] for each in claims_of("figure4"))

    robust = (0.98, 0.97, 0.97, 0.97, 0.96, 0.95, 0.9, 0.8, 0.7, 0.6)
    assert verdicts(robust) == "++++"
    assert verdicts((*robust[:5], 0.8, *robust[6:])) == "+++-"
    assert verdicts((*robust[:9], 0.10)) == "++-+"
    late, early = (
        (0.99,) * 5 + (0.93, 0.9, 0.7, 0.5, 0.4),
        (0.99, 0.98, 0.97, 0.8, 0.6) + (0.4,) * 5,
    )
    assert verdicts(robust, late) == "+--+"
    assert verdicts(robust, early) == "-+++"


def test_directions_of_the_appendix():
    """With all numbers reversed, what was supported is not."""
    for name in ("table14", "table18", "table5", "table4", "table13", "table12"):
        mirrored = {p: share(1 - e.value, e.n) for p, e in own_values(name).items()}
        for each in claims_of(name):
            before = judge(each, own_values(name), True)
            after = judge(each, mirrored, True)
            one_sided = [c for c in each.comparisons if c.wanted == (0.0, math.inf)]
            if one_sided and before.verdict == SUPPORTED:
                assert after.verdict == NOT_SUPPORTED
                assert after.reversed + after.open == before.holds
