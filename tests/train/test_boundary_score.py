"""The decision-based score: which images count, and that finished batches are never lost."""

import random
from dataclasses import dataclass, replace
from fractions import Fraction
from math import comb
from statistics import fmean, median
from typing import ClassVar

import protocol_targets as shared
import pytest
import torch
from protocol_targets import Shallow, Told, named, right_for_both
from scotoma.defective.attacks import Attack, AttackResult, Oracle, Status
from scotoma.defective.attacks.base import parameter
from scotoma.defective.attacks.boundary import Boundary
from scotoma.defective.errors import UserError
from scotoma.train.robustness.boundary import evaluate_boundary, median_interval
from scotoma.train.store import Store


@dataclass(frozen=True, kw_only=True)
class Shifted(Attack):
    """Moves image number i (its key) by (i + 1) / 2000 in every pixel, towards the middle; every
    fifth ends in another status. It is told where to stop by a list outside of it."""

    name: ClassVar[str] = ""
    scale: float = parameter(1.0, "factor on the shift")

    def __call__(self, model, images, labels, keys=None):
        assert isinstance(model, Oracle)
        CALLS.append(keys.tolist())
        if STOP and len(CALLS) >= STOP[0]:
            raise KeyboardInterrupt
        delta = (keys + 1).view(-1, 1, 1, 1) / 2000 * self.scale
        moved = torch.where(images > 0.5, images - delta, images + delta)
        status = torch.where(keys % 5 == 0, STATUSES[keys % 3], int(Status.FOOLED))
        return AttackResult(
            moved, labels, labels, status.to(torch.uint8), 100 + keys, torch.zeros_like(keys)
        )


STATUSES = torch.tensor([Status.NO_START, Status.RESISTED, Status.MISCLASSIFIED])
CALLS, STOP = [], []


@pytest.fixture(autouse=True)
def fresh():
    CALLS.clear()
    STOP.clear()


images, targets, cells = shared.images, shared.targets, shared.cells
INDICES = torch.tensor([15, 3, 4, 8, 20, 10, 2, 9, 100, 7, 6])


def evaluate(targets, images, cells, attack=None, indices=INDICES, **more):
    told = Told()
    found = evaluate_boundary(
        targets, images, indices, cells,
        **{"attack": attack or Shifted(), "batch_size": 4, "progress": told} | more,
    )  # fmt: skip
    told.check()
    return found


def test_the_score_is_the_squared_distance_per_value_of_the_turned_images(targets, images, cells):
    found = evaluate(targets, images, cells)
    counted = [i for i in INDICES.tolist() if i % 5]
    scores = [((i + 1) / 2000) ** 2 for i in counted]
    for cell, target in zip(found, targets, strict=True):
        results = cell["results"]
        assert results["score_median"] == pytest.approx(median(scores), rel=1e-5)
        assert results["score_mean"] == pytest.approx(fmean(scores), rel=1e-5)
        extremes = [min(scores), max(scores)]  # of seven, nothing narrower is sure enough
        assert results["score_median_interval"] == pytest.approx(extremes, rel=1e-5)
        assert results["n"] == len(counted) == 7
        # 15 and, with 3 as a divisor, 0 mod 3: no start; 10 and 100: 1 mod 3; 20: 2 mod 3.
        assert results["statuses"] == {
            "fooled": 7, "no_start": 1, "resisted": 2, "misclassified": 1,
        }  # fmt: skip
        assert results["forwards_mean"] == 100 + fmean(counted)
        assert cell["identity"]["target"] == target.digest
        assert cell["identity"]["attack"]["scale"] == 1.0
        assert results["shown"]["target"] == target.name
        assert results["shown"]["attack"] == str(Shifted())


def test_where_nothing_was_turned_there_is_no_score(targets, images, cells):
    (results,) = numbers(evaluate(targets[:1], images, cells, indices=torch.tensor([10, 15])))
    assert results.pop("statuses") == {"no_start": 1, "resisted": 1} and results.pop("n") == 0
    scores = "score_median", "score_median_interval", "score_mean", "forwards_mean"
    assert results == dict.fromkeys(scores)


def coverage(count, rank):
    """The probability that the rank-th smallest and greatest of ``count`` enclose the median."""
    return 1 - 2 * sum(Fraction(comb(count, i), 2**count) for i in range(rank))


