"""Tables and figures of shape, boundary, gray-box, white-box, noise, examples and curves, made."""

from dataclasses import replace

import pytest
import torch
from paper_smoke import TINY, context, new_store, tiny_setup
from paper_transfers import ALL
from scotoma.bench.paper.budgets import ROLES, SMOKE, DataPlan
from scotoma.bench.paper.data import Data, SampleFolder
from scotoma.bench.paper.experiment import Made, only_rows, read_values
from scotoma.bench.paper.setup import Setup
from scotoma.bench.paper.tables import WHITE_BOX_ROWS, definition, definitions
from scotoma.bench.paper.work import Plan, make_here
from scotoma.train.plots import encoded

# The others have such a test in test_paper_experiments_made.py.
NAMES = [name for name in definitions() if name not in ALL]
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
    """Tables 10 and 12, the latter without adversarial training, and Figure 14."""
    store = new_store(tmp_path_factory.mktemp("store"))
    setup, there = Setup(LEARNING, tiny_setup().data), context(store)
    experiments = {
        name: definition(name).build(setup) for name in ("table10", "table12", "figure14")
    }
    rows = only_rows(experiments["table12"], list(WHITE_BOX_ROWS), "table12")
    experiments["table12"] = rows
    wanted = [artefact for e in experiments.values() for artefact in e.wanted()]
    assert make_here(Plan.of(wanted, store), there) == []
    return setup, there, experiments


@pytest.mark.parametrize("name", ["table10", "table12"])
def test_every_cell_is_measured(made, name):
    _, there, experiments = made
    values = read_values(experiments[name], there.store)
    assert set(values) == set(experiments[name].cells)
    for value in values.values():
        assert 0 <= value.low <= value.value <= value.high <= 1 and value.n


def test_relations_of_table_10_are_recognised(made):
    _, there, experiments = made
    for (row, column), (measure,) in experiments["table10"].cells.items():
        relation = measure.result.read(there.store)[0]["relation"]
        same = row.removesuffix("DIF") == column
        assert relation == (("DIF" if row.endswith("DIF") else "gray-box") if same else "transfer")


def test_masks_of_table_10(made):
    """Equal, drawn apart, or nested, as the notes say."""
    _, there, experiments = made
    masks = {}
    for (row, column), (measure,) in experiments["table10"].cells.items():
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
    notes = " ".join(experiments["table10"].notes)
    assert "nested" in notes


def test_curves_are_drawn_of_real_trainings(made):
    setup, there, experiments = made
    plan = definition("figure14")
    (picture,) = plan.draw(Made(plan, setup, experiments["figure14"], {}, there))
    assert picture.name == "figure14" and encoded(picture.figure).startswith(b"\x89PNG")
    for training in experiments["figure14"].attached.values():
        assert (training.path(there.store) / "metrics.jsonl").is_file()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    data = {role: Data(role, "sample", train_limit=1500) for role in ROLES}
    data["imagenet"] = Data("imagenet", "", made_by=SampleFolder(1500, 400))
    return Setup(SMOKE, data), context(new_store(tmp_path_factory.mktemp("smoke")))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_everything_at_the_smallest_budget(smoke, name):
    setup, there = smoke
    plan = definition(name)
    experiment = plan.build(setup)
    assert make_here(Plan.of(experiment.wanted(), there.store), there) == []
    values = read_values(experiment, there.store)
    assert set(values) == set(experiment.cells)
    for (_, column), value in values.items():
        assert value.low is not None and value.low <= value.value <= value.high
        assert value.n > 0 and (value.high <= 1 or column == "S(M)")
    if plan.draw is not None:
        pictures = plan.draw(Made(plan, setup, experiment, values, there))
        assert len(pictures) == (1 if name == "figure14" else len(plan.roles))
        assert all(encoded(picture.figure).startswith(b"\x89PNG") for picture in pictures)
