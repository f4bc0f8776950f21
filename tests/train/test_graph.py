"""Training steps from a graph: what the host may not know, and that nothing else changes.

Without a GPU the graph is played by a function that repeats the captured step on the same tensors,
which is what a CUDA graph does on the device.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cut_runs import assert_same_weights
from engines import CPU, engine_of
from scotoma.defective import UserError
from scotoma.defective.graph import WARM_UP, GraphedStep
from scotoma.train import engine as engine_module
from scotoma.train.config import check_graph, graph_line
from scotoma.train.run import run_training
from scotoma.train.setup import as_saved, resolve
from torch.utils._python_dispatch import TorchDispatchMode


def repeat(work):
    """A capture for the CPU: the step runs again, on its own tensors, whenever it is replayed."""
    return work


@pytest.fixture
def graphs_on_cpu(monkeypatch):
    """``cuda_graph`` works on the CPU; returns the list of graphed steps."""
    made = []

    def graphed(step, device):
        made.append(GraphedStep(step, device, repeat))
        return made[-1]

    monkeypatch.setattr(engine_module, "check_graph", lambda *_: None)
    monkeypatch.setattr(engine_module, "GraphedStep", graphed)
    monkeypatch.setattr("scotoma.train.run.check_graph", lambda *_: None)
    return made


@pytest.mark.parametrize(
    "changes",
    [
        {"ema": 0.9, "clip_norm": 1.0, "nesterov": True, "label_smoothing": 0.1}
        | {"regularizer": "dropblock", "schedule": "step", "milestones": [1]},
        {"adversarial_eps": 0.03, "adversarial_steps": 1, "logit_pairing": 0.5, "thermometer": 4},
        *(
            pytest.param(changes, marks=pytest.mark.slow)
            for changes in (
                {},
                {"regularizer": "dropblock"},
                {"adversarial_eps": 0.03, "adversarial_steps": 2},
                {"schedule": "step", "milestones": [1], "defects": "0.5-Bottom"},
            )
        ),
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
def test_a_graphed_run_ends_with_the_same_weights(tiny, ran, graphs_on_cpu, changes):
    """Learning rates, random numbers, the short last batch and averaged weights included."""
    config = tiny(train_limit=200, test_limit=20, **changes)
    whole = ran(config)
    _, graphed = run_training(replace(config, cuda_graph=True))
    assert [graph._replay is not None for graph in graphs_on_cpu] == [True]
    plain, other = (
        torch.load(folder / "resume.pt", weights_only=True)["engine"]
        for folder in (whole, graphed.path)
    )
    assert other["model"]["stem.bn.num_batches_tracked"] == 2 * 4
    (group,) = other["optimizer"]["param_groups"]
    assert torch.is_tensor(group["lr"])  # a number would be that of the capture for good
    for key in ("model", "average"):
        assert (plain[key] is None) == (other[key] is None)
        for name, value in (plain[key] or {}).items():
            assert torch.equal(value, other[key][name]), name


def test_every_batch_is_worked_on_once():
    """Those before the capture as they are, the others from the graph."""
    total, seen, given = torch.zeros(()), [], []

    def step(images, labels):
        seen.append(images.data_ptr())
        return ((images.sum() + labels.sum()).clone(),)

    graphed = GraphedStep(step, CPU, repeat)
    for number in range(8):
        images, labels = torch.full((2, 3), float(number)), torch.tensor([number, 0])
        (result,) = graphed(images, labels)
        assert float(result) == 7 * number
        given.append((images, number))
        total += result
    assert float(total) == 7 * sum(range(8))
    assert all((images == number).all() for images, number in given), "a batch was overwritten"
    # From the capture on, always the same memory.
    assert len(seen) == 8 and len(set(seen[WARM_UP:])) == 1


@pytest.mark.usefixtures("graphs_on_cpu")
def test_a_run_goes_on_without_the_graph_that_it_began_with(tiny, ran, monkeypatch):
    """The weights do not depend on it, nor on the kernels; here, as it would be left by a GPU."""
    config = tiny(train_limit=200, test_limit=20)
    folder = ran(replace(config, cuda_graph=True), 7)
    settings = (folder / "config.yaml").read_text()
    assert "cuda_graph: true" in settings and "backend: auto" in settings
    (folder / "config.yaml").write_text(settings.replace("backend: auto", "backend: triton"))
    monkeypatch.setattr("scotoma.kernels.backends.device_refusal", lambda device: "no kernels here")
    run_training(config, folder)
    assert_same_weights(ran(config), folder)


@pytest.mark.parametrize(
    ("precision", "changes"),
    [
        ("bfloat16", {}),
        ("float16", {"adversarial_eps": 0.03, "clip_norm": 1.0}),
        *(
            pytest.param(precision, changes, marks=pytest.mark.slow)
            for precision in ("float32", "bfloat16", "float16")
            for changes in ({}, {"adversarial_eps": 0.03, "clip_norm": 1.0})
        ),
    ],
    ids=str,
)
def test_nothing_of_a_step_is_decided_by_the_host(tiny, precision, changes):
    """No value is looked at, which would be an error during a capture."""
    size = 16
    engine, batches = engine_of(tiny(precision=precision, train_limit=2 * size, **changes))
    engine.lr = torch.full((), 0.1)
    for group in engine.optimizer.param_groups:
        group["lr"], group["fused"] = engine.lr, True  # as on a GPU
    engine.optimizer._step_supports_amp_scaling = True
    first, second, *_ = batches.epoch(0, 0, size)
    engine._update(*first, size)  # what is done once
    with NothingIsLookedAt():
        loss, _ = engine._update(*second, size)
    with NothingIsLookedAt(), pytest.raises(AssertionError):
        loss.item()


class NothingIsLookedAt(TorchDispatchMode):
    """Operators whose result the host waits for are errors."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function._overloadpacket not in (
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.nonzero,
            torch.ops.aten.masked_select,
        ), function
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("changes", "device", "processes", "said", "fix"),
    [
        ({}, "cuda", 1, "each step is one CUDA graph", None),
        ({"compile": "default"}, "cuda", 1, "each step is one CUDA graph", None),
        ({"ema": 0.9, "regularizer": "dropblock", "adversarial_eps": 0.03}, "cuda", 1, "is", None),
        ({"cuda_graph": False}, "cuda", 1, "no CUDA graph: it is switched off", None),
        ({}, "cuda", 2, "no CUDA graph: it is for one process, and there are 2", "torchrun"),
        (
            {"compile": "reduce-overhead"},
            *("cuda", 1, "no CUDA graph: --compile reduce-overhead makes graphs"),
            "--compile default",
        ),
        ({"compile": "max-autotune"}, "cuda", 1, "--compile", "max-autotune-no-cudagraphs"),
        ({}, "cpu", 1, "", "NVIDIA GPU, and the device is cpu; leave it out"),
        ({}, "cpu", 2, "", "NVIDIA GPU"),
    ],
)
def test_a_graph_is_the_default_where_nothing_forbids_it(
    tiny, changes, device, processes, said, fix
):
    """And where something does, on a GPU, that is said, in a line that is empty on a CPU."""
    device = torch.device(device)
    config = resolve(tiny(precision="float32", **changes), device, processes)
    assert config.cuda_graph is (fix is None and changes.get("cuda_graph", True))
    check_graph(config, device, processes)
    line = graph_line(config, device, processes)
    assert said in line and bool(said) == bool(line)
    if fix is not None:
        with pytest.raises(UserError, match=f"--cuda-graph: .*{fix}"):
            check_graph(replace(config, cuda_graph=True), device, processes)


