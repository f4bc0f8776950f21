"""The eager operator against the formula written out by hand in float64.

Nothing here calls a batch norm of torch: mean, variance, mask, sum and ReLU are spelled out, and
gradients are autograd's of that formula.
"""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scotoma.kernels import Projection, bn_mask_add_relu

NAMES = ("x", "weight", "bias", "running_mean", "running_var", "mask")
# 3000 random examples of each test were tried once; the fixed ones keep the suite repeatable.
EXAMPLES = settings(deadline=None, derandomize=True, max_examples=200)


@dataclass
class Case:
    """Arguments of one call. A branch is a tuple in the order of ``NAMES``."""

    main: tuple
    residual: torch.Tensor | None
    projection: tuple | None
    relu: bool
    training: bool
    momentum: float
    eps: float
    layout: str

    def branches(self):
        return [self.main] if self.projection is None else [self.main, self.projection]

    def call(self):
        return bn_mask_add_relu(
            *self.main[:5],
            mask=self.main[5],
            residual=self.residual,
            projection=None if self.projection is None else Projection(*self.projection),
            relu=self.relu,
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
        )

    def inputs(self):
        """The arguments that have a gradient, in a fixed order."""
        tensors = [t for branch in self.branches() for t in branch[:3]] + [self.residual]
        return [t for t in tensors if t is not None]


def laid_out(values, dtype, layout):
    """``values`` in ``dtype`` with the strides of a layout."""
    values = values.to(dtype)
    if layout == "channels_last":
        return values.to(memory_format=torch.channels_last)
    if layout == "sliced":
        wide = torch.zeros(*values.shape[:2], values.shape[2] + 1, 2 * values.shape[3], dtype=dtype)
        view = wide[:, :, 1:, ::2]
        return view.copy_(values)
    return values.contiguous()


@st.composite
def branches(draw, shape, dtype, layout, running):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    channels = shape[1]
    # Statistics are float32 beside half-precision activations, as in torch's batch norm.
    vector = torch.float64 if dtype == torch.float64 else torch.float32

    def normal(*size):
        return torch.randn(size, dtype=torch.float64, generator=generator)

    scale, offset = draw(st.sampled_from([(1.0, 0.0), (0.1, 1.0), (5.0, -20.0)]))
    x = laid_out(normal(*shape) * scale + offset, dtype, layout)
    weight = normal(channels).to(vector) if draw(st.booleans()) else None
    bias = normal(channels).to(vector) if draw(st.booleans()) else None
    mean = normal(channels).to(vector) if running else None
    variance = (normal(channels).square() + 0.1).to(vector) if running else None
    kept = {
        "none": None,
        "random": torch.rand(shape[1:], generator=generator) < 0.4,
        "ones": torch.ones(shape[1:], dtype=torch.bool),
        "zeros": torch.zeros(shape[1:], dtype=torch.bool),
    }[draw(st.sampled_from(["none", "random", "ones", "zeros"]))]
    mask = kept if kept is None else kept.to(draw(st.sampled_from([torch.bool, torch.uint8])))
    return x, weight, bias, mean, variance, mask


@st.composite
def cases(draw, dtypes=(torch.float32, torch.float64, torch.bfloat16, torch.float16)):
    training = draw(st.booleans())
    n, c, h, w = (draw(st.integers(1, top)) for top in (4, 5, 6, 6))
    if training and n * h * w == 1:
        n = 2  # one value has no variance
    shape = (n, c, h, w)
    dtype = draw(st.sampled_from(dtypes))
    layout = draw(st.sampled_from(["contiguous", "channels_last", "sliced"]))
    running = not training or draw(st.booleans())
    addend = draw(st.sampled_from(["none", "residual", "projection"]))
    main = draw(branches(shape, dtype, layout, running))
    other = draw(branches(shape, dtype, layout, running)) if addend != "none" else None
    return Case(
        main=main,
        residual=other[0] if addend == "residual" else None,
        projection=other if addend == "projection" else None,
        relu=draw(st.booleans()),
        training=training,
        momentum=draw(st.sampled_from([0.1, 0.01, 0.5, 1.0, 0.0])),
        eps=draw(st.sampled_from([1e-5, 1e-3, 0.1])),
        layout=layout,
    )


def statistics(x):
    """Mean, biased variance and number of values of each channel."""
    count = x.numel() // x.shape[1]
    mean = x.sum((0, 2, 3)) / count
    return mean, ((x - mean.view(-1, 1, 1)) ** 2).sum((0, 2, 3)) / count, count


