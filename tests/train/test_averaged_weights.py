"""The moving average of weights: torch's numbers, by one operator that nobody waits for."""

import pytest
import torch
from engines import Operators, engine_of
from scotoma.train.engine import MovingAverage
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def engine_and_batches(tiny, **changes):
    engine, batches = engine_of(tiny(**changes))
    return engine, batches.epoch(0, 0, 64)


def floats(state):
    return {name: value for name, value in state.items() if value.is_floating_point()}


@pytest.mark.parametrize("layout", [False, True], ids=["contiguous", "channels_last"])
def test_the_numbers_are_torchs(tiny, layout):
    """Bit for bit, from the first update on; masks and counters are those of the network."""
    engine, batches = engine_and_batches(tiny, ema=0.8, defects="0.5-Bottom", channels_last=layout)
    average = get_ema_multi_avg_fn(0.8)
    theirs = AveragedModel(engine.model, multi_avg_fn=average, use_buffers=True)
    for number, batch in enumerate(batches):
        engine.step(batch, number, 0.1, len(batch[1]))
        theirs.update_parameters(engine.model)
        found, expected = engine.average.state_dict(), theirs.state_dict()
        assert found.keys() == expected.keys()
        assert found["n_averaged"] == expected["n_averaged"] == number + 1
        for name, value in floats(expected).items():
            assert torch.equal(found[name], value), name
        model = engine.model.state_dict()
        for name, value in engine.result.state_dict().items():
            assert value.is_floating_point() or torch.equal(value, model[name]), name
    assert number == 4


def test_a_state_of_torchs_own_goes_on(tiny):
    """As earlier versions saved it."""
    engine, batches = engine_and_batches(tiny, ema=0.8)
    theirs = AveragedModel(engine.model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)
    engine.step(next(batches), 0, 0.1, 64)
    theirs.update_parameters(engine.model)
    fresh = MovingAverage(engine.model, 0.8)
    fresh.load_state_dict(theirs.state_dict())
    engine.average = fresh
    engine.step(next(batches), 1, 0.1, 64)
    theirs.update_parameters(engine.model)
    for name, value in floats(theirs.state_dict()).items():
        assert torch.equal(fresh.state_dict()[name], value), name


@pytest.mark.parametrize("arch", ["resnet18", pytest.param("densenet121", marks=pytest.mark.slow)])
def test_a_step_has_one_operator_more_however_many_layers(tiny, arch):
    """None of them copies a counter to another device or looks at one: a step never waits."""
    calls = []
    for ema in (None, 0.9):
        engine, batches = engine_and_batches(tiny, arch=arch, ema=ema, defects="0.5-Bottom")
        first, second = next(batches), next(batches)
        engine.step(first, 0, 0.1, 64)
        with Operators() as operators:
            engine.step(second, 1, 0.1, 64)
        calls.append(operators.calls)
    assert calls[1] - calls[0] == {"_foreach_lerp_": 1} and not calls[0] - calls[1]
