"""Measured choices: which candidate wins, and what is remembered.

No GPU is needed: the clock, the device's name and the outputs are made up.
"""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from scotoma.kernels import autotune

GPU = torch.device("cuda", 0)
KEY = "float16 128x64x32x32 -> 64 3x3 stride 1 padding 1 evaluation relu"


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with a GPU that has measured nothing yet."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(autotune, "choices", {})


def candidates(calls=None, wrong=()):
    """Three ways to compute the same, but for the names in ``wrong``."""

    def way(name):
        def run():
            if calls is not None:
                calls.append(name)
            return torch.ones(4) + (1.0 if name in wrong else 0.0)

        return run

    return {name: way(name) for name in ("separate", "small", "large")}


def clock(monkeypatch, **milliseconds):
    """``time_on_gpu`` by the book: runs the candidate, and knows it by its order."""
    order = []

    def time(run):
        calls = order[:]
        run()
        return milliseconds[next(c for c in order[len(calls) :])]

    monkeypatch.setattr(autotune, "time_on_gpu", time)
    return order


def choose(monkeypatch, wrong=(), **milliseconds):
    calls = clock(monkeypatch, **milliseconds)
    with autotune.measure_convolutions():
        return autotune.choose(GPU, KEY, candidates(calls, wrong))


def test_the_fastest_is_chosen_and_remembered(monkeypatch):
    assert choose(monkeypatch, separate=1.0, small=0.5, large=0.7) == "small"
    calls = []
    assert autotune.choose(GPU, KEY, candidates(calls)) == "small"
    assert not calls  # remembered, so nothing is run
    assert autotune.choose(GPU, KEY + " mask", candidates(calls)) == "separate"
    assert not calls  # not measured, and nobody asked to


def test_each_gpu_has_choices_of_its_own(monkeypatch):
    choose(monkeypatch, separate=1.0, small=0.5, large=0.7)
    assert autotune.choose(torch.device("cuda", 1), KEY, candidates()) == "separate"


def test_it_is_measured_on_the_device_of_the_tensors(monkeypatch):
    current = []

    @contextmanager
    def device(chosen):
        current.append(chosen)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    seen = []
    monkeypatch.setattr(autotune, "time_on_gpu", lambda run: seen.append(current[-1]) or 1.0)
    with autotune.measure_convolutions():
        autotune.choose(torch.device("cuda", 3), KEY, candidates())
    assert set(seen) == {torch.device("cuda", 3)}


class Event:
    """Of a GPU that wakes after ``asleep`` cycles, while the host needs 3 million to queue."""

    asleep = 0

    def __init__(self, enable_timing):
        self.recorded = False

    def record(self):
        self.recorded = True

    def query(self):
        return Event.asleep < 3e6

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        assert self.recorded and end.recorded
        return 0.25


def test_the_sleep_is_longer_than_the_host_needs(monkeypatch):
    """If the GPU has begun before all is queued, the time is the host's: it is taken again."""
    slept, runs = [], []

    def sleep(cycles):
        slept.append(cycles)
        Event.asleep = cycles

    monkeypatch.setattr(torch.cuda, "_sleep", sleep, raising=False)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(autotune, "_cycles", 10**6)
    assert autotune.time_on_gpu(lambda: runs.append(1)) == 0.25
    assert slept == [10**6, 2 * 10**6, 4 * 10**6] and len(runs) == 3
    autotune.time_on_gpu(lambda: None)  # what was learnt holds
    assert slept[3:] == [4 * 10**6]


def test_noise_decides_nothing(monkeypatch):
    assert choose(monkeypatch, separate=1.0, small=0.98, large=0.99) == "separate"


def test_a_wrong_result_is_never_chosen(monkeypatch):
    with pytest.warns(UserWarning, match="small differs by 1 "):
        assert choose(monkeypatch, wrong={"small"}, separate=1, small=0.1, large=0.7) == "large"


def test_nan_is_a_wrong_result(monkeypatch):
    ways = candidates() | {"small": lambda: torch.full((4,), float("nan"))}
    with pytest.warns(UserWarning, match="differs by nan"):
        assert "small" not in autotune.agreeing(KEY, ways)


def test_nothing_is_measured_while_a_graph_is_captured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    calls = []
    with autotune.measure_convolutions():
        assert autotune.choose(GPU, KEY, candidates(calls)) == "separate"
    assert not calls


def test_a_cpu_has_no_choice():
    with autotune.measure_convolutions():
        assert autotune.choose(torch.device("cpu"), KEY, candidates()) == "separate"


def test_measuring_ends_with_its_block():
    assert not autotune.active()
    with autotune.measure_convolutions():
        assert autotune.active()
        with pytest.raises(KeyError), autotune.measure_convolutions():
            raise KeyError
        assert autotune.active()
    assert not autotune.active()


def test_measuring_takes_turns(monkeypatch):
    """So that a change of the clocks meets all candidates alike."""
    calls = clock(monkeypatch, separate=1, small=2, large=3)
    autotune.measure(candidates(calls), autotune.time_on_gpu)
    assert calls[:6] == ["separate", "small", "large"] * 2
    assert len(calls) == 3 * (autotune.WARM_UP + autotune.REPEATS)


def test_torch_compile_sees_no_choice(monkeypatch):
    """Inside a traced graph every call is separate; the guard is one constant."""
    torch.compiler.reset()
    monkeypatch.setattr(autotune, "_measuring", True)
    run = torch.compile(lambda x: x + autotune.active(), fullgraph=True, backend="eager")
    assert run(torch.zeros(())).item() == 0 and autotune.active()
