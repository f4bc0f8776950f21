"""Two processes with ``group=`` equal one process on the concatenated batch."""

import os

import pytest
import torch
import torch.distributed as dist
from forks import in_ranks
from scotoma.kernels import Projection, backends, bn_mask_add_relu

pytestmark = pytest.mark.skipif(
    not backends.interpreting(), reason="the processes run the kernels in Triton's interpreter"
)
SPLIT = (3, 1)  # images of each rank: unequal on purpose
SHAPE = (sum(SPLIT), 3, 4, 5)
MOMENTUM = 0.3


def problem(dtype):
    """The whole batch's tensors, from a fixed seed, so that every process makes the same."""
    generator = torch.Generator().manual_seed(0)
    vector = torch.float64 if dtype == torch.float64 else torch.float32

    def normal(*size, dtype=dtype):
        return torch.randn(size, dtype=torch.float64, generator=generator).to(dtype)

    # Images of different brightness, so that the ranks' own means differ much.
    lift = torch.tensor([0.0, 1.0, -2.0, 5.0], dtype=dtype).view(-1, 1, 1, 1)
    return {
        "x": normal(*SHAPE) + lift,
        "shortcut": normal(*SHAPE) * 2 - lift,
        "residual": normal(*SHAPE),
        "upstream": normal(*SHAPE),
        "vectors": [normal(3, dtype=vector) for _ in range(4)],
        "masks": [torch.rand(SHAPE[1:], generator=generator) < 0.5 for _ in range(2)],
    }


# One process has torch's batch norm, two have the synchronised sums: in float64 they differ by
# roundings. In bfloat16 the output is rounded several times (4 ulp of values up to 8), by the
# kernels in float16 as well.
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-4,
    torch.bfloat16: 4 * 2**-8 * 8,
    torch.float16: 4 * 2**-11 * 8,
}
DTYPES = {
    "eager": (torch.float64, torch.float32, torch.bfloat16),
    "triton": (torch.float32, torch.float16),
}
RUNS = [(backend, dtype) for backend, dtypes in DTYPES.items() for dtype in dtypes]


def run(values, images, projected, group, backend, momentum=MOMENTUM):
    """Outputs, gradients and running statistics for a slice of the batch."""
    x, shortcut, residual = (
        values[k][images].clone().requires_grad_() for k in ("x", "shortcut", "residual")
    )
    vectors = [v.clone().requires_grad_() for v in values["vectors"]]
    running = [f(3, dtype=vectors[0].dtype) for f in (torch.zeros, torch.ones) * 2]
    masks = values["masks"]
    addend = {"residual": residual}
    if projected:
        addend = {"projection": Projection(shortcut, *vectors[2:], *running[2:], masks[1])}
    out = bn_mask_add_relu(
        x,
        *vectors[:2],
        *running[:2],
        mask=masks[0],
        **addend,
        training=True,
        momentum=momentum,
        group=group,
        backend=backend,
    )
    leaves = [x, shortcut, *vectors] if projected else [x, residual, *vectors[:2]]
    gradients = torch.autograd.grad(out, leaves, values["upstream"][images])
    return {
        "out": out.detach(),
        "images": gradients[:2],
        "vectors": gradients[2:],
        "running": running if projected else running[:2],
    }


class Collectives:
    """Counts them, and the values that they carry."""

    def __init__(self):
        self.calls = []
        for name in ("all_gather_into_tensor", "all_reduce"):
            setattr(dist, name, self.counted(name, getattr(dist, name)))

    def counted(self, name, function):
        def call(first, *others, **options):
            self.calls.append((name, (others or (first,))[0].numel()))
            return function(first, *others, **options)

        return call


