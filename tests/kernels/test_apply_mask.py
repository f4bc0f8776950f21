"""``apply_mask`` by its kernel equals ``x * mask`` bit for bit: a product with 0 or 1 is exact."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import DENSE, LAYOUTS, MASK_LAYOUTS, laid_out, mask_laid_out
from products import pairwise
from scotoma.kernels import apply_mask
from targets import BFLOAT16, FLOAT16, FLOAT32, GPU, everywhere, on_triton

KEPT = [torch.bool, torch.uint8]


def check(target, shape, dtype, layout, mask_layout, kept, keep=0.5):
    """Forward and backward, bit for bit; a dense layout stays."""
    device = target.device
    generator = torch.Generator(device).manual_seed(0)
    values = torch.randn(2, *shape, device=device, generator=generator)
    x, upstream = (laid_out(each, layout, dtype) for each in values)
    mask = torch.rand(shape[1:], device=device, generator=generator) < keep
    mask = mask_laid_out(mask.to(kept), mask_layout)
    before, x = x.clone(), x.detach().requires_grad_()
    out = apply_mask(x, mask, backend=target.backend)
    (grad,) = torch.autograd.grad(out, x, upstream)
    assert torch.equal(out, x * mask) and torch.equal(grad, upstream * mask)
    assert torch.equal(x, before)
    assert layout not in DENSE or out.is_contiguous(memory_format=DENSE[layout])
    assert layout not in DENSE or grad.is_contiguous(memory_format=DENSE[layout])


@everywhere
@settings(max_examples=30)
@given(data=st.data())
def test_calls(target, data):
    """Shapes on both sides of the blocks of 8 to 64 channels and of 16 to 128 rows a tile."""
    n, height, width = (data.draw(st.integers(1, top)) for top in (5, 9, 9))
    channels = data.draw(st.sampled_from([1, 3, 7, 8, 9, 12, 16, 24, 33, 64, 65]))
    choices = target.dtypes, LAYOUTS, MASK_LAYOUTS, KEPT, [0.0, 0.4, 1.0]
    check(target, (n, channels, height, width), *(data.draw(st.sampled_from(c)) for c in choices))


@pairwise(
    "dtype, layout, mask_layout, kept", [FLOAT32, FLOAT16, BFLOAT16], LAYOUTS, MASK_LAYOUTS, KEPT
)
@on_triton
def test_every_form(target, dtype, layout, mask_layout, kept):
    """Compiled, where there is a GPU; channels that fill a block, and that do not."""
    dtype = dtype if dtype in target.dtypes else target.half
    for shape in ((2, 16, 5, 3), (3, 33, 4, 7)):
        check(target, shape, dtype, layout, mask_layout, kept)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", DENSE)
@pytest.mark.parametrize("shape", [(128, 64, 32, 32), (64, 256, 56, 56), (128, 512, 4, 4)], ids=str)
def test_real_shapes(shape, layout):
    check(GPU, shape, BFLOAT16, layout, "contiguous", torch.bool)


@everywhere
def test_non_finite_values_are_a_product(target):
    """0 * inf is NaN, as in the definition."""
    x = torch.tensor([float("inf"), float("-inf"), float("nan"), 1.0], device=target.device)
    x = x.view(1, 1, 2, 2).repeat(2, 1, 1, 1)
    mask = torch.zeros(1, 2, 2, dtype=torch.bool, device=target.device)
    out = apply_mask(x, mask, backend=target.backend)
    assert out.isnan().flatten(1).tolist() == [[True, True, True, False]] * 2
    assert apply_mask(x, None, backend=target.backend) is x


@on_triton
def test_it_can_be_differentiated_twice(target):
    mask = torch.rand(3, 2, 2, device=target.device) < 0.5
    mask[0] = True
    found = []
    for backend in ("triton", "eager"):
        x = torch.arange(12.0, device=target.device).view(1, 3, 2, 2).requires_grad_()
        out = apply_mask(x, mask, backend=backend).pow(3).sum()
        (grad,) = torch.autograd.grad(out, x, create_graph=True)
        found.append((grad, *torch.autograd.grad(grad.square().sum(), x)))
    assert all(map(torch.equal, *found)) and found[0][1].any()


@on_triton
def test_only_the_mask_is_saved(target):
    x = torch.randn(4, 8, 3, 3, device=target.device).requires_grad_()
    mask = torch.rand(8, 3, 3, device=target.device) < 0.5
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        apply_mask(x, mask, backend="triton")
    assert [(t.shape, t.dtype) for t in saved] == [(mask.shape, mask.dtype)]


@on_triton
def test_registered_and_compiled_in_one_graph(target):
    x = torch.randn(2, 12, 3, 2, device=target.device).requires_grad_()
    mask = (torch.rand(12, 3, 2, device=target.device) < 0.5).byte()
    torch.library.opcheck(torch.ops.scotoma.apply_mask.default, (x, mask))

    def function(x):
        return apply_mask(x.sin(), mask, backend="triton").square()

    results = []
    for run in (function, torch.compile(function, fullgraph=True, backend="aot_eager")):
        out = run(x)
        results.append((out, *torch.autograd.grad(out.sum(), x)))
    assert all(map(torch.equal, *results))


@on_triton
def test_float64_has_no_kernel(target):
    x = torch.zeros(1, 1, 2, 2, device=target.device, dtype=torch.float64)
    mask = torch.ones(1, 2, 2, dtype=torch.bool, device=target.device)
    with pytest.raises(ValueError, match=r"'triton', but x has dtype torch\.float64"):
        apply_mask(x, mask, backend="triton")
    assert apply_mask(x, mask).dtype == torch.float64
