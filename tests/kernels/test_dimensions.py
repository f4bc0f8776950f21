"""Activations of one and of three spatial dimensions: the kernels see rows and channels only."""

import pytest
import torch
from bn_blocks import gradients, leaves, on
from hypothesis import given, settings
from hypothesis import strategies as st
from launches import launches
from scotoma.kernels import apply_mask, bn_mask_add_relu
from targets import everywhere, on_triton

ADDENDS = ["none", "residual", "projection"]
LAYOUTS = ["contiguous", "channels last", "sliced"]


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
    """Shape, dtype, layout, and settings of a block."""
    dimensions = draw(st.sampled_from([1, 3]))
    n, channels = draw(st.integers(2, 3)), draw(st.sampled_from([1, 3, 8, 16, 17]))
    shape = (n, channels, *(draw(st.integers(1, 5)) for _ in range(dimensions)))
    dtype, layout = draw(st.sampled_from(target.dtypes)), draw(st.sampled_from(LAYOUTS))
    options = {"training": draw(st.booleans()), "relu": draw(st.booleans())}
    return shape, dtype, layout, options | {"addend": draw(st.sampled_from(ADDENDS))}


def run(target, call, reshape=lambda t, first: t):
    """Output, gradients and running statistics; every activation and mask in another shape."""
    shape, dtype, layout, options = call
    block = on(target, **options, channels=shape[1], size=shape[2:])
    block = block.double() if dtype == torch.float64 else block
    for name in ("mask0", "mask1"):
        setattr(block, name, reshape(getattr(block, name), 1))
    x, other = (
        reshape(laid_out(torch.randn(shape).to(target.device, dtype), layout), 2).requires_grad_()
        for _ in range(2)
    )
    out = block(x, other)
    upstream = torch.linspace(-1, 1, out.numel(), device=out.device).to(out.dtype).view(out.shape)
    grads = gradients(out, leaves(block, x, other), grad_outputs=upstream)
    return x, out.detach(), grads, block.running()


@everywhere
@settings(max_examples=12)
@given(data=st.data())
def test_equal_to_the_call_on_images(target, data):
    """Bit for bit, with shape, dtype and memory order of the input."""
    call = data.draw(calls(target))
    x, out, grads, running = run(target, call)

    def image(t, first):
        shape = t.shape
        if len(shape) - first == 1:  # [.., L]
            return t.reshape(*shape[:first], 1, shape[first])
        return t.reshape(*shape[:first], shape[first] * shape[first + 1], shape[first + 2])

    _, expected, right, kept = run(target, call, image)
    assert out.shape == x.shape and out.dtype == x.dtype
    assert torch.equal(out, expected.reshape(out.shape))
    if x.is_contiguous() or x.movedim(1, -1).is_contiguous():
        assert out.is_contiguous() or out.movedim(1, -1).is_contiguous()
    for grad, other in zip(grads, right, strict=True):
        assert grad is other is None or torch.equal(grad, other.reshape(grad.shape))
    assert all(map(torch.equal, running, kept))


@on_triton
@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 4, 2, 3, 5)], ids=str)
def test_the_kernels_run_them(target, shape):
    x = torch.randn(shape, device=target.device)
    with launches() as names:
        bn_mask_add_relu(x, None, None, None, None, training=True, backend=target.backend)
        apply_mask(x, torch.ones(shape[1:], dtype=torch.bool, device=x.device), backend="triton")
    assert names == ["partial_statistics", "merge_statistics", "apply_forward", "multiply_mask"]


@everywhere
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 5, 7), (2, 8, 3, 2, 4)], ids=str)
def test_apply_mask(target, shape, layout):
    x = laid_out(torch.randn(shape, device=target.device), layout).requires_grad_()
    mask = torch.rand(shape[1:], device=target.device) < 0.5
    out = apply_mask(x, mask, backend=target.backend)
    assert out.shape == x.shape and torch.equal(out, x * mask)
    (grad,) = torch.autograd.grad(out, x, torch.ones_like(out))
    assert torch.equal(grad, mask.expand(shape).to(grad))
