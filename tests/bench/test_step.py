"""``scotoma bench step`` end to end on a CPU, and what its rows are made of."""

from dataclasses import replace

import pytest
import torch
from launches import launches
from scotoma.bench import harness
from scotoma.bench.step import command, measure, players, table
from scotoma.bench.step.case import Case
from scotoma.bench.step.ways import ON_CPU, ON_GPU, WAYS
from scotoma.defective import UserError
from scotoma.defective.layers import MaskSite
from scotoma.kernels import backends
from torch.utils._python_dispatch import TorchDispatchMode

CPU = torch.device("cpu")
SMALL = ["--cpu", "--networks", "resnet18", "--width", "4", "--batch", "4", "--windows", "2"]
SMALL += ["--window-seconds", "0.01", "--contestants", "eager"]


def case(work, defects=("standard",), **changes):
    return Case("resnet18", defects, 4, work, "float32", width=4, **changes)


def player(name, work, defects="standard"):
    one = case(work)
    return players.Player(name, one, defects, players.random_images(one, CPU), CPU)


def test_command_leaves_rows_and_tables(tmp_path, capsys):
    out = tmp_path / "new" / "step.jsonl"
    assert command.main([*SMALL, "--out", str(out)]) == 0
    rows = list(harness.read_rows(out))
    assert [row["work"] for row in rows] == ["train"] * 2 + ["evaluate"] * 2 + ["pgd"] * 2
    assert [row["defects"] for row in rows] == ["standard", "0.3-Bottom"] * 3
    for row in rows:
        assert row["problems"] == [] and row["in_turns"]
        assert row["machine"]["kind"] == "cpu" and row["settings"]["contestants"] == ["eager"]
        times = row["times"]
        assert 0 < times["p10_us"] <= times["median_us"] <= times["p90_us"]
        expected = 4 / times["median_us"] * 1e6
        assert row["images_per_s"] == pytest.approx(expected, rel=1e-3)
    for plain, masked in zip(rows[::2], rows[1::2], strict=True):
        assert plain["mask_overhead_percent"] is None
        ratio = masked["times"]["median_us"] / plain["times"]["median_us"]
        assert masked["mask_overhead_percent"] == pytest.approx(100 * (ratio - 1), abs=0.01)
    text = capsys.readouterr().out
    assert "train resnet18 width 4 batch 4 float32" in text and "masks cost" in text

    # A second time, only what is missing.
    assert command.main([*SMALL, "--out", str(out), "--resume", "--batch", "4", "5"]) == 0
    cases = [row["case"] for row in harness.read_rows(out)]
    assert len(cases) == 12 and len(set(cases)) == 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--networks", "resnet19"], ["networks", "resnet19", "resnet18"]),
        (["--contestants", "egaer"], ["contestants", "egaer", "eager"]),
        (["--contestants", "eager-graph"], ["eager-graph", "GPU", "leave it out"]),
        (["--work", "trian"], ["work", "trian", "train"]),
        (["--defects", "0.3-Buttom"], ["0.3-Buttom"]),
        (["--defects", "0.3-Bottomx2", "--networks", "vgg19"], ["vgg19"]),
        (["--window-seconds", "0"], ["window-seconds", "0.0"]),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(UserError) as error:
        command.main(["--cpu", *options])
    assert all(word in str(error.value) for word in words)


