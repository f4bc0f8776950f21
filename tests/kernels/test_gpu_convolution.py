"""``conv_bn_mask_add_relu`` as a GPU runs it, against the eager definition in float64.

Every dtype, memory format, kernel size and stride; elsewhere the small calls run in Triton's
interpreter. Images and convolution weights are small integers: every product and sum of a
convolution is exact, in TF32 too, so that what is compared is the rest.
"""

import pytest
import torch
from layouts import DENSE
from norm_layers import close
from products import pairwise
from scotoma.kernels import conv_bn_mask_add_relu
from targets import BFLOAT16, FLOAT16, FLOAT32, GPU, on_triton

SMALL = (2, 20, 7, 5), 68  # x, and output channels: no block and no tile fits
# As in the networks: x, output channels, kernel size, stride.
REAL = [
    ((128, 64, 32, 32), 64, 3, 1),
    ((128, 64, 32, 32), 128, 3, 2),
    ((128, 64, 32, 32), 128, 1, 2),
    ((128, 512, 4, 4), 512, 3, 1),
    ((64, 256, 56, 56), 64, 1, 1),
]


def make(target, dtype, shape, channels, taps, stride, layout="channels_last"):
    """Operands by name."""
    generator = torch.Generator(target.device).manual_seed(0)

    def normal(*size):
        return torch.randn(size, device=target.device, generator=generator)

    def images(values):
        return values.to(dtype).contiguous(memory_format=DENSE[layout])

    out = (shape[0], channels, *((side - 1) // stride + 1 for side in shape[2:]))
    return {
        "x": images(2 * normal(*shape)).round().clamp(-2, 2),
        "kernel": images(normal(channels, shape[1], taps, taps)).round().clamp(-1, 1),
        "conv_bias": normal(channels).round().to(dtype),
        "weight": normal(channels),
        "bias": normal(channels),
        "mean": normal(channels),
        "variance": normal(channels).square() * 100 + 10,
        "mask": normal(*out[1:]) < 0.2,
        "residual": images(normal(*out)),
    }


def wide(operands):
    """In float64."""
    return {k: v if k == "mask" else v.double() for k, v in operands.items()}


def call(operands, taps, stride, training, backend, relu=True):
    names = ("x", "kernel", "conv_bias", "weight", "bias", "mean", "variance")
    return conv_bn_mask_add_relu(
        *(operands[name] for name in names),
        stride=stride,
        padding=taps // 2,
        mask=operands["mask"],
        residual=operands["residual"],
        relu=relu,
        training=training,
        backend=backend,
    )


def check(operands, taps, stride, training):
    (check_training if training else check_evaluation)(operands, taps, stride)


def check_evaluation(operands, taps, stride):
    """All of the epilogue is float32, and rounded once."""
    with torch.no_grad():
        found = call(operands, taps, stride, False, "triton")
        exact = call(wide(operands), taps, stride, False, "eager")
    assert found.dtype == operands["x"].dtype and found.shape == exact.shape
    allowed = torch.finfo(found.dtype).eps * exact + 1e-4
    assert ((found.double() - exact).abs() <= allowed).all()
    assert found.any()


def check_training(operands, taps, stride):
    """The output, running statistics and every gradient."""
    # A bias before batch norm has none: its gradient is zero, and rounding is all there is of it.
    learned = ("x", "kernel", "weight", "bias", "residual")
    with torch.no_grad():
        untouched = {k: v.clone() for k, v in wide(operands).items()}
        before = call(untouched, taps, stride, True, "eager", relu=False)
    generator = torch.Generator(before.device).manual_seed(1)
    upstream = torch.randn(before.shape, device=before.device, generator=generator)
    # Near zero, rounding decides on which side of ReLU a value falls.
    upstream = upstream.to(operands["x"].dtype).masked_fill(before.abs() < 1e-3, 0)
    results = []
    for backend, given in (("eager", wide(operands)), ("triton", operands)):
        given = {k: v.clone() for k, v in given.items()}
        leaves = [given[k].requires_grad_() for k in learned]
        out = call(given, taps, stride, True, backend)
        grads = torch.autograd.grad(out, leaves, upstream.to(out.dtype))
        results.append([out.detach(), given["mean"], given["variance"], *grads])
    exact, found = results
    dtype, on_gpu = found[0].dtype, found[0].is_cuda
    # On a GPU the gradients of a float32 convolution are products of TF32: float16's precision.
    unit = torch.finfo(FLOAT16 if on_gpu and dtype == FLOAT32 else dtype).eps
    close(found, exact, max(4 * unit, 1e-5))


@on_triton
@pairwise(
    "dtype, layout, window, training",
    [FLOAT32, FLOAT16, BFLOAT16],
    DENSE,
    [(1, 1), (1, 2), (3, 1), (3, 2)],
    [True, False],
    ids=(str, None, str, None),
)
def test_every_form(target, dtype, layout, window, training):
    dtype = dtype if dtype in target.dtypes else target.half
    check(make(target, dtype, *SMALL, *window, layout), *window, training)


@pytest.mark.gpu
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("shape", "channels", "taps", "stride"), REAL, ids=str)
def test_real_shapes(shape, channels, taps, stride, training):
    check(make(GPU, BFLOAT16, shape, channels, taps, stride), taps, stride, training)
