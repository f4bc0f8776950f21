"""Tables and figures with invented numbers, as if all networks had been trained.

The numbers follow the paper's where it prints some, with a fixed disturbance: they are of no
network, and only for looking at pages and for tests of them.
"""

import hashlib
import math
from dataclasses import replace

from paper_smoke import context, new_store
from scotoma.bench.paper.budgets import BUDGETS
from scotoma.bench.paper.estimates import Estimate, combined, share
from scotoma.bench.paper.experiment import Made
from scotoma.bench.paper.experiments import definition
from scotoma.bench.paper.graph.data import Data
from scotoma.bench.paper.graph.sample_folder import SampleFolder
from scotoma.bench.paper.published import figure5, published
from scotoma.bench.paper.setup import Setup

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


def noise(place, seed):
    """A fixed number between -1 and 1 for a place and seed."""
    digest = hashlib.sha256(repr([place, seed]).encode()).digest()
    return 2 * int.from_bytes(digest[:4], "big") / 2**32 - 1


def _paper(name, place):
    """The paper's number, or one that falls with the noise of figure 4."""
    row, column = place
    if name == "figure5":
        points = {f"{p.keep_probability}-Bottom": p for p in figure5()}
        point = points.get(row, points["0.7-Bottom"])
        return point.defence_rate if "Defence" in column else point.accuracy
    if name == "figure4":
        robust = {"ResNet-18": 24, "0.5-Bottom": 32, "0.3-Bottom": 44, "0.1-Bottom": 64}[row]
        return 0.9 / (1 + math.exp((float(column) - robust) / 8)) + 0.08
    table = published(definition(name).of_table)
    if row in table.rows and column in table.columns:
        return table.value(row, column) or 0.5
    return 0.5
