"""Tables and figures, really made: numbers are those of the images."""

from dataclasses import replace

import pytest
import torch
from paper_smoke import TINY, context, learning_setup, new_store, tiny_setup
from scotoma.bench.paper.budgets import ROLES, SMOKE, DataPlan
from scotoma.bench.paper.data import Data, SampleFolder
from scotoma.bench.paper.experiment import Made, only_rows, read_values
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
def test_sources_are_measured_beside_the_table(name):
    """Each set has the share that fools its source, and each source an accuracy."""
    experiment = definition(name).build(tiny_setup(seeds=(0, 3)))
    sets = {
        measure.result.images.key: measure.result.images
        for several in experiment.cells.values()
        for measure in several
        if measure.result.protocol == "transfer"
    }
    fooled, accuracies = (
        [m.result for several in experiment.asides.values() for m in several if m.quantity == kind]
        for kind in ("fooled_source", "accuracy")
    )
    assert sorted(result.images.key for result in fooled) == sorted(sets)
    assert {r.target.key for r in accuracies} == {each.source.key for each in sets.values()}
    # Nothing is evaluated for the shares: they are in results that the table needs anyway.
    needed = {m.result.key for several in experiment.cells.values() for m in several}
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


@pytest.mark.slow
def test_three_rows_of_table_2(store):
    setup = learning_setup()
    rows = ["Standard CNN", "Defective CNN*"]
    experiment = only_rows(definition("table2").build(setup), rows, "table2")
    values = run(experiment, store)
    assert len(experiment.rows) == 3 and set(values) == set(experiment.cells)
    for (row, column), value in values.items():
        result = experiment.cells[row, column][0].result
        assert value.n == (1000 if column == "Clean Acc" else 20)
        if column != "Clean Acc":
            found = load_set(result.images.path(store))
            with torch.no_grad():
                network = result.target.load(context(store)).model
                right = network(found.images.float() / 255).argmax(1) == found.labels
            assert value.value == float(right.double().mean())


@pytest.mark.slow
def test_a_picture_for_figure_5(store):
    """Of the rows that are there; none where there is no row."""
    setup = learning_setup(images="source")
    plan = definition("figure5")
    experiment = plan.build(setup)
    here = context(store)
    assert plan.draw(Made(plan, setup, experiment, {}, here)) == []
    ours = only_rows(definition("table15").build(setup), ["ResNet-18", "0.3-Bottom"], "table15")
    names = {"PGD16": "Defence Rate", "Acc": "Test Accuracy"}
    values = {
        (row, names[column]): value
        for (row, column), value in run(ours, store).items()
        if column in names
    }
    pictures = plan.draw(Made(plan, setup, experiment, values, here))
    assert [picture.name for picture in pictures] == ["figure5"]
    assert encoded(pictures[0].figure).startswith(b"\x89PNG")
    assert "0.3-Bottom" in pictures[0].alt and "0.5-Bottom" not in pictures[0].alt
    again = plan.draw(Made(plan, setup, experiment, values, here))
    assert encoded(again[0].figure) == encoded(pictures[0].figure)
    half = {place: value for place, value in values.items() if place[1] == "Defence Rate"}
    assert plan.draw(Made(plan, setup, experiment, half, here)) == []


# Networks that are right on something, and attacks that fool them, soon enough for a test.
LEARNING = replace(
    TINY,
    data={
        role: DataPlan(
            "sample",
            "quick",
            {"epochs": 1, "batch_size": 8, "lr": 0.02, "save_seconds": 3600.0},
            train_limit=500,
        )
        for role in ROLES
    },
    samples=40,
    shortened={},
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(context, Table 10)"""
    setup, there = (
        Setup(LEARNING, tiny_setup().data),
        context(new_store(tmp_path_factory.mktemp("store"))),
    )
    table = definition("table10").build(setup)
    assert make_here(Plan.of(table.wanted(), there.store), there) == []
    return there, table


def test_every_cell_is_measured(made):
    there, table = made
    values = read_values(table.cells, there.store)
    assert set(values) == set(table.cells)
    for value in values.values():
        assert 0 <= value.low <= value.value <= value.high <= 1 and value.n


def test_relations_of_table_10_are_recognised(made):
    there, table = made
    for (row, column), (measure,) in table.cells.items():
        relation = measure.result.read(there.store)[0]["relation"]
        same = row.removesuffix("DIF") == column
        assert relation == (("DIF" if row.endswith("DIF") else "gray-box") if same else "transfer")


def test_masks_of_table_10(made):
    """Equal, drawn apart, or nested, as the notes say."""
    there, table = made
    masks = {}
    for (row, column), (measure,) in table.cells.items():
        for name, model in ((row, measure.result.target), (column, measure.result.images.source)):
            kind = "target" if model is measure.result.target else "source"
            state = model.load(there).model.state_dict()
            masks[kind, name] = torch.cat([v.flatten() for k, v in state.items() if "mask" in k])
    half, third = masks["target", "0.5-Bottom"], masks["target", "0.3-Bottom"]
    assert torch.equal(half, masks["source", "0.5-Bottom"])
    assert torch.equal(third, masks["source", "0.3-Bottom"])
    for name, mask in (("0.5-BottomDIF", half), ("0.3-BottomDIF", third)):
        assert 0 < (masks["target", name] != mask).float().mean() < 0.9
    assert bool(half[third].all()) and not bool(half[masks["target", "0.3-BottomDIF"]].all())
    notes = " ".join(table.notes)
    assert "nested" in notes


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
    if plan.draw is not None and name != "figure5":
        pictures = plan.draw(Made(plan, setup, experiment, values, there))
        assert len(pictures) == (1 if name == "figure14" else len(plan.roles))
        assert all(encoded(picture.figure).startswith(b"\x89PNG") for picture in pictures)
