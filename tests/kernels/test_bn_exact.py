"""The exact regime: every number is a small multiple of a power of two, so nothing is rounded.

Then no tolerance is needed: output, gradients and running statistics of every backend are bit for
bit those of the float64 formula. A wrong sign, index, count or factor cannot hide here.
"""

import pytest
import torch
from bn_cases import Case
from bn_formula import formula, running_formula
from layouts import DENSE, laid_out, mask_laid_out
from products import pairwise
from targets import everywhere, on_triton
from tilings import SIZES

ADDENDS = ("none", "residual", "projection")
RELU = pytest.mark.parametrize("relu", [True, False], ids=["relu", "no relu"])
WAYS = DENSE, ADDENDS, [True, False]
IDS = str, None, None, lambda relu: "relu" if relu else "no relu"
EPS = 3.0  # added to a variance of 1 or 13


def integers(low, high, size, generator):
    return torch.randint(low, high + 1, size, generator=generator).double()


def balanced(shape, generator):
    """Integers [N,C,H,W] with an integer batch mean and a batch variance of 1 or 13.

    With ``EPS`` that is 4 or 16, whose square root is exact. Rows must be a power of two, so that
    dividing by their number is exact as well.
    """
    n, channels, height, width = shape
    rows = n * height * width
    assert rows >= 4 and rows & (rows - 1) == 0
    patterns = [torch.tensor(p).double() for p in ([1, -1, 1, -1], [1, -1, 5, -5])]
    columns = []
    for c in range(channels):
        values = patterns[c % 2].repeat(rows // 4)[torch.randperm(rows, generator=generator)]
        columns.append(values + integers(-3, 3, (1,), generator))
    return torch.stack(columns).view(channels, n, height, width).transpose(0, 1)


def exact_case(target, shape, dtype, layouts, addend, relu, training, tiles="real"):
    """A call whose every intermediate value is exact in float32."""
    generator = torch.Generator().manual_seed(sum(shape) + 7 * training)
    channels, (layout, mask_layout) = shape[1], layouts
    vector = torch.float64 if dtype == torch.float64 else torch.float32

    def branch():
        values = balanced(shape, generator) if training else integers(-8, 8, shape, generator)
        vectors = [
            integers(-1, 1, (channels,), generator) * 2 + 1,  # -1, 1 or 3
            integers(-4, 4, (channels,), generator),
            integers(-3, 3, (channels,), generator),
            4.0 ** integers(1, 3, (channels,), generator) - EPS,
        ]
        mask = torch.rand(shape[1:], generator=generator) < 0.5
        return (
            laid_out(values, layout, dtype, target.device),
            *(v.to(target.device, vector) for v in vectors),
            mask_laid_out(mask.to(target.device), mask_layout),
        )

    main, other = branch(), branch()
    return Case(
        main=main,
        residual=other[0] if addend == "residual" else None,
        projection=other if addend == "projection" else None,
        relu=relu,
        training=training,
        momentum=0.5,
        eps=EPS,
        upstream=laid_out(integers(-4, 4, shape, generator), layout, dtype, target.device),
        upstream_layout=layout,
        backend=target.backend,
        tiling=tiles,
    )


def check(case):
    """Bit for bit the formula's result, rounded once where the dtype is too narrow for it."""
    expected, _, leaves = formula(case)
    expected_grads = torch.autograd.grad(expected, leaves, case.upstream.double())
    expected_running = [right[:2] for right in running_formula(case)]
    out, grads = case.gradients()
    assert torch.equal(out, expected.to(out.dtype))
    for value, right in zip(grads, expected_grads, strict=True):
        assert torch.equal(value, right.to(value.dtype))
    for branch, (mean, variance) in zip(case.branches(), expected_running, strict=True):
        assert torch.equal(branch[3], mean.to(branch[3].dtype))
        # The unbiased variance is a quotient: rounded, and rounded again with its factor and sum.
        torch.testing.assert_close(branch[4].double(), variance, rtol=4 * 2**-23, atol=0)


def exact_dtypes(target):
    """Eager half precision rounds between its operations."""
    return [d for d in target.dtypes if target.backend == "triton" or d.itemsize >= 4]


@everywhere
# 70 rows of 12 channels end inside a tile, inside a byte of bits and inside a channel block.
@pairwise("shape, layout, addend, relu", [(2, 12, 5, 7), (1, 3, 1, 2)], *WAYS, ids=IDS)
def test_evaluation(target, shape, layout, addend, relu):
    for dtype, mask_layout in zip(exact_dtypes(target), [*DENSE, "sliced"], strict=False):
        check(exact_case(target, shape, dtype, (layout, mask_layout), addend, relu, False))


@everywhere
@pairwise("shape, layout, addend, relu", [(2, 12, 4, 4), (1, 67, 2, 4)], *WAYS, ids=IDS)
def test_training(target, shape, layout, addend, relu):
    for dtype in exact_dtypes(target):
        check(exact_case(target, shape, dtype, (layout, layout), addend, relu, True))


@on_triton
@pytest.mark.parametrize(
    "tiles, layout",
    [
        pytest.param(tiles, layout, marks=[] if (one + other) % 2 else pytest.mark.slow)
        for one, tiles in enumerate(SIZES)
        for other, layout in enumerate(DENSE)
    ],
)
def test_every_tiling_is_exact(target, tiles, layout):
    """Many chunks, many tiles in a chunk, 64-bit rows: the sums are the same."""
    for dtype, addend in ((torch.float32, "projection"), (torch.float16, "residual")):
        check(exact_case(target, (2, 20, 4, 8), dtype, (layout, layout), addend, True, True, tiles))


@on_triton
@RELU
def test_bits_of_relu(target, relu):
    """The saved bits alone: output, residual gradient and recomputed sign agree everywhere."""
    case = exact_case(target, (2, 19, 3, 5), torch.float32, ("channels_last",) * 2, "residual",
                      relu, False)  # fmt: skip
    _, total, _ = formula(case)
    case.wanted = [False] * (len(case.inputs()) - 1) + [True]
    _, (grad,) = case.gradients()
    passes = total > 0 if relu else torch.ones_like(total, dtype=torch.bool)
    assert passes.sum() > 0 and (not relu or (total == 0).any())  # the corner itself occurs
    assert torch.equal(grad, torch.where(passes, case.upstream, 0.0))