def work(folder):
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo")
    collectives = Collectives()
    start = sum(SPLIT[:rank])
    images = slice(start, start + SPLIT[rank])
    results = {}
    for backend, dtype in RUNS:
        for projected in (False, True):
            collectives.calls.clear()
            found = run(problem(dtype), images, projected, dist.group.WORLD, backend)
            results[backend, dtype, projected] = found | {"collectives": list(collectives.calls)}
    momentum = torch.tensor(MOMENTUM)
    results["momentum"] = run(
        problem(torch.float32), images, True, dist.group.WORLD, "triton", momentum
    )
    # Only the first rank has images; none has any; the kernels would meet an empty rank.
    images = slice(0, sum(SPLIT) * (1 - rank))
    values = problem(torch.float64)
    results["one empty"] = run(values, images, True, dist.group.WORLD, "eager")
    results["all empty"] = run(values, slice(0, 0), True, dist.group.WORLD, "eager")
    backends._default = "triton"
    try:
        run(problem(torch.float32), slice(0, 0), True, dist.group.WORLD, None)
    except ValueError as error:
        results["refused"] = str(error)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    for status, _, error in in_ranks(lambda: work(folder), folder):
        assert status == 0, error
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("projected", [False, True], ids=["residual", "projection"])
@pytest.mark.parametrize("backend, dtype", RUNS, ids=str)
def test_two_processes_equal_one(ranks, backend, dtype, projected):
    first, second = (results[backend, dtype, projected] for results in ranks)
    whole = run(problem(dtype), slice(None), projected, None, "eager")

    def close(found, expected):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE[dtype])

    close(torch.cat([first["out"], second["out"]]), whole["out"])
    for one, other, right in zip(first["images"], second["images"], whole["images"], strict=True):
        close(torch.cat([one, other]), right)
    # A parameter's gradient is the sum over ranks.
    for one, other, right in zip(
        first["vectors"], second["vectors"], whole["vectors"], strict=True
    ):
        close(one + other, right)
    for one, other, right in zip(
        first["running"], second["running"], whole["running"], strict=True
    ):
        assert torch.equal(one, other)
        close(one, right)


def test_ranks_would_differ_without_the_group(ranks):
    """The test above can fail: alone, a rank's output is far from the synchronised one."""
    alone = run(problem(torch.float64), slice(0, SPLIT[0]), False, None, "eager")
    together = ranks[0]["eager", torch.float64, False]
    assert (alone["out"] - together["out"]).abs().max() > 0.1
    assert (alone["running"][0] - together["running"][0]).abs().max() > 0.1


@pytest.mark.parametrize("projected", [False, True], ids=["residual", "projection"])
def test_the_kernels_use_one_collective_each_way(ranks, projected):
    """A count, means and M2s of all branches forward; the sums of all branches backward."""
    channels, branches = SHAPE[1], 2 if projected else 1
    for results in ranks:
        assert results["triton", torch.float32, projected]["collectives"] == [
            ("all_gather_into_tensor", 1 + 2 * branches * channels),
            ("all_reduce", 2 * branches * channels),
        ]


def test_momentum_as_a_tensor(ranks):
    for results in ranks:
        expected = results["triton", torch.float32, True]["running"]
        for one, other in zip(results["momentum"]["running"], expected, strict=True):
            torch.testing.assert_close(one, other, rtol=4 * 2**-23, atol=4 * 2**-23)


def test_a_rank_without_images(ranks):
    """It poisons nobody's statistics, and its backward pass meets the others' collectives."""
    whole = run(problem(torch.float64), slice(None), True, None, "eager")
    first, second = (results["one empty"] for results in ranks)
    assert second["out"].shape[0] == 0
    for key in ("images", "vectors", "running"):
        for one, other, right in zip(first[key], second[key], whole[key], strict=True):
            torch.testing.assert_close(one, right, rtol=0, atol=1e-12)
            assert not other.isnan().any()
            assert key != "running" or torch.equal(one, other)


def test_ranks_without_any_image(ranks):
    for results in ranks:
        assert [t.tolist() for t in results["all empty"]["running"]] == [[0.0] * 3, [1.0] * 3] * 2
        assert results["refused"].startswith("x [0, 3, 4, 5] is empty")