def formula(case):
    """``relu(mask * BN(x) + residual)`` in float64.

    Returns: the output, the value before ReLU, and the float64 leaves of ``Case.inputs``.
    """
    leaves, total = [], 0

    def leaf(tensor, default=None):
        if tensor is None:
            return default
        leaves.append(tensor.detach().double().requires_grad_())
        return leaves[-1]

    for branch in case.branches():
        x, weight, bias = leaf(branch[0]), leaf(branch[1], 1), leaf(branch[2], 0)
        if case.training:
            mean, variance, _ = statistics(x)
        else:
            mean, variance = branch[3].double(), branch[4].double()
        value = (x - mean.view(-1, 1, 1)) / (variance + case.eps).sqrt().view(-1, 1, 1)
        value = value * torch.as_tensor(weight).view(-1, 1, 1)
        value = value + torch.as_tensor(bias).view(-1, 1, 1)
        total = total + (value if branch[5] is None else value * branch[5].double())
    if case.residual is not None:
        total = total + leaf(case.residual)
    # ReLU as torch defines it: slope 0 at 0, NaN passes.
    out = torch.where(total <= 0, torch.zeros_like(total), total) if case.relu else total
    return out, total.detach(), leaves


def sizes(branch, case):
    """Of a branch, per channel: |w|, |b|, 1/std, and the factors by which rounding errors grow.

    Subtracting the mean magnifies a relative error of x by ``cancel`` = |x| / std; an error of
    the variance is magnified by ``spread`` = the largest normalised value.
    """
    x, weight, bias, mean, variance, _ = branch
    x = x.double()
    if case.training:
        mean, variance, _ = statistics(x)
    inverse = (variance.double() + case.eps).rsqrt()
    farthest = x.abs().amax((0, 2, 3)) + mean.double().abs()
    cancel = 1 + farthest * inverse
    spread = 1 + ((x - mean.double().view(-1, 1, 1)).abs().amax((0, 2, 3)) * inverse)
    one = torch.ones_like(inverse)
    w = one if weight is None else weight.double().abs()
    b = 0 * one if bias is None else bias.double().abs()
    return w, b, inverse, cancel, spread


def unit(dtype):
    return torch.finfo(dtype).eps


def wide_unit(case):
    """Statistics are accumulated in float32, or float64 for float64 activations."""
    return unit(torch.float64 if case.main[0].dtype == torch.float64 else torch.float32)


def output_tolerance(case):
    """[C,1,1]: 4 roundings to the activations' dtype of every term, 32 wide ones in the sums."""
    narrow, wide, total = unit(case.main[0].dtype), wide_unit(case), 0
    for branch in case.branches():
        w, b, _, cancel, spread = sizes(branch, case)
        total = total + 4 * narrow * (w * spread + b) + 32 * wide * (w * cancel * spread + b)
    if case.residual is not None:
        total = total + 4 * narrow * case.residual.double().abs().max()
    return total.view(-1, 1, 1)


@EXAMPLES
@given(cases())
def test_output(case):
    expected = formula(case)[0].detach()
    tolerance = output_tolerance(case)
    out = case.call()
    assert out.dtype == case.main[0].dtype
    assert out.shape == case.main[0].shape
    if case.layout != "sliced":
        formats = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
        assert out.is_contiguous(memory_format=formats[case.layout])
    error = (out.double() - expected).abs()
    assert (error <= tolerance).all(), (error / tolerance).max()


@EXAMPLES
@given(cases(), st.integers(0, 2**32))
def test_gradients(case, seed):
    expected_out, before_relu, leaves = formula(case)
    generator = torch.Generator().manual_seed(seed)
    upstream = torch.randn(expected_out.shape, generator=generator).to(case.main[0].dtype)
    if case.relu:
        # Within the rounding error of zero, ReLU may be open in one precision and shut in
        # another.
        near = before_relu.abs() <= output_tolerance(case)
        upstream = upstream.masked_fill(near, 0)
    expected = torch.autograd.grad(expected_out, leaves, upstream.double())

    tolerances = []
    narrow, wide = unit(upstream.dtype), wide_unit(case)
    largest = upstream.double().abs().amax((0, 2, 3))
    summed = upstream.double().abs().sum((0, 2, 3))
    for branch in case.branches():
        w, _, inverse, cancel, spread = sizes(branch, case)
        grown = wide * cancel * spread**2
        dx = w * inverse * largest * (4 * narrow * spread**2 + 64 * grown)
        tolerances.append(dx.view(-1, 1, 1))
        # Torch's backward on a CPU may round the vectors' gradients to x's dtype once on the way.
        if branch[1] is not None:
            tolerances.append((64 * grown + narrow * spread) * summed)
        if branch[2] is not None:
            tolerances.append((64 * wide + narrow) * summed)
    if case.residual is not None:
        tolerances.append(torch.tensor(0.0))  # the upstream gradient itself, or zero

    inputs = [tensor.requires_grad_() for tensor in case.inputs()]
    found = torch.autograd.grad(case.call(), inputs, upstream)
    for tensor, value, right, tolerance in zip(inputs, found, expected, tolerances, strict=True):
        assert value.dtype == tensor.dtype
        error = (value.double() - right).abs()
        assert (error <= tolerance).all(), (error / tolerance).max()