def test_a_graph_that_is_asked_for_is_no_wish(tiny, capsys):
    """An error before anything is made, also where the default would just do without."""
    config = tiny(cuda_graph=True, name="none")
    assert resolve(config, CPU).cuda_graph
    with pytest.raises(UserError, match="--cuda-graph: it needs an NVIDIA GPU"):
        run_training(config)
    assert not (Path(config.out) / "none").exists()
    # Without being asked, a CPU has none and does not speak of it.
    _, folder = run_training(replace(config, cuda_graph=None, epochs=1))
    assert "cuda_graph: false" in (folder.path / "config.yaml").read_text()
    assert "CUDA" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("saved", "device", "processes", "graph"),
    [
        (True, "cuda", 1, True),
        (True, "cuda", 2, False),
        (True, "cpu", 1, False),
        (False, "cuda", 1, False),  # as runs from before it was the default say
        (None, "cuda", 1, True),
        (None, "cuda", 4, False),
    ],
)
def test_a_run_goes_on_with_a_graph_if_it_had_one_and_can(tiny, saved, device, processes, graph):
    config = replace(tiny(), cuda_graph=saved)
    assert as_saved(config, torch.device(device), processes).cuda_graph is graph


def test_a_step_that_cannot_be_captured_is_said():
    def capture(work):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    graphed = GraphedStep(lambda images, labels: (images,), CPU, capture)
    batch = torch.ones(2), torch.ones(2)
    for _ in range(WARM_UP):
        graphed(*batch)
    with pytest.raises(UserError, match=r"not permitted.*--no-cuda-graph"):
        graphed(*batch)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema": 0.9, "clip_norm": 1.0},
        {"regularizer": "dropblock"},
        {"adversarial_eps": 0.03, "adversarial_steps": 2},
        {"compile": "default"},
        {"backend": "eager"},
    ],
    ids=str,
)
def test_a_cuda_graph_computes_the_same(tiny, precision, changes):
    """Bit for bit: the same kernels on the same numbers, chosen and launched once."""
    config = tiny(device="cuda", precision=precision, **changes)
    torch.backends.cudnn.benchmark = False  # two engines could choose differently
    torch.backends.cudnn.deterministic = True
    losses = []
    try:
        for graph in (False, True):
            engine, batches = engine_of(replace(config, cuda_graph=graph), torch.device("cuda", 0))
            seen = []
            for epoch in range(2):
                for number, batch in enumerate(batches.epoch(0, epoch, 64)):
                    size = len(batch[1])
                    loss, _ = engine.step(batch, 10 * epoch + number, 0.05 / (1 + number), size)
                    seen.append(loss.clone())
            losses.append(torch.stack(seen))
    finally:
        torch.backends.cudnn.deterministic = False
    assert torch.equal(losses[0], losses[1])
