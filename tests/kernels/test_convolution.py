"""``conv_bn_mask_add_relu``, both ways, against the formula in float64.

The kernels run in Triton's interpreter where there is no GPU; bfloat16 is for the GPU alone.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from products import slow
from scotoma.kernels import Projection, conv_bn_mask_add_relu, convolution
from scotoma.kernels.reference import Branch

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * GPU


@dataclass
class Case:
    x: torch.Tensor
    kernel: torch.Tensor
    conv_bias: torch.Tensor | None
    vectors: list  # weight, bias, running_mean, running_var
    mask: torch.Tensor | None
    residual: torch.Tensor | None
    stride: int
    padding: int
    relu: bool
    training: bool
    eps: float = 1e-3

    def call(self, backend="triton", **changes):
        arguments = dict(
            stride=self.stride, padding=self.padding, mask=self.mask, residual=self.residual,
            relu=self.relu, training=self.training, eps=self.eps, backend=backend,
        )  # fmt: skip
        return conv_bn_mask_add_relu(
            self.x, self.kernel, self.conv_bias, *self.vectors, **(arguments | changes)
        )

    def leaves(self):
        tensors = (self.x, self.kernel, self.conv_bias, *self.vectors[:2], self.residual)
        return [t for t in tensors if t is not None]


def normal(generator, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)


@st.composite
def cases(draw, training):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from(DTYPES))
    taps, stride = draw(st.sampled_from([(1, 1), (1, 2), (3, 1), (3, 2)]))
    padding = draw(st.integers(0, taps // 2))
    n = draw(st.integers(1, 3))
    height, width = (draw(st.integers(taps, 7)) for _ in range(2))
    # Around the kernel's blocks: 16 to 64 of the inner dimension, 64 or 128 output channels.
    in_channels = draw(st.sampled_from([1, 3, 8, 12, 16, 17, 65]))
    channels = draw(st.sampled_from([1, 5, 8, 24, 64, 65]))
    out = convolution.output_shape(
        torch.empty(n, in_channels, height, width, device="meta"),
        torch.empty(channels, in_channels, taps, taps, device="meta"),
        convolution.Window(stride, padding),
    )
    if training and out[0] * out[2] * out[3] == 1:
        n, out = 2, (2, *out[1:])
    layout = draw(st.sampled_from([torch.channels_last, torch.contiguous_format]))

    def images(*shape):
        return normal(generator, *shape, dtype=dtype).contiguous(memory_format=layout)

    kernel = images(channels, in_channels, taps, taps) / (in_channels * taps * taps) ** 0.5
    mask = torch.rand(out[1:], generator=generator).lt(0.5).to(DEVICE)
    mask = draw(st.sampled_from([None, mask, mask.permute(1, 2, 0).contiguous().permute(2, 0, 1)]))
    optional = st.booleans()
    vectors = [normal(generator, channels) if draw(optional) else None for _ in range(2)]
    vectors += [normal(generator, channels), normal(generator, channels).square() + 0.5]
    return Case(
        x=images(n, in_channels, height, width),
        kernel=kernel,
        conv_bias=normal(generator, channels, dtype=dtype) if draw(optional) else None,
        vectors=vectors,
        mask=mask,
        residual=images(*out) if draw(optional) else None,
        stride=stride,
        padding=padding,
        relu=draw(optional),
        training=training,
    )


def wide(tensor, default=0.0):
    return default if tensor is None else tensor.double().cpu()


def column(vector):
    return vector.view(-1, 1, 1) if isinstance(vector, torch.Tensor) else vector


def formula(case, y):
    """``relu(mask * BN(y) + residual)`` in float64, and the scale per channel."""
    weight, bias, mean, var = (wide(v, d) for v, d in zip(case.vectors, (1, 0, 0, 1), strict=True))
    if case.training:
        var, mean = torch.var_mean(y, (0, 2, 3), correction=0)
    scale = weight * (var + case.eps).rsqrt()
    value = (y - column(mean)) * column(scale) + column(torch.as_tensor(bias))
    value = value * wide(case.mask, 1.0) + wide(case.residual)
    return (value.relu() if case.relu else value), column(scale.abs()), value


def convolved(case):
    """The convolution in float64, and a bound of the error of float32 sums in any order.

    A sum of K products has an error of at most K * eps * sum |a b|. On a GPU float32 factors are
    rounded to TF32, which has the unit of float16.
    """
    x, kernel = wide(case.x), wide(case.kernel)
    offset = column(wide(case.conv_bias, torch.zeros(1, dtype=torch.float64)))
    y = F.conv2d(x, kernel, None, case.stride, case.padding) + offset
    magnitude = F.conv2d(x.abs(), kernel.abs(), None, case.stride, case.padding) + offset.abs()
    unit = (kernel[0].numel() + 2) * torch.finfo(torch.float32).eps
    if GPU and case.x.dtype == torch.float32:
        unit += 2 * torch.finfo(torch.float16).eps
    return y, unit * magnitude


@settings(max_examples=25)
@given(cases(training=False))
def test_evaluation(case):
    check_evaluation(case)


@settings(max_examples=12)
@given(cases(training=True))
def test_training(case):
    check_training(case)


@pytest.mark.slow
@settings(max_examples=200, derandomize=False)
@given(st.booleans().flatmap(lambda training: cases(training=training)))
def test_random_calls(case):
    (check_training if case.training else check_evaluation)(case)


def check_evaluation(case):
    """All of the epilogue is float32 on the accumulator: one rounding to the output's dtype."""
    with torch.no_grad():
        out = case.call().double().cpu()
    y, error = convolved(case)
    expected, scale, before = formula(case, y)
    _, bias, mean, _ = case.vectors
    single = torch.finfo(torch.float32).eps
    terms = scale * (y.abs() + column(wide(mean)).abs()) + column(wide(bias, torch.zeros(1))).abs()
    bound = scale * error + 8 * single * (terms + wide(case.residual, torch.zeros(1)).abs())
    bound = bound + torch.finfo(case.x.dtype).eps * before.abs() + torch.finfo(case.x.dtype).tiny
    assert ((out - expected).abs() <= bound).all(), ((out - expected).abs() / bound).max()