@EXAMPLES
@given(cases())
def test_running_statistics(case):
    """Closed form: (1 - momentum) * old + momentum * batch, the batch's variance unbiased."""
    expected = []
    for x, _, _, mean, variance, _ in case.branches():
        if mean is None:
            continue
        if not case.training:
            expected.append((mean.double(), variance.double(), 0, 0))
            continue
        batch_mean, biased, count = statistics(x.double())
        m, size, u = case.momentum, x.double().abs().amax((0, 2, 3)), 32 * wide_unit(case)
        unbiased = biased * count / (count - 1)
        expected.append(
            (
                (1 - m) * mean.double() + m * batch_mean,
                (1 - m) * variance.double() + m * unbiased,
                u * (size + mean.double().abs()),
                u * (unbiased + size * unbiased.sqrt() + variance.double()),
            )
        )
    case.call()
    found = [branch[3:5] for branch in case.branches() if branch[3] is not None]
    for (mean, variance), right in zip(found, expected, strict=True):
        assert ((mean.double() - right[0]).abs() <= right[2]).all()
        assert ((variance.double() - right[1]).abs() <= right[3]).all()


@EXAMPLES
@given(cases())
def test_inputs_stay_as_they_are(case):
    """Bit for bit, through forward and backward; running statistics are the one thing written."""
    tensors = [case.residual]
    for branch in case.branches():
        tensors += [t for name, t in zip(NAMES, branch, strict=True) if "running" not in name]
        tensors += [] if case.training else list(branch[3:5])
    tensors = [t for t in tensors if t is not None]
    before = [(t.clone(), t.stride()) for t in tensors]
    for tensor in case.inputs():
        tensor.requires_grad_()
    case.call().sum().backward()
    for tensor, (copy, stride) in zip(tensors, before, strict=True):
        assert torch.equal(tensor, copy) and tensor.stride() == stride


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("training", [True, False])
def test_gradient_formats(layout, training):
    """The gradient that goes into the convolution's backward keeps channels_last as well."""
    x = laid_out(torch.randn(2, 3, 4, 5), torch.float32, layout).requires_grad_()
    mask = torch.rand(3, 4, 5) < 0.5
    stats = torch.zeros(3), torch.ones(3)
    out = bn_mask_add_relu(x, None, None, *stats, mask=mask, residual=x, training=training)
    (gradient,) = torch.autograd.grad(out, x, torch.randn_like(out))
    assert gradient.stride() == x.stride()


@pytest.mark.parametrize("where", ["x", "residual"])
def test_nan_passes_through_relu(where):
    """A diverged run must show: max(NaN, 0) is NaN, not 0."""
    x, residual = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 2, 2)
    {"x": x, "residual": residual}[where][1, 2, 0, 1] = float("nan")
    stats = torch.zeros(3), torch.ones(3)
    out = bn_mask_add_relu(x, None, None, *stats, residual=residual, training=False)
    assert out[1, 2, 0, 1].isnan()
    assert out.isnan().sum() == 1


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("addend", ["none", "residual", "projection"])
def test_gradcheck_twice(training, relu, addend):
    """First and second derivatives against finite differences."""
    generator = torch.Generator().manual_seed(3)

    def normal(*size):
        return torch.randn(size, dtype=torch.float64, generator=generator).requires_grad_()

    shape = (2, 2, 2, 2)
    leaves = [normal(*shape), normal(2), normal(2)]
    leaves += {"none": [], "residual": [normal(*shape)]}.get(
        addend, [normal(*shape), normal(2), normal(2)]
    )
    masks = [torch.tensor([[[1, 0], [1, 1]], [[0, 1], [0, 1]]], dtype=torch.bool)]
    masks.append(~masks[0] | torch.eye(2, dtype=torch.bool))

    def call(x, weight, bias, *others):
        def running():
            return torch.full((2,), 0.3).double(), torch.full((2,), 1.7).double()

        return bn_mask_add_relu(
            x,
            weight,
            bias,
            *running(),
            mask=masks[0],
            residual=others[0] if addend == "residual" else None,
            projection=Projection(*others, *running(), masks[1])
            if addend == "projection"
            else None,
            relu=relu,
            training=training,
        )

    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)