@pytest.mark.parametrize("count", [*range(14), 40, 100, 500, 501])
def test_the_medians_interval_is_the_narrowest_of_95_percent(count):
    values = [float(i) for i in range(count)]  # each is its own rank
    random.Random(0).shuffle(values)
    found = median_interval(values)
    ranks = range(1, count // 2 + 1)
    most = max((rank for rank in ranks if coverage(count, rank) >= Fraction(95, 100)), default=None)
    assert found == (None if most is None else [most - 1, count - most])
    assert (found is None) == (count < 6)


def test_a_second_call_computes_nothing(targets, images, cells):
    first = evaluate(targets, images, cells)
    calls = len(CALLS)
    assert evaluate(targets, images, cells) == first
    assert len(CALLS) == calls == 2 * 3
    for changes in ({"attack": Shifted(scale=0.5)}, {"indices": INDICES[:5]}):
        assert evaluate(targets[:1], images, cells, **changes)[0] not in first
    assert cells.computed == 4 and cells.reused == 2


def numbers(cells):
    return [{k: v for k, v in cell["results"].items() if k != "shown"} for cell in cells]


@pytest.mark.parametrize(("after", "size"), [(1, 4), (2, 3), (4, 3), (6, 4)])
def test_a_stopped_evaluation_goes_on_with_the_other_batches(
    targets, images, tmp_path, after, size
):
    whole = evaluate(targets, images, Store(tmp_path / "whole"))
    CALLS.clear()
    STOP.append(after)
    cells = Store(tmp_path / "cells")
    with pytest.raises(KeyboardInterrupt):
        evaluate(targets, images, cells)
    STOP.clear()
    finished = [i for call in CALLS[:-1] for i in call]
    cells.all()  # what is unfinished is no damaged cell
    renamed = [replace(target, name=f"new {target.name}") for target in targets]
    again = evaluate(renamed, images, cells, batch_size=size)
    assert numbers(again) == numbers(whole)
    later = [i for call in CALLS[after:] for i in call]
    assert sorted(finished + later) == sorted(2 * INDICES.tolist())
    assert all(file.suffix == ".json" for file in cells.folder.iterdir())


def test_stopped_between_the_last_batch_and_the_cell(targets, images, cells, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("scotoma.train.robustness.boundary._results", fail)
        evaluate(targets[:1], images, cells)
    calls = len(CALLS)
    (cell,) = evaluate(targets[:1], images, cells)
    assert cell["results"]["n"] == 7
    assert len(CALLS) == calls == 3


def test_damaged_parts_are_an_error_that_names_the_file(targets, images, cells):
    STOP.append(2)
    with pytest.raises(KeyboardInterrupt):
        evaluate(targets[:1], images, cells)
    STOP.clear()
    (parts,) = cells.folder.glob("*.parts")
    for content in ("{", "[1]", '{"3": 4}', '{"3": [77, 0.1, 5]}', '{"3": [0]}'):
        parts.write_text(content)
        with pytest.raises(UserError, match=rf"{parts.name}: no batches .*remove it"):
            evaluate(targets[:1], images, cells)
    parts.unlink()
    assert evaluate(targets[:1], images, cells)[0]["results"]["n"] == 7


def test_the_boundary_attack_itself(targets, images, cells):
    """Two networks; the result is what the attack gives all images at once."""
    indices, attack = right_for_both()[:12], Boundary(steps=60, seed=3)
    found = evaluate(targets, images, cells, attack, indices, batch_size=5)
    ((_, clean, labels),) = images.batches(indices, 100)
    for target, cell in zip(targets, found, strict=True):
        result = attack(target.model, clean, labels, keys=indices)
        scores = (result.images - clean).double().square().flatten(1).mean(1)[result.fooled]
        assert 0 < len(scores) == cell["results"]["n"]
        assert cell["results"]["score_median"] == pytest.approx(median(scores.tolist()), rel=1e-3)
        assert cell["results"]["score_mean"] == pytest.approx(fmean(scores.tolist()), rel=1e-3)
        assert 0 < cell["results"]["score_median"] < 0.2


def test_a_model_that_cannot_be_attacked_is_named(images, cells):
    broken = Shallow(0)
    broken.last.data.fill_(float("nan"))
    with pytest.raises(UserError, match=r"broken, boundary: the model's logits are not finite"):
        evaluate([named(broken, "broken")], images, cells, Boundary(steps=2))
    assert not cells.all()