def check_training(case):
    """Forward, running statistics and every gradient, against the eager definition in float64."""
    generator = torch.Generator().manual_seed(1)
    results = []
    for dtype, backend in ((None, "triton"), (torch.float64, "eager")):

        def cast(t, dtype=dtype):
            return None if t is None else t.detach().to(dtype or t.dtype).clone()

        copy = Case(**vars(case))
        copy.x, copy.kernel, copy.conv_bias, copy.residual = map(
            cast, (case.x, case.kernel, case.conv_bias, case.residual)
        )
        copy.vectors = [cast(v) for v in case.vectors]
        leaves = [leaf.requires_grad_() for leaf in copy.leaves()]
        out = copy.call(backend)
        upstream = torch.randn(out.shape, generator=generator.manual_seed(1)).to(out)
        if case.relu:
            # Near zero ReLU may be open in one precision and shut in the other. The operator
            # alone is held to the rounding error; here a fixed margin will do.
            near = formula(case, convolved(case)[0])[2].abs() < 0.02
            upstream = upstream.masked_fill(near.to(DEVICE), 0)
        results.append(
            (out.detach(), *copy.vectors[2:], *torch.autograd.grad(out, leaves, upstream))
        )
    # Half-precision convolution outputs are rounded once before they are normalised; sums of up
    # to 150 rows follow. Relative to the largest value of each result.
    tf32 = GPU and case.x.dtype == torch.float32
    unit = torch.finfo(torch.float16 if tf32 else case.x.dtype).eps
    rows = results[0][0][:, 0].numel()
    for found, right in zip(*results, strict=True):
        found, right = found.double(), right.double()
        scale = 1 + right.abs().max() + formula(case, convolved(case)[0])[1].max().item() ** 2
        assert (found - right).abs().max() <= 64 * unit * rows**0.5 * scale


