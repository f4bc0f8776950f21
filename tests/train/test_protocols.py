"""What noise and shuffled patches have in common: resuming, sharing of passes, and refusals."""

from dataclasses import replace

import protocol_fixtures as shared
import pytest
import torch
from protocol_targets import Shallow, Told, named, sample_images
from scotoma.defective.errors import UserError
from scotoma.train.robustness.images import TestImages
from scotoma.train.robustness.protocols import evaluate_noise, evaluate_shuffle
from scotoma.train.store import Store

images, targets = shared.images, shared.targets
indices, cells = shared.indices, shared.cells

PROTOCOLS = [
    (evaluate_noise, {"epsilons": [8 / 255, 64 / 255]}),
    (evaluate_shuffle, {"grids": [2, 4]}),
]


@pytest.fixture(params=PROTOCOLS, ids=["noise", "shuffle"])
def evaluate(request, targets, images, indices, cells):
    function, settings = request.param

    def run(**changes):
        told = changes.pop("progress", Told())
        given = {"targets": targets, "images": images, "indices": indices, "store": cells}
        found = function(**given | settings | {"batch_size": 12, "progress": told} | changes)
        told.check()
        return found

    return run


def test_a_second_call_computes_nothing(evaluate, targets, cells):
    first = evaluate()
    asked = [len(target.model.seen) for target in targets]
    assert all(asked)
    assert evaluate() == first
    assert [len(target.model.seen) for target in targets] == asked
    assert cells.computed == cells.reused == 4


def test_a_target_that_joins_is_evaluated_alone(evaluate, targets):
    first = evaluate(targets=targets[:1])
    asked = len(targets[0].model.seen)
    assert not targets[1].model.seen
    both = evaluate()
    assert len(targets[0].model.seen) == asked
    assert len(targets[1].model.seen) == asked
    for cell in (*first, *both):  # the names of those whose images they are now
        cell["results"]["shown"].pop("right_for")
    assert both[::2] == first
    assert [cell["results"]["shown"]["target"] for cell in both] == ["first", "second"] * 2


def test_results_do_not_depend_on_the_batches(evaluate, tmp_path):
    one, other = (evaluate(store=Store(tmp_path / str(size)), batch_size=size) for size in (30, 11))
    assert [cell["results"] for cell in one] == [cell["results"] for cell in other]


def test_a_stopped_evaluation_keeps_finished_cells(evaluate, cells, indices, targets):
    class Stopped(Told):
        def __call__(self, done, total, text):
            super().__call__(done, total, text)
            if done > total // 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(progress=Stopped())
    assert len(cells.all()) == 2  # the first epsilon or grid, both targets
    for target in targets:
        target.model.seen.clear()
    evaluate()
    assert cells.reused == 2 and cells.computed == 4


@pytest.mark.parametrize("changed", ["seed", "indices", "digest"])
def test_what_changes_the_images_makes_a_new_cell(evaluate, cells, targets, indices, changed):
    evaluate(targets=targets[:1])
    other = {
        "seed": {"seed": 1},
        "indices": {"indices": indices[:29]},
        "digest": {"targets": [named(targets[0].model, "first", "another digest")]},
    }[changed]
    evaluate(**{"targets": targets[:1]} | other)
    assert cells.reused == 0 and cells.computed == 4


def test_the_same_pictures_under_other_numbers_are_another_cell(evaluate, cells, indices):
    """Random numbers belong to an image's number, so that the result is another."""
    evaluate()
    data = sample_images().data
    others = torch.arange(1000).roll(1)  # number i + 1 is what was number i
    turned = TestImages(replace(data, test=data.test.subset(others)), torch.device("cpu"))
    assert turned.fingerprint(indices + 1) == sample_images().fingerprint(indices)
    evaluate(images=turned, indices=indices + 1)
    assert cells.reused == 0 and cells.computed == 8


def test_a_diverged_network_is_an_error_and_no_number(evaluate, targets, cells):
    broken = Shallow(0)
    broken.last.data[0, 0] = float("nan")
    with pytest.raises(UserError, match="broken: its logits are not finite"):
        evaluate(targets=[named(broken, "broken")])
    assert not cells.all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": []}, "no targets"),
        ({"indices": torch.zeros(0, dtype=torch.int64)}, "no images .* first, second"),
        ({"indices": torch.tensor([1, 2, 1])}, "twice"),
        ({"indices": torch.tensor([1.0])}, r"indices is \(1,\) torch.float32"),
        ({"indices": torch.tensor([5, 1000])}, "image 1000 is asked for"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(evaluate, targets, changes, message):
    with pytest.raises(UserError, match=message):
        evaluate(**changes)
    assert not any(target.model.seen for target in targets)


@pytest.mark.parametrize(
    ("protocol", "changes", "message"),
    [
        (evaluate_noise, {"epsilons": []}, "epsilons is empty"),
        (evaluate_noise, {"epsilons": [8 / 255, 8]}, "epsilons is 8; .* 8/255"),
        (evaluate_noise, {"epsilons": [float("nan")]}, "epsilons is nan"),
        (evaluate_noise, {"draws": 2}, "draws is 2; .* at least 3"),
        (evaluate_noise, {"pixels": "int"}, "pixels is 'int'; expected one of float, uint8"),
        (evaluate_shuffle, {"grids": []}, "grids is empty"),
        (evaluate_shuffle, {"grids": [2, 8]}, "grid is 8; .* side 28 .* 1, 2, 4, 7, 14, 28"),
        (evaluate_shuffle, {"grids": [2], "confidence": 99}, "confidence is 99"),
    ],
)
def test_bad_settings_are_refused_before_any_work(
    targets, images, indices, cells, protocol, changes, message
):
    arguments = {"batch_size": 30, "progress": Told()}
    with pytest.raises(UserError, match=message):
        protocol(targets, images, indices, cells, **arguments | changes)
    assert not any(target.model.seen for target in targets)


def test_a_target_in_training_mode_is_refused(evaluate, targets):
    targets[1].model.train()
    with pytest.raises(UserError, match=r"second: .* training mode"):
        evaluate()
    assert not targets[0].model.seen
