"""The operator on every backend: against the formula written out by hand in float64, and laws that
need no reference."""

import pytest
import torch
from bn_cases import cases
from bn_formula import check
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import DENSE
from scotoma.kernels import Projection, bn_mask_add_relu
from targets import EAGER, everywhere, on_triton

SHAPE = (4, 3, 5, 6)
TRAINING = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


@settings(max_examples=100)
@given(cases(EAGER))
def test_eager(case):
    check(case)


@on_triton
@settings(max_examples=20)
@given(data=st.data())
def test_formula(target, data):
    check(data.draw(cases(target)))


@pytest.mark.slow
@settings(max_examples=600, derandomize=False)
@given(cases(EAGER))
def test_eager_with_random_calls(case):
    check(case)


@pytest.mark.slow
@on_triton
@settings(max_examples=200, derandomize=False)
@given(data=st.data())
def test_formula_with_random_calls(target, data):
    check(data.draw(cases(target)))


def normal(target, dtype=torch.float32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPE, dtype=torch.float64, generator=generator).to(target.device, dtype)


def call(target, x, *, training, **options):
    """With fixed affine parameters and fresh running statistics."""
    generator = torch.Generator().manual_seed(11)
    weight, bias, mean = (torch.randn(3, generator=generator).to(x.device) for _ in range(3))
    vectors = weight, bias, mean, mean.square() + 0.5
    return bn_mask_add_relu(x, *vectors, training=training, backend=target.backend, **options)


def random_mask(target, keep=0.5):
    mask = torch.rand(SHAPE[1:], generator=torch.Generator().manual_seed(5)) < keep
    return mask.to(target.device)


@everywhere
@TRAINING
def test_mask_of_ones_is_no_mask(target, training):
    ones, mask = torch.ones_like(random_mask(target)), random_mask(target)
    for dtype in (torch.float32, target.half):
        x = normal(target, dtype)
        without = call(target, x, training=training)
        for same in (ones, ones.byte()):
            assert torch.equal(call(target, x, training=training, mask=same), without)
        masked = [call(target, x, training=training, mask=m) for m in (mask, mask.byte())]
        assert torch.equal(*masked) and not torch.equal(masked[0], without)


@everywhere
@TRAINING
def test_mask_of_zeros_leaves_the_residual(target, training):
    """Where that is zero too, ReLU is in its corner: its slope there is 0."""
    x, residual = normal(target).requires_grad_(), normal(target, seed=2)
    residual[0] = 0
    mask = torch.zeros_like(random_mask(target))
    out = call(target, x, training=training, mask=mask, residual=residual.requires_grad_())
    assert torch.equal(out, residual.clamp(min=0))
    upstream = normal(target, seed=3)
    gradients = torch.autograd.grad(out, (x, residual), upstream)
    assert not gradients[0].any()
    assert torch.equal(gradients[1], upstream * (residual > 0))


@everywhere
def test_images_are_independent_in_evaluation(target):
    x, mask = normal(target), random_mask(target)
    whole = call(target, x, training=False, mask=mask)
    order = torch.tensor([2, 0, 3], device=target.device)
    assert torch.equal(whole[order], call(target, x[order], training=False, mask=mask))


@everywhere
def test_formats_agree_in_evaluation(target):
    """Contiguous and channels_last take other ways through the kernels to the same bits."""
    options = {"mask": random_mask(target), "residual": normal(target, seed=2), "training": False}
    x, results = normal(target), []
    for layout in DENSE.values():
        results.append(call(target, x.contiguous(memory_format=layout), **options))
        assert results[-1].is_contiguous(memory_format=layout)
    assert torch.equal(*results)


@everywhere
@pytest.mark.parametrize("factor", [2.0**-6, 2.0**5])
def test_powers_of_two_vanish(target, factor):
    """x times 2^k with eps times 4^k is the same output, bit for bit: only exponents change."""
    x, mask, eps = normal(target), random_mask(target), 2.0**-10
    plain = call(target, x, training=True, mask=mask, eps=eps)
    scaled = call(target, x * factor, training=True, mask=mask, eps=eps * factor**2)
    assert torch.equal(scaled, plain)


@everywhere
@TRAINING
def test_branches_may_change_places(target, training):
    """relu(a + b) == relu(b + a), bit for bit, with each branch's mask kept to it."""
    mask = random_mask(target, 0.3)

    def branch(x, mask):
        zeros, ones = (f(3, device=target.device) for f in (torch.zeros, torch.ones))
        return Projection(x, None, None, zeros, ones, mask)

    def total(one, other):
        options = dict(training=training, backend=target.backend)
        return bn_mask_add_relu(*one[:5], mask=one.mask, projection=other, **options)

    one, other = branch(normal(target), mask), branch(normal(target, seed=2) * 2 + 1, ~mask)
    assert torch.equal(total(one, other), total(other, one))