@pytest.mark.parametrize("tile", convolution.CONV_TILES, ids=lambda tile: tile.name)
@pytest.mark.parametrize("training", [slow(False), True])
def test_every_tile_that_is_shipped(tile, training):
    """Integers: every product and sum is exact, so all tiles give the same bits as torch."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-2, 3, (2, 72, 9, 8), generator=generator).float().to(DEVICE)
    kernel = torch.randint(-2, 3, (130, 72, 3, 3), generator=generator).float().to(DEVICE)
    window = convolution.Window(1, 1)
    expected = F.conv2d(x.double(), kernel.double(), None, 1, 1).float()
    layout = dict(memory_format=torch.channels_last)
    branch = None
    if not training:
        ones = torch.ones(130, device=DEVICE)
        branch = Branch(None, ones, 0 * ones, 0 * ones, ones, None)
    out, partials = convolution.convolve(
        x.contiguous(**layout), kernel.contiguous(**layout), None, window, tile, branch=branch
    )
    assert torch.equal(out, expected)
    if training:
        rows = expected.permute(0, 2, 3, 1).reshape(-1, 130)
        for chunk, part in enumerate(rows.split(tile.m)):
            torch.testing.assert_close(partials[0, 0, chunk], part.mean(0), rtol=1e-5, atol=1e-4)
            m2 = (part - part.mean(0)).square().sum(0)
            torch.testing.assert_close(partials[0, 1, chunk], m2, rtol=1e-4, atol=1e-2)
    else:
        assert partials is None


def example(**changes):
    generator = torch.Generator().manual_seed(0)
    values = dict(
        x=normal(generator, 2, 8, 6, 6), kernel=normal(generator, 4, 8, 3, 3), conv_bias=None,
        vectors=[None, None, torch.zeros(4, device=DEVICE), torch.ones(4, device=DEVICE)],
        mask=None, residual=None, stride=1, padding=1, relu=True, training=False,
    )  # fmt: skip
    return Case(**(values | changes))


def test_projection_training():
    """Two branches, the first one's statistics from its convolution."""
    generator = torch.Generator().manual_seed(2)
    branch = normal(generator, 2, 4, 6, 6)
    outs = []
    for backend in ("triton", "eager"):
        case = example(training=True)
        running = torch.zeros(4, device=DEVICE), torch.ones(4, device=DEVICE)
        projection = Projection(branch, None, None, *running)
        outs.append((case.call(backend, projection=projection), *running, *case.vectors[2:]))
    for found, expected in zip(*outs, strict=True):
        torch.testing.assert_close(found, expected)


def test_float_and_tensor_momentum_agree():
    ways = []
    for momentum in (0.25, torch.tensor(0.25, device=DEVICE)):
        case = example(training=True)
        case.call(momentum=momentum)
        ways.append(case.vectors[2:])
    for found, expected in zip(*ways, strict=True):
        torch.testing.assert_close(found, expected)


def zeros(*shape, **options):
    return torch.zeros(shape, device=DEVICE, **options)


KERNEL, DOUBLE = zeros(4, 8, 3, 3), {"dtype": torch.float64}
UNKNOWN = [
    (dict(kernel=zeros(4, 8, 5, 5)), {}, "5x5 kernel"),
    (dict(stride=3), {}, "stride"),
    (dict(), dict(stride=(1, 2)), "stride"),
    (dict(), dict(padding="same"), "padding"),
    (dict(), dict(dilation=2), "dilation is 2"),
    (
        dict(x=zeros(2, 8, 6, 6, **DOUBLE), kernel=zeros(4, 8, 3, 3, **DOUBLE)),
        *({}, "x has dtype torch.float64"),
    ),
    (dict(x=zeros(2, 8, 6, 6, requires_grad=True)), {}, "gradient"),
    (dict(residual=zeros(2, 4, 6, 6, dtype=torch.float16)), {}, "residual"),
]


@pytest.mark.parametrize("changes, options, words", UNKNOWN)
def test_the_fused_way_names_what_it_does_not_know(changes, options, words):
    with pytest.raises(ValueError, match=words):
        example(**changes).call("triton", **options)


