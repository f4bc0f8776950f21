"""How exact the batch statistics are: the property for which the kernels centre their chunks.

Read off the running statistics with momentum 1. The reference is float64, of the very values that
the operator was given.
"""

import pytest
import torch
from layouts import DENSE, laid_out
from products import pairwise, slow
from scotoma.kernels import Projection, bn_mask_add_relu
from targets import EAGER, everywhere, on_triton
from tilings import tiling

FLOAT32 = torch.finfo(torch.float32).eps
# The design's bound; E[x^2] - E[x]^2 in float32 is 5 % off at mean/std = 1e3.
VARIANCE = 1e-5
SHAPE = (8, 3, 8, 10)


def measured(target, x):
    """Mean and unbiased variance, in the float32 that normalises."""
    mean, variance = (torch.zeros(x.shape[1], device=x.device) for _ in range(2))
    bn_mask_add_relu(
        x, None, None, mean, variance, training=True, momentum=1.0, backend=target.backend
    )
    return mean.double(), variance.double()


def check(target, x, bound=VARIANCE):
    mean, variance = measured(target, x)
    exact_mean = x.double().mean((0, 2, 3))
    exact = x.double().var((0, 2, 3))
    assert ((variance - exact).abs() <= bound * exact).all(), (variance - exact) / exact
    # The result is rounded once, and the sums of deviations 32 times. float16 or bfloat16 rounding
    # on the way would be 2^13 times as much.
    error = (mean - exact_mean).abs()
    assert (error <= FLOAT32 * exact_mean.abs() + 32 * FLOAT32 * exact.sqrt()).all(), error


def noise(seed=0, shape=SHAPE):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def spread_out(kind):
    """Inputs on which a careless algorithm loses digits; all have std near 1 or above."""
    x = noise()
    if kind.startswith("mean "):
        return x + float(kind.split()[1])
    if kind == "images differ in brightness":
        return x + 1000 + 50 * torch.arange(8).view(-1, 1, 1, 1)
    if kind == "first rows are outliers":  # what chunks are centred on
        x[0, :, :2] += 1000
        return x
    if kind == "one hot value":
        x[3, 1, 4, 4] = 1e4
        return x
    if kind == "a dead channel beside":
        x[:, 1] = 3.0 + 1e-3 * x[:, 1]
        return x
    raise ValueError(kind)


KINDS = [
    *("mean 0", "mean -1000", "images differ in brightness"),
    *("first rows are outliers", "one hot value", "a dead channel beside"),
]


@everywhere
@pairwise("kind, layout, tiles", KINDS, DENSE, ["real", "long chunks", "many chunks"])
def test_variance(target, kind, layout, tiles):
    with tiling(tiles):
        check(target, laid_out(spread_out(kind), layout, torch.float32, target.device))


@pairwise("dtype, layout", [torch.float32, torch.bfloat16, torch.float16], DENSE)
def test_large_batches_of_the_eager_definition(dtype, layout):
    """A CPU's batch norm adds up one value after the other: 27-fold at a mean of 1000."""
    rounding = torch.finfo(dtype).eps
    for mean in (0.0, 100.0, 1000.0):
        x = laid_out(noise(shape=(64, 2, 40, 40)) + mean, layout, dtype).requires_grad_()
        check(EAGER, x.detach())
        weight = torch.tensor([0.5, 2.0], requires_grad=True)
        wide = [tensor.detach().double().requires_grad_() for tensor in (x, weight)]
        upstream = laid_out(noise(1, x.shape), layout, dtype)
        expected = torch.nn.functional.batch_norm(wide[0], None, None, wide[1], training=True)
        out = bn_mask_add_relu(x, weight, None, None, None, training=True, relu=False)
        assert out.dtype == dtype
        bound = 4 * FLOAT32 * (1 + mean) + 4 * rounding
        assert ((out - expected).abs() <= bound * (1 + expected.abs())).all()
        gradients = torch.autograd.grad(out, (x, weight), upstream)
        exact = torch.autograd.grad(expected, wide, upstream.double())
        for got, right, bound in zip(gradients, exact, (4 * rounding, 2e-4), strict=True):
            assert (got - right).norm() <= bound * right.norm()


