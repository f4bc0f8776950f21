"""``scotoma bench step`` end to end on a CPU, and what its rows are made of."""

import copy
from argparse import Namespace
from dataclasses import replace

import pytest
import torch
from launches import launches
from scotoma.bench import harness, step, variants
from scotoma.bench.variants import ON_CPU, ON_GPU, VARIANTS, Case, NetworkRun, random_images
from scotoma.defective import UserError
from scotoma.defective.layers import MaskSite
from scotoma.kernels import backends
from torch.utils._python_dispatch import TorchDispatchMode

CPU = torch.device("cpu")
SMALL = ["--cpu", "--networks", "resnet18", "--width", "4", "--batch", "4", "--windows", "2"]
SMALL += ["--image-size", "16", "--window-seconds", "0.01", "--variants", "eager"]


def case(work, defects=("standard",), **changes):
    return Case("resnet18", defects, 4, work, "float32", width=4, **changes)


def network_run(name, work, defects="standard"):
    one = case(work)
    return NetworkRun(name, one, defects, random_images(one, CPU), CPU)


def test_command_leaves_rows_and_tables(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(variants, "PGD_STEPS", 2)
    out = tmp_path / "new" / "step.jsonl"
    assert step.main([*SMALL, "--out", str(out)]) == 0
    rows = list(harness.read_rows(out))
    assert [row["work"] for row in rows] == ["train"] * 2 + ["evaluate"] * 2 + ["pgd"] * 2
    assert [row["defects"] for row in rows] == ["standard", "0.3-Bottom"] * 3
    for row in rows:
        assert row["problems"] == [] and row["in_turns"]
        assert row["machine"]["kind"] == "cpu" and row["settings"]["contestants"] == ["eager"]
        times = row["times"]
        assert 0 < times["p10_us"] <= times["median_us"] <= times["p90_us"]
        expected = 4 / times["median_us"] * 1e6
        assert row["images_per_s"] == pytest.approx(expected, abs=0.06)
    for plain, masked in zip(rows[::2], rows[1::2], strict=True):
        assert plain["mask_overhead_percent"] is None
        ratio = masked["times"]["median_us"] / plain["times"]["median_us"]
        assert masked["mask_overhead_percent"] == pytest.approx(100 * (ratio - 1), abs=0.01)
    text = capsys.readouterr().out
    assert "train resnet18 width 4 16 px batch 4 float32" in text and "masks cost" in text

    # A second time, only what is missing.
    more = ["--resume", "--batch", "4", "5", "--work", "evaluate"]
    assert step.main([*SMALL, "--out", str(out), *more]) == 0
    assert list(harness.read_rows(out))[:6] == rows
    assert [row["batch_size"] for row in harness.read_rows(out)][6:] == [5, 5]


def test_a_backend_from_outside_is_refused(monkeypatch):
    """It would make eager and fused the same."""
    monkeypatch.setenv(backends.VARIABLE, "eager")
    with pytest.raises(UserError, match="unset it"):
        step.main(["--cpu", "--networks", "resnet18"])


def test_variants_run_what_they_say():
    """Each variant reaches the engine: backend of every layer, graph, precision, memory format."""
    assert set(ON_CPU) < set(VARIANTS) and set(ON_GPU) < set(VARIANTS)
    for name, one in VARIANTS.items():
        plain = one.released or one.contiguous
        half = replace(case("train"), dtype="bfloat16")
        config = variants.settings(name, half, "standard", torch.device("cuda"))
        found = config.compile, config.cuda_graph, config.backend, config.channels_last
        assert found == (one.compile, one.graph, one.backend, not plain)
        assert config.precision == ("float32" if plain else "bfloat16")
        # Evaluation and attacks have graphs of their own.
        other = variants.settings(name, case("pgd"), "standard", torch.device("cuda"))
        assert not other.cuda_graph and other.precision == "float32"
        assert name.startswith("fused") == (one.backend != "eager")
    eager = network_run("eager", "evaluate")
    assert {m.backend for m in eager.engine.model.modules() if isinstance(m, MaskSite)} == {"eager"}


def test_works():
    training = network_run("eager", "train", "0.5-Bottom")
    before = training.engine.model.head.weight.clone()
    first, second = training.warm_up(2)
    assert first != second and not torch.equal(before, training.engine.model.head.weight)

    evaluation = network_run("eager", "evaluate")
    before = copy.deepcopy(evaluation.engine.model.state_dict())
    assert evaluation.run().shape == ()
    for name, value in evaluation.engine.model.state_dict().items():
        assert torch.equal(before[name], value), name

    attack = network_run("eager", "pgd")
    model = attack.engine.model
    images, labels = next(attack.data.in_order(4))
    found = attack.run()
    assert 0 < (found - images).abs().max() <= variants.EPS + 1e-6
    # Nothing computes gradients that an attack does not need.
    assert not any(p.requires_grad for p in model.parameters())
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


@pytest.mark.parametrize("arch", ["resnet18", pytest.param("densenet121", marks=pytest.mark.slow)])
@pytest.mark.parametrize("work", ["evaluate", "pgd"])
def test_frozen_weights_are_cast_once(work, arch, monkeypatch):
    """Before the first step, and to what autocast makes of them in each."""
    one = replace(case(work, ("0.5-Bottom",)), arch=arch, dtype="bfloat16")
    images, found = random_images(one, CPU), []
    for cast in (variants.cast_for_good, lambda model, dtype: None):
        monkeypatch.setattr(variants, "cast_for_good", cast)
        player = NetworkRun("eager", one, "0.5-Bottom", images, CPU)
        with CastsOfWeights(player.engine.model) as casts:
            result, losses = player.run(), player.warm_up(2)
        found.append((result, losses, casts.count))
    assert torch.equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]
    assert found[0][2] == 0 and found[1][2] > 20


