"""Tables and figures, really made: numbers are those of the images."""

from dataclasses import replace

import pytest
import torch
from paper_smoke import context, learning_setup, new_store, tiny_setup
from scotoma.bench.paper.budgets import ROLES, SMOKE
from scotoma.bench.paper.data import Data, SampleFolder
from scotoma.bench.paper.experiment import Made, only_rows, read_values
from scotoma.bench.paper.pictures import of_page
from scotoma.bench.paper.setup import Setup
from scotoma.bench.paper.tables import definition, definitions
from scotoma.bench.paper.work import Plan, make_here
from scotoma.defective.robustness import load_set
from scotoma.train.plots import encoded


def run(experiment, store):
    failures = make_here(Plan.of(experiment.wanted(), store), context(store))
    assert failures == [], failures[0].message
    return read_values(experiment.cells, store)


@pytest.mark.parametrize("name", ["table2", "table4", "table8", "table10", "table11", "table14"])
def test_what_stands_beside_the_table_costs_nothing(name):
    """How often each set fools its source: that is in results that the table needs anyway. With
    some rows only, of the rest what their results tell."""
    experiment = definition(name).build(tiny_setup(seeds=(0, 3)))
    measures = [m for several in experiment.cells.values() for m in several]
    sets = {m.result.images.key for m in measures if m.result.protocol == "transfer"}
    needed = {m.result.key for m in measures}
    beside = [m for several in experiment.asides.values() for m in several]
    fooled = [m.result for m in beside if m.quantity == "fooled_source"]
    assert {result.images.key for result in fooled} == sets and len(fooled) == len(sets)
    assert {result.key for result in fooled} <= needed
    chosen = only_rows(experiment, [experiment.rows[0]], name)
    assert set(chosen.asides) == {
        place for place in experiment.asides if place[0] == "fooled: the source itself"
    } | ({(f"{experiment.rows[0]}, P1", c) for c in ("FGSM", "PGD")} if name == "table2" else set())


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return new_store(tmp_path_factory.mktemp("tiny"))


@pytest.mark.slow
def test_two_rows_of_table_15(store):
    """From a network of its own to numbers; the images are those that the source gets right."""
    setup = learning_setup(images="source")
    # As many steps of PGD as the paper's: three fool these networks on no image.
    cuts = {name: most for name, most in setup.budget.shortened.items() if name != "pgd"}
    setup = replace(setup, budget=replace(setup.budget, shortened=cuts))
    whole = definition("table15").build(setup)
    experiment = only_rows(whole, ["ResNet-18", "0.3-Bottom"], "table15")
    values = run(experiment, store)
    assert set(values) == {(r, c) for r in experiment.rows for c in experiment.columns}
    assert Plan.of(experiment.wanted(), store).to_make() == []
    for (row, column), value in values.items():
        result = experiment.cells[row, column][0].result
        assert 0 <= value.value <= 1 and value.n > 0
        if column == "Acc":
            assert value.n == 1000 and value.value > 0.3
            continue
        found = load_set(result.images.path(store))
        here = context(store)
        with torch.no_grad():
            network = result.target.load(here).model
            data = here.images(result.images.sample.data)
            (_, clean, labels), *more = data.batches(found.indices, 100)
            assert not more and torch.equal(labels, found.labels)
            pixels = found.images.float() / 255
            source = result.images.source.load(here).model
            counted = network(clean).argmax(1) == labels
            counted &= source(clean).argmax(1) == labels
            counted &= source(pixels).argmax(1) != labels
            held = (network(pixels).argmax(1) == labels)[counted]
        assert len(found) == (6 if column == "CW20" else 16)
        assert (value.n, value.value) == (len(held), float(held.double().mean()))


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    data = {role: Data(role, "sample", train_limit=1500) for role in ROLES}
    data["imagenet"] = Data("imagenet", "", made_by=SampleFolder(1500, 400))
    return Setup(SMOKE, data), context(new_store(tmp_path_factory.mktemp("smoke")))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(definitions()))
def test_everything_at_the_smallest_budget(smoke, name):
    """One store for all, so that what tables share is made once."""
    setup, there = smoke
    plan = definition(name)
    experiment = plan.build(setup)
    assert make_here(Plan.of(experiment.wanted(), there.store), there) == []

    def without_images(place):
        """Narrow networks may withstand an attack, and then nothing is left to defend against."""
        (measure,) = experiment.cells[place]
        found = measure.result.read(there.store)[measure.index][measure.quantity]
        return isinstance(found, dict) and found["n"] == 0

    values = read_values(experiment.cells, there.store)
    empty = {place for place in experiment.cells if without_images(place)}
    assert set(values) == set(experiment.cells) - empty and 2 * len(empty) <= len(experiment.cells)
    for (_, column), value in values.items():
        assert value.low is not None and value.low <= value.value <= value.high
        assert value.n > 0 and (value.high <= 1 or column == "S(M)")
    assert set(read_values(experiment.asides, there.store)) == set(experiment.asides)
    if experiment.attached:  # numbers are drawn in tests of pictures
        pictures = of_page(Made(plan, setup, experiment, values, there), None, "")
        assert len(pictures) == (1 if name == "figure14" else len(plan.roles))
        assert all(encoded(picture.figure).startswith(b"\x89PNG") for picture in pictures)
