"""The learning rate as a function of the step."""

from dataclasses import replace

import pytest
from scotoma.train.config import learning_rate
from scotoma.train.plots import draw_curves
from scotoma.train.settings import parse

BASE = parse([])[0]


def rates(steps_per_epoch=10, **changes):
    config = replace(BASE, **changes)
    return [
        learning_rate(config, step, steps_per_epoch)
        for step in range(config.epochs * steps_per_epoch)
    ]


def test_steps_fall_after_completed_epochs():
    """Paper appendix D: epochs 0-149 at 0.1, 150-249 at 0.01, 250-349 at 0.001."""
    values = rates(2, schedule="step", epochs=350, lr=0.1, milestones=[150, 250])
    assert values[: 2 * 150] == [0.1] * 300
    assert values[2 * 150 : 2 * 250] == pytest.approx([0.01] * 200)
    assert values[2 * 250 :] == pytest.approx([0.001] * 200)


def test_one_cycle_rises_to_its_peak_and_falls_to_nearly_nothing():
    values = rates(schedule="one-cycle", epochs=10, lr=0.4, warmup=0.2)
    peak = values.index(max(values))
    assert peak in (19, 20)
    assert max(values) == pytest.approx(0.4, rel=0.05)
    assert values[:20] == sorted(values[:20])
    assert values[20:] == sorted(values[20:], reverse=True)
    assert 0 < values[0] < 0.02
    assert 0 < values[-1] < 0.01
    values = rates(schedule="one-cycle", epochs=3, warmup=0.0)
    assert values == sorted(values, reverse=True)


def test_cosine_is_half_way_down_in_the_middle_and_constant_is_constant():
    values = rates(schedule="cosine", epochs=10, lr=0.2)
    assert values[0] == 0.2
    assert values[50] == pytest.approx(0.1)
    assert values == sorted(values, reverse=True)
    assert set(rates(schedule="constant", lr=0.3)) == {0.3}


@pytest.mark.parametrize(("epochs", "steps"), [(3, 40), (1, 20), (300, 1000)])
def test_curves_show_the_rate_of_the_steps(epochs, steps):
    """Once, with the warm-up and the peak, of whatever part of the run is done."""
    config = replace(BASE, schedule="one-cycle", epochs=epochs, lr=0.4, warmup=0.2, width=8)
    record = {"train/acc1": 0.5, "test/acc1": 1.0, "train/loss": 1.0, "test/loss": 1.0}
    history = [record | {"epoch": number + 1} for number in range(epochs)]
    figure = draw_curves(history, config, steps, "sample")
    *others, axes = figure.axes
    (line,) = axes.lines
    x, y = line.get_data()
    assert all(
        y == learning_rate(config, round(steps * x - 0.5), steps) for x, y in zip(x, y, strict=True)
    )
    assert len(x) <= 2000 and 0 < x[0] < 0.5 and epochs - 0.5 < x[-1] < epochs
    rates = [learning_rate(config, step, steps) for step in range(epochs * steps)]
    assert max(y) == pytest.approx(max(rates), rel=0.01) and y[0] < max(y) > y[-1]
    assert others[0].get_ylim()[1] == 100  # of an accuracy, whose points are not cut in half there
    assert not others[0].lines[0].get_clip_on() and others[1].get_ylim()[1] > 1
    assert len(others) == 2 and "width 8" in figure.get_suptitle()
    assert len(draw_curves(history[:1], config, steps, "sample").axes[2].lines[0].get_data()[0])
