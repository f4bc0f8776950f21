"""``apply_mask`` by its kernel equals ``x * mask`` bit for bit: a product with 0 or 1 is exact."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import LAYOUTS as ALL_LAYOUTS
from layouts import MASK_LAYOUTS, laid_out, mask_laid_out
from scotoma.kernels import apply_mask
from targets import BFLOAT16, FLOAT16, FLOAT32, GPU, on_triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * torch.cuda.is_available()
LAYOUTS = ["channels_last", "contiguous", "sliced", "expanded"]


@st.composite
def calls(draw):
    """Shapes on both sides of the blocks of 8 to 64 channels and of 16 to 128 rows a tile."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    n, height, width = draw(st.integers(1, 5)), *(draw(st.integers(1, 9)) for _ in range(2))
    channels = draw(st.sampled_from([1, 3, 7, 8, 9, 12, 16, 24, 33, 64, 65]))
    values = torch.randn((n, channels, height, width), generator=generator)
    values = values.to(DEVICE, draw(st.sampled_from(DTYPES)))
    layout = draw(st.sampled_from(LAYOUTS))
    if layout == "channels_last":
        values = values.contiguous(memory_format=torch.channels_last)
    elif layout == "sliced":
        values = values.repeat(1, 1, 1, 2)[..., ::2]
    elif layout == "expanded":
        values = values[:, :, :1, :1].expand(n, channels, height, width)
    kept = torch.rand((channels, height, width), generator=generator) < draw(
        st.sampled_from([0.0, 0.4, 1.0])
    )
    mask = kept.to(DEVICE, draw(st.sampled_from([torch.bool, torch.uint8])))
    if draw(st.booleans()):
        mask = mask.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    return values, mask


@settings(max_examples=40)
@given(calls())
def test_forward_and_backward(call):
    x, mask = call
    before = x.clone()
    x = x.detach().requires_grad_()
    out = apply_mask(x, mask, backend="triton")
    assert torch.equal(out, x * mask)
    upstream = torch.randn_like(out)
    (grad,) = torch.autograd.grad(out, x, upstream)
    assert torch.equal(grad, upstream * mask)
    assert torch.equal(x, before)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_memory_format_stays(layout):
    x = torch.randn(2, 8, 4, 5, device=DEVICE).contiguous(memory_format=layout).requires_grad_()
    mask = torch.rand(8, 4, 5, device=DEVICE) < 0.5
    out = apply_mask(x, mask, backend="triton")
    (grad,) = torch.autograd.grad(out, x, torch.randn_like(out))
    assert out.stride() == x.stride() == grad.stride()


def test_non_finite_values_are_a_product():
    """0 * inf is NaN, as in the definition."""
    x = torch.tensor([float("inf"), float("-inf"), float("nan"), 1.0], device=DEVICE)
    x = x.view(1, 1, 2, 2).repeat(2, 1, 1, 1)
    mask = torch.zeros(1, 2, 2, dtype=torch.bool, device=DEVICE)
    out = apply_mask(x, mask, backend="triton")
    assert out.isnan().flatten(1).tolist() == [[True, True, True, False]] * 2


def test_it_can_be_differentiated_twice():
    mask = torch.rand(3, 2, 2, device=DEVICE) < 0.5
    found = []
    for backend in ("triton", "eager"):
        x = torch.arange(12.0, device=DEVICE).view(1, 3, 2, 2).requires_grad_()
        out = apply_mask(x, mask, backend=backend).pow(3).sum()
        (grad,) = torch.autograd.grad(out, x, create_graph=True)
        (second,) = torch.autograd.grad(grad.square().sum(), x)
        found.append((grad, second))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert found[0][1].abs().sum() > 0


def test_only_the_mask_is_saved():
    x = torch.randn(4, 8, 3, 3, device=DEVICE).requires_grad_()
    mask = torch.rand(8, 3, 3, device=DEVICE) < 0.5
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        apply_mask(x, mask, backend="triton")
    assert [(t.shape, t.dtype) for t in saved] == [(mask.shape, mask.dtype)]


@pytest.mark.parametrize("kept", [torch.bool, torch.uint8])
def test_registration(kept):
    x = torch.randn(2, 12, 3, 2, device=DEVICE).requires_grad_()
    mask = (torch.rand(12, 3, 2, device=DEVICE) < 0.5).to(kept)
    torch.library.opcheck(torch.ops.scotoma.apply_mask.default, (x, mask))


def test_compiled_in_one_graph():
    x = torch.randn(2, 12, 3, 2, device=DEVICE).requires_grad_()
    mask = torch.rand(12, 3, 2, device=DEVICE) < 0.5

    def function(x):
        return apply_mask(x.sin(), mask, backend="triton").square()

    results = []
    for run in (function, torch.compile(function, fullgraph=True, backend="aot_eager")):
        out = run(x)
        results.append((out, *torch.autograd.grad(out.sum(), x)))
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


def test_float64_has_no_kernel():
    x, mask = torch.zeros(1, 1, 2, 2, device=DEVICE).double(), torch.ones(1, 2, 2).bool()
    with pytest.raises(ValueError, match=r"'triton', but x has dtype torch\.float64"):
        apply_mask(x, mask.to(DEVICE), backend="triton")
    assert apply_mask(x, mask.to(DEVICE)).dtype == torch.float64


@pytest.mark.parametrize("kept", [torch.bool, torch.uint8], ids=str)
@pytest.mark.parametrize("mask_layout", MASK_LAYOUTS)
@pytest.mark.parametrize("layout", ALL_LAYOUTS)
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16, BFLOAT16], ids=str)
@on_triton
def test_every_form(target, dtype, layout, mask_layout, kept):
    """Compiled, where there is a GPU; channels that fill a block, and that do not."""
    if dtype not in target.dtypes:
        pytest.skip(f"{target} has no {dtype}")
    for shape in ((2, 16, 5, 3), (3, 33, 4, 7)):
        check(target.device, shape, dtype, layout, mask_layout, kept)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
@pytest.mark.parametrize("shape", [(128, 64, 32, 32), (64, 256, 56, 56), (128, 512, 4, 4)], ids=str)
def test_real_shapes(shape, layout):
    check(GPU.device, shape, BFLOAT16, layout, "contiguous", torch.bool)


def check(device, shape, dtype, layout, mask_layout, kept):
    """Forward and backward, bit for bit."""
    generator = torch.Generator(device).manual_seed(0)
    values = torch.randn(2, *shape, device=device, generator=generator)
    x, upstream = (laid_out(each, layout, dtype) for each in values)
    mask = torch.rand(shape[1:], device=device, generator=generator) < 0.5
    mask = mask_laid_out(mask.to(kept), mask_layout)
    x = x.detach().requires_grad_()
    out = apply_mask(x, mask, backend="triton")
    (grad,) = torch.autograd.grad(out, x, upstream)
    assert torch.equal(out, x * mask) and torch.equal(grad, upstream * mask)
