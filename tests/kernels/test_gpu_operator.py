"""On an NVIDIA GPU: values at the networks' real shapes, every tiling, and very large tensors.

Elsewhere the kernels run interpreted on tiny tensors, where most tilings have one tile.
"""

import pytest
import torch
from bn_cases import Case
from bn_formula import check, near
from layouts import laid_out
from scotoma.kernels import bn_mask_add_relu
from tilings import resized

pytestmark = pytest.mark.gpu
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
ADDENDS = ["none", "residual", "projection"]

# Each block of channels (64, 32, 16, 8), C that no vector load fits, maps that no tile fits, one
# pixel, the longest chunks, the shapes whose speed is stated.
SHAPES = [
    (128, 64, 32, 32),
    (16, 128, 16, 16),
    (4, 256, 56, 56),
    (8, 512, 4, 4),
    (3, 512, 7, 7),
    (64, 512, 1, 1),
    (5, 96, 9, 11),
    (5, 48, 9, 11),
    (3, 24, 7, 7),
    (5, 12, 9, 7),
    (3, 33, 7, 7),
    (2, 3, 33, 35),
    (64, 3, 256, 257),
]


def make(shape, addend, dtype, training, *, layout="channels_last", relu=True, seed=0):
    """A random call of the fused operator; parameters and statistics in float32."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    channels = shape[1]

    def normal(*size):
        return torch.randn(size, device=DEVICE, generator=generator)

    def branch():
        x = laid_out(normal(*shape) + 0.5, layout, dtype)
        running = normal(channels), normal(channels).square() + 0.1
        mask = torch.rand(shape[1:], device=DEVICE, generator=generator) < 0.4
        return x, normal(channels), normal(channels), *running, mask

    return Case(
        main=branch(),
        residual=laid_out(normal(*shape), layout, dtype) if addend == "residual" else None,
        projection=branch() if addend == "projection" else None,
        relu=relu,
        training=training,
        upstream=laid_out(normal(*shape), layout, dtype),
        upstream_layout=layout,
        backend="triton",
    )


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("addend", ADDENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_real_shapes(shape, addend, dtype, training):
    check(make(shape, addend, dtype, training))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("addend", ADDENDS)
@pytest.mark.parametrize("shape", [(16, 64, 32, 32), (3, 33, 7, 7), (64, 512, 1, 1)], ids=str)
def test_contiguous(shape, addend, training):
    check(make(shape, addend, torch.bfloat16, training, layout="contiguous"))


@pytest.mark.parametrize("addend", ADDENDS)
def test_without_relu(addend):
    check(make((16, 64, 32, 32), addend, torch.bfloat16, True, relu=False))


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("warps", [2, 4, 8])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_every_number_of_warps_and_stages(dtype, warps, stages):
    """Shipped is one of them; compilers have miscompiled others of our peers' kernels."""
    with resized(WARPS=warps, TILE_BYTES=warps * 512, STAGES=stages):
        for addend in ADDENDS:
            check(make((8, 64, 24, 24), addend, dtype, True))
        check(make((4, 33, 9, 9), "projection", dtype, True))


@pytest.mark.parametrize("tile", [256, 512, 2048])
@pytest.mark.parametrize("block_c", [16, 32])
def test_other_tiles(tile, block_c):
    """For 33 and 65 channels, which no block divides, MAX_BLOCK_C is the block."""
    with resized(TILE_BYTES=2 * tile, MAX_BLOCK_C=block_c):
        for channels in (33, 65):
            check(make((8, channels, 12, 12), "residual", torch.bfloat16, True))


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[1]], ids=str)
@pytest.mark.parametrize("addend", ADDENDS)
def test_reruns_are_bit_equal(shape, addend):
    """Thousands of programs in any order: the sums' order does not depend on it."""

    def results():
        case = make(shape, addend, torch.bfloat16, True)
        out, grads = case.gradients()
        return [out, *grads, *(t for branch in case.branches() for t in branch[3:5])]

    first = results()
    for _ in range(3):
        assert all(map(torch.equal, first, results()))


# More than 2^31 elements; as many rows as the kernels take, nearly 2^31, in either memory order.
GIANTS = {
    "elements": ((2049, 64, 128, 128), torch.channels_last, "residual"),
    "rows": ((32751, 1, 256, 256), torch.channels_last, "residual"),
    "rows, contiguous": ((32751, 2, 256, 256), torch.contiguous_format, "none"),
}