def test_a_file_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "measure_case", lambda *_: pytest.fail("measured"))
    (tmp_path / "file").touch()
    for out in (tmp_path, tmp_path / "file" / "step.jsonl"):
        with pytest.raises(UserError, match="cannot be written"):
            command.main([*SMALL, "--out", str(out)])
    # Asking leaves nothing behind.
    harness.check_writable(tmp_path / "new.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_backend_from_outside_is_refused(monkeypatch):
    """It would make eager and fused the same."""
    monkeypatch.setenv(backends.VARIABLE, "eager")
    with pytest.raises(UserError, match="unset it"):
        command.main(["--cpu"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu_is_said():
    with pytest.raises(UserError, match="--cpu"):
        command.main([])


def test_contestants_run_what_they_say():
    """Each way reaches the engine: backend of every layer, graph, precision, memory format."""
    assert set(ON_CPU) < set(WAYS) and set(ON_GPU) < set(WAYS)
    for name, way in WAYS.items():
        config = players.settings(name, case("train"), "standard", torch.device("cuda"))
        assert (config.compile, config.cuda_graph, config.backend) == (
            way.compile,
            way.graph,
            way.backend,
        )
        plain = way.released or way.contiguous
        assert config.precision == "float32" and config.channels_last != plain
        half = players.settings(name, replace(case("train"), dtype="bfloat16"), "standard", CPU)
        assert half.precision == ("float32" if plain else "bfloat16")
        # Evaluation and attacks have graphs of their own.
        other = players.settings(name, case("pgd"), "standard", torch.device("cuda"))
        assert not other.cuda_graph
        assert name.startswith("fused") == (way.backend != "eager")
    eager = player("eager", "evaluate")
    assert {m.backend for m in eager.engine.model.modules() if isinstance(m, MaskSite)} == {"eager"}


def test_works():
    training = player("eager", "train", "0.5-Bottom")
    before = training.engine.model.head.weight.clone()
    first, second = training.warm_up(2)
    assert first != second and not torch.equal(before, training.engine.model.head.weight)

    evaluation = player("eager", "evaluate")
    before = evaluation.engine.model.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    loss = evaluation.run()
    assert loss.shape == ()
    for name, value in evaluation.engine.model.state_dict().items():
        assert torch.equal(before[name], value), name

    attack = player("eager", "pgd")
    images, labels = next(attack.data.in_order(4))
    found = attack.run()
    assert 0 < (found - images).abs().max() <= players.EPS + 1e-6
    # Nothing computes gradients that an attack does not need.
    assert not any(p.requires_grad for p in attack.engine.model.parameters())
    model = attack.engine.model
    rises = [torch.nn.functional.cross_entropy(model(x), labels) for x in (images, found)]
    assert rises[1] > rises[0]


class CastsOfWeights(TorchDispatchMode):
    """Counts the casts of a model's weights, views of them included."""

    def __init__(self, model):
        super().__init__()
        self.weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[-1] if function is torch.ops.aten.copy_.default else args[0]
            self.count += source.untyped_storage().data_ptr() in self.weights
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("arch", ["resnet18", "densenet121"])
@pytest.mark.parametrize("work", ["evaluate", "pgd"])
def test_frozen_weights_are_cast_once(work, arch, monkeypatch):
    """Before the first step, and to what autocast makes of them in each."""
    one = replace(case(work, ("0.5-Bottom",)), arch=arch, dtype="bfloat16")
    images, found = players.random_images(one, CPU), []
    for cast in (players.cast_for_good, lambda model, dtype: None):
        monkeypatch.setattr(players, "cast_for_good", cast)
        player = players.Player("eager", one, "0.5-Bottom", images, CPU)
        with CastsOfWeights(player.engine.model) as casts:
            result, losses = player.run(), player.warm_up(2)
        found.append((result, losses, casts.count))
    assert torch.equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]
    assert found[0][2] == 0 and found[1][2] > 20


def test_images_of_the_reference_come_from_workers():
    released = player("reference", "train")
    images, labels = next(released._batches)
    assert images.shape == (4, 3, 32, 32) and images.is_contiguous() and labels.shape == (4,)
    assert 0 <= images.min() < 0.01 and 0.99 < images.max() <= 1
    loss = float(released.run())
    released.close()
    assert loss > 0


@pytest.mark.skipif(not backends.interpreting(), reason="needs TRITON_INTERPRET=1")
def test_fused_contestants_compute_what_eager_ones_do():
    one = Case("resnet18", ("0.5-Bottom",), 2, "train", "float32", width=2)
    data = players.random_images(one, CPU)
    found, counts = {}, {}
    for name in ("eager", "fused"):
        with launches() as launched:
            found[name] = players.Player(name, one, "0.5-Bottom", data, CPU).warm_up(1)
        counts[name] = launched.count("apply_backward")
    assert found["fused"] == pytest.approx(found["eager"], rel=1e-4)
    assert counts == {"eager": 0, "fused": 17}  # one for each end of a layer


def test_a_wrong_contestant_gets_no_times(monkeypatch):
    """Losses are compared before anything is timed."""
    real = players.Player.warm_up

    def warm_up(self, steps):
        factor = 1.01 if self.name == "compile" else 1.0
        return [factor * loss for loss in real(self, steps)]

    monkeypatch.setattr(measure.Player, "warm_up", warm_up)
    monkeypatch.setitem(WAYS, "compile", WAYS["eager"])
    plan = measure.Plan(("eager", "compile"), CPU, windows=1, window_seconds=1e-3)
    right, wrong = measure.measure_case(case("train"), plan)
    assert right["times"] and not right["problems"]
    assert wrong["times"] == {} and "losses differ" in wrong["problems"][0]


def test_a_contestant_that_fails_stops_no_other(monkeypatch):
    def run(self):
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(WAYS, "compile", WAYS["eager"])
    real = measure.Player
    monkeypatch.setattr(
        measure,
        "Player",
        lambda name, *rest: (
            type("Broken", (real,), {"run": run})(name, *rest)
            if name == "compile"
            else real(name, *rest)
        ),
    )
    plan = measure.Plan(("compile", "eager"), CPU, windows=1, window_seconds=1e-3)
    broken, right = measure.measure_case(case("evaluate"), plan)
    assert broken["problems"] == ["RuntimeError: no such kernel"] and not broken["times"]
    assert right["times"]


@pytest.mark.parametrize("room", [0, 2])
def test_what_does_not_fit_together_is_measured_alone(monkeypatch, room):
    """Contestants one after the other, each still with its variants in turns."""
    real, alive = measure.Player, []

    def limited(*arguments):
        alive.append(arguments[0])
        if len(alive) > room:
            alive.clear()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*arguments)

    def release(device):
        alive.clear()

    monkeypatch.setattr(measure, "Player", limited)
    monkeypatch.setattr(measure, "_release", release)
    monkeypatch.setitem(WAYS, "compile", WAYS["eager"])
    plan = measure.Plan(("eager", "compile"), CPU, windows=1, window_seconds=1e-3)
    rows = measure.measure_case(case("evaluate", ("standard", "0.5-Bottom")), plan)
    assert len(rows) == 4
    if room:
        assert all(row["times"] and not row["in_turns"] for row in rows)
        assert rows[1]["mask_overhead_percent"] is not None
    else:
        assert all("out of memory" in row["problems"][0] for row in rows)


def test_losses_are_listed():
    def row(name, median, defects="standard"):
        times = {} if median is None else {"median_us": median}
        return {"case": "C", "defects": defects, "contestant": name, "times": times, "problems": []}

    rows = [row("eager", 3.0), row("compile", 2.0), row("fused", 4.0), row("fused-graph", None)]
    assert table.losses(rows) == ["C standard: compile is 2.00x as fast as fused"]
    assert table.losses([*rows, row("fused-compile", 1.0)]) == []
    assert table.losses(rows[:2]) == []