def test_projection_in_evaluation_is_separate():
    case = example()
    projection = Projection(zeros(2, 4, 6, 6), None, None, *case.vectors[2:])
    with pytest.raises(ValueError, match="projection is given in evaluation"):
        case.call("triton", projection=projection)
    assert case.call(None, projection=projection).shape == (2, 4, 6, 6)


OPTIONS = {
    "stride": (0, -1, "1", None, 1.5, True, (1, 2, 3), (1, 0), 10**30),
    "dilation": (0, -1, None, [1.0]),
    "padding": (-1, "valig", None, 0.5, [], (1, -1)),
    "groups": (0, -1, 3, 1.0, "1", None, True),
}
WRONG = [
    (dict(kernel=KERNEL[:, :7]), "conv_weight has shape"),
    (dict(kernel=None), "conv_weight is of type NoneType"),
    (dict(kernel=KERNEL.int()), "conv_weight has dtype torch.int32"),
    (dict(kernel=KERNEL.double()), "conv_weight has dtype torch.float64, but x"),
    (dict(kernel=KERNEL[..., :0]), "conv_weight has shape"),
    (dict(kernel=KERNEL.to("meta")), "conv_weight is on meta"),
    (
        dict(kernel=zeros(4, 8, 9, 9)),
        r"conv_weight .* reaches over \[9, 9\], but x with its padding is \[8, 8\]",
    ),
    (dict(conv_bias=zeros(3)), "conv_bias has shape"),
    (dict(conv_bias=zeros(4).to("meta")), "conv_bias is on meta"),
    (dict(conv_bias=1.0), "conv_bias is of type float"),
    (dict(conv_bias=zeros(4, **DOUBLE)), "conv_bias has dtype"),
    (dict(x=zeros(8, 6, 6)), "x has shape"),
    (dict(x=KERNEL.cpu().numpy()), "x is of type ndarray"),
    (dict(mask=zeros(4, 5, 6, dtype=torch.bool)), "mask has shape"),
    (dict(residual=zeros(2, 4, 5, 6)), "residual has shape"),
    (dict(vectors=[zeros(3), *[None] * 3]), "weight has shape"),
    (dict(projection=KERNEL), "projection is of type Tensor"),
    (dict(stride=2, padding="same"), "padding is 'same' and stride is"),
    *(
        ({name: value}, f"{name} is .*; expected|groups 3;")
        for name, values in OPTIONS.items()
        for value in values
    ),
]
FIELDS = Case.__dataclass_fields__


@pytest.mark.parametrize("backend", [None, "eager", "triton"])
@pytest.mark.parametrize("changes, words", WRONG)
def test_wrong_arguments_are_named(changes, words, backend):
    case = example(**{k: v for k, v in changes.items() if k in FIELDS})
    with pytest.raises(ValueError, match=words):
        case.call(backend, **{k: v for k, v in changes.items() if k not in FIELDS})


def test_every_window_of_torch_is_taken():
    case, kernel = example(), KERNEL.new_ones(4, 8, 3, 3)
    for options in (
        dict(stride=[1, 2], padding=(0, 1)),
        dict(stride=(2,), padding="valid"),
        dict(padding="same", dilation=2),
        dict(stride=np.int64(2), dilation=(2, 1), groups=1),
    ):
        found = conv_bn_mask_add_relu(case.x, kernel, None, *case.vectors, relu=False, **options)
        expected = F.conv2d(case.x, kernel, **options)
        torch.testing.assert_close(found, expected * (1 + 1e-5) ** -0.5)


def test_autocast_takes_a_kernel_of_another_dtype():
    case = example()
    with torch.autocast(DEVICE, torch.bfloat16):
        x = case.x.bfloat16()
        out = conv_bn_mask_add_relu(x, case.kernel, None, *case.vectors)
    assert out.dtype == torch.bfloat16


def test_nothing_is_fused_by_itself(monkeypatch):
    """Without a measured choice every call is separate, gradients or not."""
    monkeypatch.setattr(convolution, "fused", lambda *_: pytest.fail("fused without a measurement"))
    with torch.no_grad():
        assert example().call(None).shape == (2, 4, 6, 6)
    assert example(training=True).call(None).shape == (2, 4, 6, 6)
