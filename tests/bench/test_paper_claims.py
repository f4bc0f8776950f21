"""The paper's claims: what they compare, and verdicts on them at known numbers."""

import json
from pathlib import Path

import paper_values
import pytest
from paper_smoke import tiny_setup
from paper_values import drawn_values, own_values
from scotoma.bench.paper.claims import claims_of
from scotoma.bench.paper.estimates import share
from scotoma.bench.paper.judge import NOT_DECIDABLE, NOT_SUPPORTED, SUPPORTED, Elsewhere, judge
from scotoma.bench.paper.published import TABLES
from scotoma.bench.paper.tables import definitions

NAMES = (*(f"table{number}" for number in TABLES), "figure4", "figure5")
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


GRAY = ("table10", "table11")
"""Each has a claim that needs numbers of the other."""


def told(name, values):
    verdicts = [judge(each, values, True) for each in claims_of(name)]
    return " ".join(f"{SIGN[v.verdict]}{v.holds}/{v.open}/{v.reversed}" for v in verdicts)


@pytest.mark.parametrize("name", list(PINNED))
def test_the_paper_s_own_numbers(name):
    others = {Elsewhere(n, *place): v for n in GRAY for place, v in own_values(n).items()}
    values = own_values(name) | others
    assert told(name, values) == PINNED[name]
    # The paper has no number of its own for what it quotes.
    for claim in claims_of(name):
        assert bool(judge(claim, values, True).missing) == ("our own runs" in claim.text)


@pytest.mark.parametrize("draw", range(len(paper_values.DRAWS)))
def test_verdicts_on_drawn_numbers(draw):
    """Of one seed and of several, of few images and many, with places missing: recorded when each
    claim was judged by code of its own, with quantiles that were not SciPy's."""
    recorded = json.loads(Path(paper_values.__file__).with_name("paper_verdicts.json").read_text())
    assert {name: told(name, drawn_values(draw, name)) for name in NAMES} == recorded[draw]


def test_verdicts_by_perturbation_scale():
    rows = {"ResNet-18": 0.2, "0.5-Bottom": 0.4, "0.3-Bottom": 0.6, "0.1-Bottom": 0.8}
    rows |= dict.fromkeys(("0.5-Top", "0.3-Top", "0.1-Top"), 0.2)
    places = definitions()["perturbation"].build(tiny_setup()).cells
    values = {place: share(rows[place[0]], 2000) for place in places}
    assert told("perturbation", values) == "+15/0/0 +15/0/0 +15/0/0"
    # One scale is enough against each.
    for place, verdicts in {
        ("0.5-Top", "PGD4"): "-14/0/1 +15/0/0 -14/0/1",
        ("0.3-Bottom", "PGD32"): "+15/0/0 -14/0/1 +15/0/0",
    }.items():
        assert told("perturbation", values | {place: share(0.9, 2000)}) == verdicts


@pytest.mark.parametrize("name", [*NAMES, "perturbation"])
def test_claims_of_every_table(name):
    """Each is a sentence about places that are measured, or quoted."""
    claims, known = claims_of(name), definitions()
    assert claims and len({each.text for each in claims}) == len(claims)
    assert known[name].section in {each.section for each in claims}
    there = set(known[name].build(tiny_setup()).cells)
    if name in GRAY:
        (other,) = {*GRAY} - {name}
        there |= {Elsewhere(other, *place) for place in known[other].build(tiny_setup()).cells}
    for each in claims:
        assert each.text.endswith(".") and each.score == (name == "table6")
        assert each.comparisons and len(set(each.comparisons)) == len(each.comparisons)
        assert all(c.a != c.b and c.wanted[0] < c.wanted[1] for c in each.comparisons)
        assert {s for c in each.comparisons for s in (c.a, c.b)} <= there | set(each.quoted)
        own = "our own runs" in each.text or known[name].ours
        assert each.ours == own and not (each.ours and each.stated)


def test_all_claims():
    claims = [each for name in NAMES for each in claims_of(name)]
    assert len(claims) == 161 and sum(len(each.comparisons) for each in claims) == 2607
    assert sum(each.stated for each in claims) == 120
    assert claims_of("figure3") == claims_of("figure14") == claims_of("table99") == ()
