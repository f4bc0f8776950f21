"""Cells: computed once, found again by what determines them, whole or not there."""

import json
import math

import pytest
from scotoma.defective.errors import UserError
from scotoma.defective.robustness.rates import proportion
from scotoma.train import store as module
from scotoma.train.store import Store

IDENTITY = {"target": "abc", "eps": 8 / 255, "set": {"pixels": "uint8"}}


def never():
    raise AssertionError("computed again")


@pytest.fixture
def cells(tmp_path):
    return Store(tmp_path)


@pytest.fixture
def keep(cells, tmp_path):
    """Keep results. Returns the cell's file."""

    def keep_it(results, kind="noise"):
        cells.get(kind, "a", IDENTITY, lambda: results)
        (file,) = tmp_path.glob(f"{kind}-*")
        return file

    return keep_it


def assert_refused(cells, words):
    for read in (cells.all, lambda: cells.get("noise", "a", IDENTITY, never)):
        with pytest.raises(UserError, match=words):
            read()


def test_a_cell_is_computed_once(tmp_path):
    cells = Store(tmp_path / "cells")
    first, was_there = cells.get("noise", "a network", IDENTITY, lambda: {"n": 3})
    assert not was_there and first["results"] == {"n": 3}
    again, was_there = Store(tmp_path / "cells").get("noise", "a network", IDENTITY, never)
    assert was_there and again == first
    assert (cells.reused, cells.computed) == (0, 1)
    assert first["identity"] == IDENTITY and first["kind"] == "noise"
    assert first["made"]["seconds"] >= 0 and first["made"]["torch"]


def test_another_identity_or_kind_is_another_cell(cells, keep):
    keep({"n": 1})
    for number, (kind, changes) in enumerate(
        (
            ("noise", {"target": "abd"}),
            ("noise", {"eps": 0.03}),
            ("noise", {"set": {"pixels": "x"}}),
            ("shuffle", {}),
        ),
        2,
    ):
        cell, was_there = cells.get(kind, "a", IDENTITY | changes, lambda: {"n": 2})
        assert not was_there and cell["results"]["n"] == 2
        assert len(cells.all()) == number


def test_renamed_networks_keep_their_cells_and_get_their_new_names(cells, tmp_path):
    cells.get("clean", "old", IDENTITY, lambda: {"n": 1}, shown={"target": "old"})
    cell, was_there = cells.get("clean", "new", IDENTITY, never, shown={"target": "new"})
    assert was_there and cell["results"] == {"n": 1, "shown": {"target": "new"}}
    assert len(list(tmp_path.iterdir())) == 1


def test_an_interruption_or_a_full_disk_leaves_nothing_half_done(cells, tmp_path, monkeypatch):
    def stop(error):
        def stopped(*_):
            raise error

        return stopped

    with pytest.raises(KeyboardInterrupt):
        cells.get("noise", "a", IDENTITY, stop(KeyboardInterrupt))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(module.Path, "write_text", stop(OSError("full")))
        cells.get("noise", "a", IDENTITY, lambda: {"n": 1})
    assert list(tmp_path.iterdir()) == [] and cells.computed == 0
    assert cells.get("noise", "a", IDENTITY, lambda: {"n": 1})[1] is False


def test_a_damaged_or_edited_cell_is_named(cells, keep):
    file = keep(proportion(1, 2))
    text = file.read_text()
    for content in ("", "[1]", "{}", '{"format": 1', "[" * 20_000):
        file.write_text(content)
        assert_refused(cells, rf"{file.name}.*remove it")
    for old, new in (('"rate": 0.5', '"rate": 5.0'), ('"eps": 0', '"eps": 1')):
        file.write_text(text.replace(old, new))
        assert_refused(cells, "damaged or edited")


def rated(**changes):
    return {"accuracy": proportion(3, 4) | changes, "epsilon": 0.1}


@pytest.mark.parametrize(
    "results",
    [
        rated(rate=5.0),
        rated(rate=-1.0),
        rated(rate=math.nan),
        rated(rate="0.75"),
        rated(rate=None),
        rated(k=5),
        rated(n=4.5),
        rated(n="4"),
        rated(low=0.9),
        rated(high=None),
        {"accuracy": {"rate": 0.5}},
        {"epsilon": math.inf},
        {"epsilon": -0.1},
        {"epsilon": "0.1"},
        {"statuses": {"fooled": "many"}},
        {"per_draw": [4]},
        {"per_draw": []},
        {"per_draw": [proportion(1, 4), proportion(1, 5)]},
        [],
        None,
        3,
    ],
    ids=str,
)
def test_numbers_that_cannot_be_are_refused(cells, keep, results):
    """Even under a digest that is right."""
    assert_refused(cells, f"{keep(results).name}: .*remove it")


def test_a_cell_under_the_name_of_another_is_refused(cells, keep):
    other = IDENTITY | {"target": "abd"}
    keep({"n": 1}).rename(cells.path("noise", "a", other))
    with pytest.raises(UserError, match="of another result than its name"):
        cells.get("noise", "a", other, never)


def test_files_of_others_and_of_another_format_are_left_alone(cells, keep, tmp_path, monkeypatch):
    keep({"n": 1})
    (tmp_path / "my-notes.json").write_text("[")
    assert len(cells.all()) == 1
    monkeypatch.setattr(module, "FORMAT", module.FORMAT + 1)
    assert cells.get("noise", "a", IDENTITY, lambda: {"n": 2})[0]["results"]["n"] == 2
    assert [cell["results"]["n"] for cell in cells.all()] == [2]


def test_draws_of_an_image_are_not_counted_as_images(cells, keep):
    """As cells of noise did at first."""
    draws = [proportion(k, 100) for k in (80, 90, 85)]
    keep({"accuracy": proportion(255, 300), "per_draw": draws})
    (cell,) = cells.all()
    assert cell["results"]["accuracy"] == proportion(85, 100)
    again, _ = cells.get("noise", "a", IDENTITY, never)
    assert again["results"]["accuracy"]["n"] == 100


def test_names_of_files_are_harmless(cells, tmp_path):
    label = "../..//a b:" + "x" * 500
    cell, _ = cells.get("noise", label, IDENTITY, lambda: {"n": 1})
    (file,) = tmp_path.iterdir()
    assert len(file.name) < 150 and cell["label"] == label
    assert cells.get("noise", label, IDENTITY, never)[1]
    assert json.loads(file.read_text())["results"] == {"n": 1}


def test_one_at_a_time_makes_a_thing(cells, tmp_path):
    other = Store(tmp_path)
    with (
        cells.alone("key") as first,
        other.alone("key", wait=False) as second,
        other.alone("another", wait=False) as third,
    ):
        assert (first, second, third) == (True, False, True)
    with other.alone("key", wait=False) as now:
        assert now
