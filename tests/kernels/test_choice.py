"""Measured choices: which candidate wins, what is remembered, and what a broken file does.

No GPU is needed: the clock, the device's name and the outputs are made up.
"""

import json
import subprocess
import sys

import pytest
import torch
from scotoma.kernels import choice

GPU = torch.device("cuda", 0)
KEY = "float16 128x64x32x32 -> 64 3x3 stride 1 padding 1 evaluation relu"


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A machine with a GPU that has measured nothing yet."""
    monkeypatch.setenv(choice.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA H100 80GB HBM3 / x")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(choice, "_files", {})
    choice.cache_file.cache_clear()
    yield
    choice.cache_file.cache_clear()


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

    monkeypatch.setattr(choice, "time_on_gpu", time)
    return order


def choose(monkeypatch, wrong=(), **milliseconds):
    calls = clock(monkeypatch, **milliseconds)
    with choice.measure_convolutions():
        return choice.choose(GPU, KEY, candidates(calls, wrong))


def test_the_fastest_is_chosen_and_remembered(monkeypatch):
    assert choose(monkeypatch, separate=1.0, small=0.5, large=0.7) == "small"
    calls = []
    assert choice.choose(GPU, KEY, candidates(calls)) == "small"
    assert not calls  # remembered, so nothing is run
    assert choice.choose(GPU, KEY + " mask", candidates(calls)) == "separate"
    assert not calls  # not measured, and nobody asked to


def test_a_new_process_reads_it_from_disk(monkeypatch):
    choose(monkeypatch, separate=1.0, small=0.5, large=0.7)
    monkeypatch.setattr(choice, "_files", {})
    assert choice.choose(GPU, KEY, candidates()) == "small"
    (file,) = choice.cache_folder().iterdir()
    name = file.name
    assert "H100" in name and torch.__version__ in name and choice._source_hash() in name
    assert json.loads(file.read_text())[KEY]["milliseconds"] == {
        "separate": 1.0, "small": 0.5, "large": 0.7,
    }  # fmt: skip


def test_noise_decides_nothing(monkeypatch):
    assert choose(monkeypatch, separate=1.0, small=0.98, large=0.99) == "separate"


def test_a_wrong_result_is_never_chosen(monkeypatch):
    with pytest.warns(UserWarning, match="small differs by 1 "):
        assert choose(monkeypatch, wrong={"small"}, separate=1, small=0.1, large=0.7) == "large"


def test_nan_is_a_wrong_result(monkeypatch):
    ways = candidates() | {"small": lambda: torch.full((4,), float("nan"))}
    with pytest.warns(UserWarning, match="differs by nan"):
        assert "small" not in choice.agreeing(KEY, ways)


def test_nothing_is_measured_while_a_graph_is_captured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    calls = []
    with choice.measure_convolutions():
        assert choice.choose(GPU, KEY, candidates(calls)) == "separate"
    assert not calls


def test_a_cpu_has_no_choice():
    with choice.measure_convolutions():
        assert choice.choose(torch.device("cpu"), KEY, candidates()) == "separate"


def test_measuring_ends_with_its_block():
    assert not choice.active()
    with choice.measure_convolutions():
        assert choice.active()
        with pytest.raises(KeyError), choice.measure_convolutions():
            raise KeyError
        assert choice.active()
    assert not choice.active()


def test_measuring_takes_turns(monkeypatch):
    """So that a change of the clocks meets all candidates alike."""
    calls = clock(monkeypatch, separate=1, small=2, large=3)
    choice.measure(candidates(calls), choice.time_on_gpu)
    assert calls[:6] == ["separate", "small", "large"] * 2
    assert len(calls) == 3 * (choice.WARM_UP + choice.REPEATS)


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", json.dumps({KEY: "small"}), json.dumps({KEY: {"choice": 3}})]
)
@pytest.mark.filterwarnings("ignore:.*is unreadable")
def test_a_broken_file_is_no_choice(content):
    path = choice.cache_file(0)
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert choice.choose(GPU, KEY, candidates()) == "separate"


def test_an_unknown_name_in_the_file_is_no_choice():
    choice.save(choice.cache_file(0), {KEY: {"choice": "of another version"}})
    assert choice.choose(GPU, KEY, candidates()) == "separate"


def test_saving_keeps_what_another_process_wrote(tmp_path):
    path = tmp_path / "deep" / "file.json"
    choice.save(path, {"a": {"choice": "x"}})
    choice.save(path, {"b": {"choice": "y"}})
    assert set(json.loads(path.read_text())) == {"a", "b"}
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]  # no temporary file stays


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(choice.VARIABLE, str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="this process only|is unreadable"):
        assert choose(monkeypatch, separate=1.0, small=0.5, large=0.7) == "small"
    assert choice.choose(GPU, KEY, candidates()) == "small"


def test_the_name_changes_with_the_kernels(monkeypatch):
    before = choice.cache_file(0)
    monkeypatch.setattr(choice, "_source_hash", lambda: "another")
    choice.cache_file.cache_clear()
    assert choice.cache_file(0) != before


def test_torch_compile_sees_no_choice():
    """Inside a traced graph every call is separate; the guard is one constant."""
    code = (
        "import torch\n"
        "from scotoma.kernels import choice\n"
        "choice._measuring = True\n"
        "f = torch.compile(lambda x: x + choice.active(), fullgraph=True, backend='eager')\n"
        "print(f(torch.zeros(())).item(), choice.active())\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.split() == ["0.0", "True"], result.stderr
