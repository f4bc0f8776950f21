"""Tables and figures with invented numbers, as if all networks had been trained.

The numbers follow the paper's where it prints some, with a fixed disturbance: they are of no
network, and only for looking at pages and for tests of them.
"""

import hashlib
import math
from dataclasses import replace
from functools import cache

from paper_smoke import context, new_store
from scotoma.bench.paper.budgets import BUDGETS
from scotoma.bench.paper.claims import claims_of
from scotoma.bench.paper.data import Data, SampleFolder
from scotoma.bench.paper.estimates import Estimate, combined, share
from scotoma.bench.paper.experiment import Made
from scotoma.bench.paper.published import printed, published
from scotoma.bench.paper.setup import Setup
from scotoma.bench.paper.tables import definition

INVENTED = "These numbers are invented: they are of no network."
IMAGES = 988
"""Behind each invented rate; not a whole hundred, as with real ones."""


def setup_of(budget="full", seeds=(0,), **changes):
    """A setup on named data sets, or on what the budget has in their places."""
    chosen = BUDGETS[budget]
    data = {}
    for role, plan in chosen.data.items():
        if plan.dataset == "sample-folder":
            data[role] = Data(role, "", made_by=SampleFolder(1500, 400))
        else:
            data[role] = Data(role, plan.dataset, train_limit=plan.train_limit)
    return Setup(chosen, data, tuple(seeds), **changes)


def invented(name, folder, budget="full", seeds=(0,), values=None):
    """A table or figure whose every number is there and no file is: nothing was made.

    Args:
        folder: of the store. values: {place: estimate} in the place of the invented ones.
    """
    found = definition(name)
    setup = setup_of(budget, seeds)
    built = found.build(setup)
    built = replace(built, settings=(INVENTED, *built.settings))
    if values is None:
        values = {place: number(name, place, len(seeds)) for place in built.cells}
    return Made(found, setup, built, values, context(new_store(folder)))


def number(name, place, seeds=1):
    """An invented estimate for a place: near the paper's number where there is one."""
    paper = _paper(name, place)
    if name == "table6":
        values = [paper * (1 + 0.1 * noise(place, seed)) for seed in range(seeds)]
        return combined([Estimate(v, 0.85 * v, 1.2 * v, 480, (v,)) for v in values])
    each = [min(1, max(0, paper + 0.04 * noise(place, seed))) for seed in range(seeds)]
    return combined([share(round(IMAGES * value) / IMAGES, IMAGES) for value in each])


def noise(*key):
    """A fixed number between -1 and 1 for a key, such as a place and a seed."""
    digest = hashlib.sha256(repr(list(key)).encode()).digest()
    return 2 * int.from_bytes(digest[:4], "big") / 2**32 - 1


def _paper(name, place):
    """The paper's number, or one that falls with the noise of figure 4."""
    row, column = place
    if name == "figure5":
        return printed(name).get(place, printed(name)["0.7-Bottom", column])
    if name == "figure4":
        robust = {"ResNet-18": 24, "0.5-Bottom": 32, "0.3-Bottom": 44, "0.1-Bottom": 64}[row]
        return 0.9 / (1 + math.exp((float(column) - robust) / 8)) + 0.08
    return printed(name).get(place) or 0.5


# What claims are judged by: the paper's own numbers, and draws that recorded verdicts are of.

PRINTED_IMAGES = 5000
"""Behind a rate of the paper, which does not print it: as many as it says were drawn. It leaves out
some of them (those that do not fool the source, or that the target gets wrong anyway), so that true
intervals are somewhat wider."""
ALL = 10_000
_WHOLE_SET = (2, 3, 7)
"""Tables over the whole test set, which has 10,000 images."""
_SHUFFLED = (1, 13)
_SHUFFLED_IMAGES = 4000
"""As many as the release takes."""
_CW_IMAGES = 1000
_BOUNDARY_IMAGES = 500
_ACCURACIES = ("Acc", "Clean Acc", "Test Accuracy")
_TOLD = {
    12: {
        ("ResNet-18 + Adv. Training", "PGD (2,7,8)"): 0.500,
        ("0.5-Bottom + Adv. Training", "PGD (2,7,8)"): 0.516,
    }
}
"""Numbers of the text beside a table (section A.7), with the names of our rows."""
_OF_TWO = {2: ("Defective CNN", "Defective CNN {1,2}")}
"""{table: (its row, a row of ours that may be the same network)}: its numbers count for both."""


@cache
def own_values(name):
    """{place: estimate} of all numbers of "table1" to "table18" and "figure5", without quoted ones.

    Empty for other figures, which print no numbers.
    """
    found = {place: value for place, value in printed(name).items() if value is not None}
    if not name.startswith("table"):
        return {
            p: share(v, ALL if p[1] in _ACCURACIES else PRINTED_IMAGES) for p, v in found.items()
        }
    table = int(name.removeprefix("table"))
    known = published(table)
    found = {place: value for place, value in found.items() if place[0] not in known.quoted}
    found |= _TOLD.get(table, {})
    row, other = _OF_TWO.get(table, ("", ""))
    found |= {(other, c): value for (r, c), value in found.items() if r == row}
    if known.unit == "score":
        return {p: Estimate(v, None, None, _BOUNDARY_IMAGES, (v,)) for p, v in found.items()}
    return {place: share(value, _images(table, place[1])) for place, value in found.items()}


def _images(table, column):
    if table in _WHOLE_SET or column in _ACCURACIES:
        return ALL
    if column.startswith("CW"):
        return _CW_IMAGES
    return _SHUFFLED_IMAGES if table in _SHUFFLED else PRINTED_IMAGES


DRAWS = (
    (1, 988, 0.04, 0, False),
    (3, 988, 0.04, 0, False),
    (5, 500, 0.02, 0, False),
    (1, 60, 0.04, 0, False),
    (2, 5000, 0.001, 0.05, False),
    (3, 400, 0.1, 0.2, False),
    (1, 2000, 0.01, 0, True),
    (3, 988, 0.005, 0, True),
)
"""(seeds, images, spread of the seeds, share of places that are left out, whether numbers are near
the paper's own)."""


def drawn_values(draw, name):
    """{side: estimate} of all places that the claims of a table or figure compare."""
    seeds, n, spread, drop, near = DRAWS[draw]
    values = {}
    for claim in claims_of(name):
        for side in (side for each in claim.comparisons for side in (each.a, each.b)):
            owner, place = (side[0], side[1:]) if len(side) == 3 else (name, side)
            if (noise(draw, "drop", owner, place) + 1) / 2 >= drop:
                values[side] = _drawn(draw, owner, place, seeds, n, spread, near)
    return values


def _drawn(draw, name, place, seeds, n, spread, near):
    middle = 0.5 + 0.45 * noise(draw, "place", name, place)
    if near and place in (own := own_values(name)):
        middle = own[place].value
    if name == "table6":
        each = [
            1e-5 * math.exp(4 * (middle + spread * noise(draw, name, place, s)))
            for s in range(seeds)
        ]
        return combined([Estimate(v, 0.8 * v, 1.3 * v, 480, (v,)) for v in each])
    each = [min(1, max(0, middle + spread * noise(draw, name, place, s))) for s in range(seeds)]
    return combined([share(round(n * v) / n, n) for v in each])
