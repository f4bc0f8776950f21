"""Activations of one and of three spatial dimensions: the kernels see rows and channels only."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from launches import launches
from scotoma.kernels import Projection, apply_mask, bn_mask_add_relu
from targets import FLOAT32, everywhere, on_triton

ADDENDS = ["none", "residual", "projection"]


def laid_out(x, layout):
    match layout:
        case "contiguous":
            return x.contiguous()
        case "channels last":
            return x.movedim(1, -1).contiguous().movedim(-1, 1)
        case "sliced":
            return x.new_zeros(*x.shape[:-1], 2 * x.shape[-1])[..., ::2].copy_(x)
    raise ValueError(layout)


@st.composite
def calls(draw, target):
    dimensions = draw(st.sampled_from([1, 3]))
    n, channels = draw(st.integers(2, 3)), draw(st.sampled_from([1, 3, 8, 16, 17]))
    shape = (n, channels, *(draw(st.integers(1, 5)) for _ in range(dimensions)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([d for d in target.dtypes if d.itemsize >= 4 or d.itemsize == 2]))
    layout = draw(st.sampled_from(["contiguous", "channels last", "sliced"]))
    vector = torch.float64 if dtype == torch.float64 else torch.float32

    def branch():
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        vectors = [torch.rand(channels, generator=generator) + 0.5 for _ in range(4)]
        mask = torch.rand(shape[1:], generator=generator) < 0.6
        x = laid_out(x.to(target.device, dtype), layout)
        return x, *(v.to(target.device, vector) for v in vectors), mask.to(target.device)

    return {
        "main": branch(),
        "other": branch(),
        "addend": draw(st.sampled_from(ADDENDS)),
        "training": draw(st.booleans()),
        "relu": draw(st.booleans()),
        "backend": target.backend,
    }


def run(call, reshape=lambda t, first: t):
    """Output, gradients and running statistics; every activation and mask in another shape."""

    def branch(given):
        x, weight, bias, mean, var, mask = (t.detach().clone() for t in given)
        x = reshape(given[0].detach(), 2)
        leaves = [t.requires_grad_() for t in (x, weight, bias)]
        return [*leaves, mean, var, reshape(mask, 1)]

    main, other = branch(call["main"]), branch(call["other"])
    out = bn_mask_add_relu(
        *main[:5],
        mask=main[5],
        residual=other[0] if call["addend"] == "residual" else None,
        projection=Projection(*other) if call["addend"] == "projection" else None,
        training=call["training"],
        relu=call["relu"],
        backend=call["backend"],
    )
    used = {"none": 0, "residual": 1, "projection": 3}[call["addend"]]
    upstream = torch.linspace(-1, 1, out.numel(), device=out.device).to(out.dtype).view(out.shape)
    grads = torch.autograd.grad(out, [*main[:3], *other[:used]], upstream)
    return out.detach(), grads, [*main[3:5], *other[3:5]]


@everywhere
@settings(max_examples=12)
@given(data=st.data())
def test_equal_to_the_call_on_images(target, data):
    """Bit for bit, with shape, dtype and memory order of the input."""
    call = data.draw(calls(target))
    x = call["main"][0]
    out, grads, running = run(call)

    def image(t, first):
        shape = t.shape
        if len(shape) - first == 1:  # [.., L]
            return t.reshape(*shape[:first], 1, shape[first])
        return t.reshape(*shape[:first], shape[first] * shape[first + 1], shape[first + 2])

    expected, right, kept = run(call, image)
    assert out.shape == x.shape and out.dtype == x.dtype
    assert torch.equal(out, expected.reshape(out.shape))
    if x.is_contiguous() or x.movedim(1, -1).is_contiguous():
        assert out.is_contiguous() or out.movedim(1, -1).is_contiguous()
    for grad, other in zip(grads, right, strict=True):
        assert torch.equal(grad, other.reshape(grad.shape))
    assert all(map(torch.equal, running, kept))


@everywhere
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 6, 7), (3, 6, 2, 3, 4)], ids=str)
def test_equal_to_torch(target, shape, training):
    """``torch.nn.functional.batch_norm`` in float64, which takes any number of dimensions."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(target.device, FLOAT32)
    weight, bias, mean, var = (torch.rand(6, generator=generator).to(x) + 0.5 for _ in range(4))
    mask = (torch.rand(shape[1:], generator=generator) < 0.5).to(x.device)
    wide = [t.double() for t in (mean, var)]
    expected = F.batch_norm(x.double(), *wide, weight.double(), bias.double(), training, 0.1, 1e-5)
    expected = torch.relu(expected * mask)
    out = bn_mask_add_relu(
        x, weight, bias, mean, var, mask=mask, training=training, backend=target.backend
    )
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close([mean.double(), var.double()], wide, rtol=1e-5, atol=1e-6)


@on_triton
@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 4, 2, 3, 5)], ids=str)
def test_the_kernels_run_them(target, shape):
    x = torch.randn(shape, device=target.device)
    with launches() as names:
        bn_mask_add_relu(x, None, None, None, None, training=True, backend=target.backend)
        apply_mask(x, torch.ones(shape[1:], dtype=torch.bool, device=x.device), backend="triton")
    assert names == ["partial_statistics", "merge_statistics", "apply_forward", "multiply_mask"]


@everywhere
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "sliced"])
@pytest.mark.parametrize("shape", [(2, 5, 7), (2, 8, 3, 2, 4)], ids=str)
def test_apply_mask(target, shape, layout):
    x = laid_out(torch.randn(shape, device=target.device), layout).requires_grad_()
    mask = torch.rand(shape[1:], device=target.device) < 0.5
    out = apply_mask(x, mask, backend=target.backend)
    assert out.shape == x.shape and torch.equal(out, x * mask)
    (grad,) = torch.autograd.grad(out, x, torch.ones_like(out))
    assert torch.equal(grad, mask.expand(shape).to(grad))