def test_images_of_the_reference_come_from_workers():
    released = network_run("reference", "train")
    images, labels = next(released._batches)
    assert images.shape == (4, 3, 32, 32) and images.is_contiguous() and labels.shape == (4,)
    assert 0 <= images.min() < 0.01 and 0.99 < images.max() <= 1
    loss = float(released.run())
    released.close()
    assert loss > 0


@pytest.mark.slow
@pytest.mark.skipif(not backends.interpreting(), reason="needs TRITON_INTERPRET=1")
def test_fused_variants_compute_what_eager_ones_do():
    one = Case("resnet18", ("0.5-Bottom",), 2, "train", "float32", width=2)
    data = random_images(one, CPU)
    found, counts = {}, {}
    for name in ("eager", "fused"):
        with launches() as launched:
            found[name] = NetworkRun(name, one, "0.5-Bottom", data, CPU).warm_up(1)
        counts[name] = launched.count("apply_backward")
    assert found["fused"] == pytest.approx(found["eager"], rel=1e-4)
    assert counts == {"eager": 0, "fused": 17}  # one for each end of a layer


@pytest.fixture
def two(monkeypatch):
    """Measures two variants that are the same, of which one may be replaced by another class."""
    monkeypatch.setitem(VARIANTS, "compile", VARIANTS["eager"])

    def measure(one, other=NetworkRun, names=("eager", "compile")):
        def make(name, *rest):
            return (other if name == "compile" else NetworkRun)(name, *rest)

        monkeypatch.setattr(step, "NetworkRun", make)
        options = Namespace(windows=1, window_seconds=1e-3)
        return step.measure(one, names, CPU, options)

    return measure


def test_a_wrong_variant_gets_no_times(two):
    """Losses are compared before anything is timed."""

    class Wrong(NetworkRun):
        def warm_up(self, steps):
            return [1.01 * loss for loss in super().warm_up(steps)]

    right, wrong = two(case("train"), Wrong)
    assert right["times"] and not right["problems"]
    assert wrong["times"] == {} and "losses differ" in wrong["problems"][0]


def test_a_variant_that_fails_stops_no_other(two):
    class Broken(NetworkRun):
        def run(self):
            raise RuntimeError("no such kernel")

    broken, right = two(case("evaluate"), Broken, ("compile", "eager"))
    assert broken["problems"] == ["RuntimeError: no such kernel"] and not broken["times"]
    assert right["times"]


@pytest.mark.parametrize("room", [0, 2])
def test_what_does_not_fit_together_is_measured_alone(two, monkeypatch, room):
    """Variants one after the other, each still with all its defects in turns."""
    alive = []
    real = NetworkRun.__init__

    def limited(self, *arguments):
        alive.append(self)
        if len(alive) > room:
            alive.clear()
            raise torch.OutOfMemoryError("CUDA out of memory")
        real(self, *arguments)

    monkeypatch.setattr(NetworkRun, "__init__", limited)
    monkeypatch.setattr(step, "_release", lambda device: alive.clear())
    rows = two(case("evaluate", ("standard", "0.5-Bottom")))
    assert len(rows) == 4
    if room:
        assert all(row["times"] and not row["in_turns"] for row in rows)
        assert rows[1]["mask_overhead_percent"] is not None
    else:
        assert all("out of memory" in row["problems"][0] for row in rows)


def test_slower_cases_are_listed():
    def slower(*medians):
        names = ("eager", "compile", "fused", "fused-graph", "fused-compile")
        rows = [
            {"case": "C", "defects": "D", "contestant": name, "times": time and {"median_us": time}}
            for name, time in zip(names, medians, strict=False)
        ]
        return harness.slower_cases(rows, "fused", "defects")

    assert slower(3.0, 2.0, 4.0, {}) == ["C D: compile is 2.00x as fast as fused"]
    assert slower(3.0, 2.0, 4.0, {}, 1.0) == slower(3.0, 2.0) == []
