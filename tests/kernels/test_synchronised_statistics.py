"""Two processes with ``group=`` equal one process on the concatenated batch.

The processes run this file as a script: the tests are no package that a child could import.
"""

import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from scotoma.kernels import Projection, bn_mask_add_relu

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


def run(values, images, projected, group):
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
        momentum=MOMENTUM,
        group=group,
    )
    leaves = [x, shortcut, *vectors] if projected else [x, residual, *vectors[:2]]
    gradients = torch.autograd.grad(out, leaves, values["upstream"][images])
    return {
        "out": out.detach(),
        "images": gradients[:2],
        "vectors": gradients[2:],
        "running": running if projected else running[:2],
    }


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    start = sum(SPLIT[:rank])
    images = slice(start, start + SPLIT[rank])
    results = {
        (dtype, projected): run(problem(dtype), images, projected, dist.group.WORLD)
        for dtype in TOLERANCE
        for projected in (False, True)
    }
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


# One process has torch's batch norm, two have the synchronised sums: in float64 they differ by
# roundings. In bfloat16 the output is rounded several times (4 ulp of values up to 8).
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 4 * 2**-8 * 8}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    commands = [[sys.executable, __file__, str(rank), str(folder)] for rank in (0, 1)]
    processes = [subprocess.Popen(command) for command in commands]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("projected", [False, True], ids=["residual", "projection"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_two_processes_equal_one(ranks, dtype, projected):
    first, second = (results[dtype, projected] for results in ranks)
    whole = run(problem(dtype), slice(None), projected, None)

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
    alone = run(problem(torch.float64), slice(0, SPLIT[0]), False, None)
    together = ranks[0][torch.float64, False]
    assert (alone["out"] - together["out"]).abs().max() > 0.1
    assert (alone["running"][0] - together["running"][0]).abs().max() > 0.1


if __name__ == "__main__":
    worker(int(sys.argv[1]), sys.argv[2])