@pytest.mark.parametrize("name", GIANTS)
def test_beyond_2_to_the_31(name):
    """In bfloat16: a few images, the first and the last among them, and every sum over all."""
    shape, layout, addend = GIANTS[name]
    n, channels = shape[:2]
    image = shape[1] * shape[2] * shape[3]
    tensors = 6 if addend == "residual" else 4
    # The bits, and float64 copies of a chunk of images.
    needed = tensors * 2 * n * image + n * image // channels + 10 * 2**30
    free = torch.cuda.mem_get_info()[0]
    if free < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of GPU memory, {free / 2**30:.0f} are free")
    check_giant(shape, layout, addend, chunk=2**26 // image)
    torch.cuda.empty_cache()


def check_giant(shape, layout, addend, chunk):
    n, channels, height, width = shape
    generator = torch.Generator(DEVICE).manual_seed(0)

    def normal(*size, dtype=torch.float32):
        out = torch.empty(size, dtype=dtype, device=DEVICE)
        out = out.contiguous(memory_format=layout) if len(size) == 4 else out
        return out.normal_(generator=generator)

    x = normal(*shape, dtype=torch.bfloat16).requires_grad_()
    upstream = normal(*shape, dtype=torch.bfloat16)
    residual = normal(*shape, dtype=torch.bfloat16).requires_grad_() if addend != "none" else None
    weight, bias = normal(channels).requires_grad_(), normal(channels).requires_grad_()
    mask = torch.rand(shape[1:], device=DEVICE, generator=generator) < 0.5
    running = torch.zeros(channels, device=DEVICE), torch.zeros(channels, device=DEVICE)
    out = bn_mask_add_relu(
        x, weight, bias, *running, mask=mask, residual=residual, training=True, momentum=1.0,
        eps=1e-5, backend="triton",
    )  # fmt: skip
    leaves = [x, weight, bias] + ([] if residual is None else [residual])
    with torch.no_grad():
        chunks = [slice(start, start + chunk) for start in range(0, n, chunk)]
        grads = torch.autograd.grad(out, leaves, upstream)
        count = n * height * width
        mean = sum(x[s].double().sum((0, 2, 3)) for s in chunks) / count
        centre = mean.view(-1, 1, 1)
        variance = sum((x[s].double() - centre).square().sum((0, 2, 3)) for s in chunks) / count
        scale = (variance + 1e-5).rsqrt()
        torch.testing.assert_close(running[0].double(), mean, rtol=0, atol=1e-6)
        unbiased = variance * count / (count - 1)
        torch.testing.assert_close(running[1].double(), unbiased, rtol=1e-5, atol=0)

        def parts(s):
            """Of some images: normalised x, the value before ReLU, upstream past ReLU."""
            normal = (x[s].double() - centre) * scale.view(-1, 1, 1)
            value = normal * weight.double().view(-1, 1, 1) + bias.double().view(-1, 1, 1)
            value = value * mask + (0 if residual is None else residual[s].double())
            return normal, value, upstream[s].double() * (value > 0)

        sums = torch.zeros(3, channels, dtype=torch.float64, device=DEVICE)
        for s in chunks:
            normalised, _, past = parts(s)
            sums[2] += past.abs().sum((0, 2, 3))
            past = past * mask
            sums[0] += (past * normalised).sum((0, 2, 3))
            sums[1] += past.sum((0, 2, 3))
        # Sums of at most 8192 rows in float32, and of their sums; eight roundings of every term.
        allowed = 8 * 2**-23 * sums[2]
        near("weight", grads[1], sums[0], allowed)
        near("bias", grads[2], sums[1], allowed)

        boundary = min(2**31 // (channels * height * width), n - 1)
        for first in sorted({0, max(0, boundary - 1), boundary, n // 2, n - 1}):
            s = slice(first, first + 1)
            normalised, value, past = parts(s)
            slope, constant = (t.view(-1, 1, 1) / count for t in sums[:2])
            dx = weight.double().view(-1, 1, 1) * scale.view(-1, 1, 1)
            dx = dx * (past * mask - constant - normalised * slope)
            # One rounding, and the float32 error of the statistics.
            near(f"out of image {first}", out[s], value.relu(), 2**-8 * value.abs() + 1e-4)
            away = value.abs() > 1e-4  # from ReLU's corner
            near(f"dx of image {first}", grads[0][s] * away, dx * away, 2**-8 * dx.abs() + 1e-4)
            if residual is not None:
                assert torch.equal(grads[3][s] * away, (past * away).to(grads[3].dtype))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_device_that_is_not_the_current_one():
    case = make((4, 24, 9, 9), "projection", torch.bfloat16, True)
    out, grads = case.gradients()

    def moved(branch):
        return tuple(t.to("cuda:1") for t in branch)

    again = make((4, 24, 9, 9), "projection", torch.bfloat16, True)
    again.main, again.projection = moved(again.main), moved(again.projection)
    again.upstream = again.upstream.to("cuda:1")
    there, grads_there = again.gradients()
    assert there.device.index == 1
    for one, other in zip((out, *grads), (there, *grads_there), strict=True):
        assert torch.equal(one.cpu(), other.cpu())