@on_triton
def test_chunk_of_many_tiles(target):
    """A chunk whose first tile is all outliers: its centre is 1000 std off for all that follow.

    The sum of squares then exceeds M2 by the number of tiles in a chunk, here 64 (as many as a
    real chunk has at 2^20 rows of 64 channels), and so do its roundings: 4 of each tile's share.
    """
    x = noise(shape=(4, 2, 16, 16))
    x[0, :, :1] += 1000
    with tiling("one chunk"):
        x = laid_out(x, "channels_last", torch.float32, target.device)
        check(target, x, bound=64 * 4 * FLOAT32)


@everywhere
def test_half_precision_keeps_float32_statistics(target):
    """Peer bug 4 (FlagGems): statistics saved in the activations' dtype."""
    for dtype in (torch.float16, target.half):
        x = (noise() * 3 + 7).to(target.device, dtype)
        check(target, x)


@everywhere
def test_equal_and_few_values(target):
    """No variance, not a tiny one, nor a negative one: then 1/sqrt(eps) would be another number.
    Two are the fewest values that have one."""
    for value in (0.0, 3.0, -1e4):
        mean, variance = measured(target, torch.full(SHAPE, value, device=target.device))
        assert (mean == value).all() and (variance == 0).all()
    for values in ([1.0, 2.0], [-1e3, 1e3], [5.0, 5.0]):
        x = torch.tensor(values, device=target.device).view(2, 1, 1, 1)
        mean, variance = measured(target, x)
        assert mean.item() == sum(values) / 2
        assert variance.item() == (values[0] - values[1]) ** 2 / 2


@on_triton
@pytest.mark.parametrize(
    "rows, layout",
    [
        (77, "contiguous"),
        (640, "channels_last"),
        slow(77, "channels_last"),
        slow(640, "contiguous"),
    ],
)
def test_equal_values_that_no_sum_holds_exactly(target, layout, rows):
    """Sums of 0.1 round; the mean of equal values is theirs all the same, and no variance is
    negative, since its root is taken."""
    values = noise(1, (1, 16, 1, 1)).float().expand(1, 16, rows, 1)
    x = laid_out(values, layout, torch.float32, target.device)
    for tiles in ("real", "many chunks"):
        with tiling(tiles):
            mean, variance = measured(target, x)
        exact = x[0, :, 0, 0].double()
        assert torch.equal(mean, exact)
        assert ((variance >= 0) & (variance <= (FLOAT32 * exact) ** 2)).all()


@everywhere
@pytest.mark.parametrize("rows", [255, 256, 257, 511, 513, 700])
def test_rows_around_blocks(target, rows):
    """Peer bug 1 (FlagGems): one count for all lanes, though the last tile fills only some.

    There the variance was 0.5 % to 5 % off.
    """
    x = noise(rows, (1, 8, rows, 1)) + torch.linspace(0, 2, rows).view(1, 1, -1, 1)
    for layout in DENSE:
        check(target, laid_out(x, layout, torch.float32, target.device))


@everywhere
def test_nan_stays_in_its_channel(target):
    x = noise().to(target.device, torch.float32)
    x[2, 1, 0, 0] = float("nan")
    mean, variance = measured(target, x)
    assert mean.isnan().tolist() == variance.isnan().tolist() == [False, True, False]


@everywhere
@pytest.mark.parametrize("given", [True, False], ids=["running statistics", "none"])
def test_inputs_are_bit_identical_after_training(target, given):
    """Peer bug 3 (FlagGems): without running statistics their update went through a pointer that
    stood in for them, to the first elements of the input."""
    generator = torch.Generator().manual_seed(0)
    tensors = [noise(i).to(target.device, torch.float32) for i in range(2)]
    vectors = [torch.rand(3, generator=generator).to(target.device) for _ in range(4)]
    masks = [torch.ones(SHAPE[1:], dtype=torch.bool, device=target.device) for _ in range(2)]
    inputs = [*tensors, *vectors, *masks]
    before, versions = [t.clone() for t in inputs], [t._version for t in inputs]
    running = [torch.zeros(3, device=target.device) if given else None for _ in range(4)]
    bn_mask_add_relu(
        tensors[0],
        *vectors[:2],
        *running[:2],
        mask=masks[0],
        projection=Projection(tensors[1], *vectors[2:], *running[2:], masks[1]),
        training=True,
        momentum=1.0,
        backend=target.backend,
    )
    for tensor, copy, version in zip(inputs, before, versions, strict=True):
        assert torch.equal(tensor, copy) and tensor._version == version
