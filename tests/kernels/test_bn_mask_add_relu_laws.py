"""Laws of the operator that need no reference: what must not change, and what must vanish."""

import pytest
import torch
from scotoma.kernels import Projection, apply_mask, bn_mask_add_relu

SHAPE = (4, 3, 5, 6)
TRAINING = pytest.mark.parametrize("training", [True, False])
FLOAT32 = torch.finfo(torch.float32).eps


def call(x, *, training, **options):
    """The operator with fixed affine parameters and fresh running statistics."""
    generator = torch.Generator().manual_seed(11)
    weight, bias, mean = (torch.randn(x.shape[1], generator=generator).to(x) for _ in range(3))
    variance = mean.square() + 0.5
    return bn_mask_add_relu(x, weight, bias, mean, variance, training=training, **options)


def random_mask(keep=0.5):
    return torch.rand(SHAPE[1:], generator=torch.Generator().manual_seed(5)) < keep


@TRAINING
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mask_of_ones_is_no_mask(training, dtype):
    x, mask = torch.randn(SHAPE).to(dtype), torch.ones(SHAPE[1:], dtype=torch.bool)
    without = call(x, training=training)
    assert torch.equal(call(x, training=training, mask=mask), without)
    assert torch.equal(call(x, training=training, mask=mask.to(torch.uint8)), without)


@TRAINING
def test_mask_of_zeros_leaves_the_residual(training):
    x = torch.randn(SHAPE, requires_grad=True)
    residual = torch.randn(SHAPE)
    mask = torch.zeros(SHAPE[1:], dtype=torch.bool)
    out = call(x, training=training, mask=mask, residual=residual)
    assert torch.equal(out, residual.clamp(min=0))
    (gradient,) = torch.autograd.grad(out, x, torch.randn(SHAPE))
    assert torch.equal(gradient, torch.zeros(SHAPE))


def test_gradient_at_zero_is_zero():
    """Masked positions without addend sit exactly on ReLU's corner; its slope there is 0."""
    residual = torch.zeros(SHAPE, requires_grad=True)
    mask = torch.zeros(SHAPE[1:], dtype=torch.bool)
    out = call(torch.randn(SHAPE), training=True, mask=mask, residual=residual)
    (gradient,) = torch.autograd.grad(out, residual, torch.ones(SHAPE))
    assert torch.equal(gradient, torch.zeros(SHAPE))


@TRAINING
def test_bool_and_uint8_masks_agree(training):
    x, mask = torch.randn(SHAPE), random_mask()
    assert torch.equal(
        call(x, training=training, mask=mask), call(x, training=training, mask=mask.byte())
    )


def test_doubled_batch_keeps_the_output():
    """Each image twice has the same mean and the same biased variance."""
    x = torch.randn(SHAPE, dtype=torch.float64)
    once = call(x, training=True, mask=random_mask())
    twice = call(torch.cat([x, x]), training=True, mask=random_mask())
    torch.testing.assert_close(twice, torch.cat([once, once]), rtol=1e-12, atol=1e-12)


def test_images_are_independent_in_evaluation():
    x = torch.randn(SHAPE)
    whole = call(x, training=False, mask=random_mask())
    assert torch.equal(whole[1:2], call(x[1:2], training=False, mask=random_mask()))


def test_masked_values_count_in_the_statistics():
    """Change a masked input: outputs elsewhere in its channel move, other channels stay."""
    mask = torch.ones(SHAPE[1:], dtype=torch.bool)
    mask[1, 2, 3] = False
    x = torch.randn(SHAPE)
    moved = x.clone()
    moved[0, 1, 2, 3] += 100
    before = call(x, training=True, mask=mask, relu=False)
    after = call(moved, training=True, mask=mask, relu=False)
    assert (after[:, 1] != before[:, 1])[:, mask[1]].all()
    assert (after[:, 1, 2, 3] == 0).all() and (before[:, 1, 2, 3] == 0).all()
    assert torch.equal(after[:, [0, 2]], before[:, [0, 2]])


def test_masked_positions_get_the_statistics_gradient():
    """At a masked position dx is w/std * (-mean(g) - xhat * mean(g * xhat)), g the masked one."""
    x = torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)
    mask, upstream = random_mask(), torch.randn(SHAPE, dtype=torch.float64)
    weight = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)
    out = bn_mask_add_relu(
        x, weight, None, None, None, mask=mask, relu=False, training=True, eps=1e-5
    )
    (gradient,) = torch.autograd.grad(out, x, upstream)

    values, dims = x.detach(), (0, 2, 3)
    centred = values - values.mean(dims, keepdim=True)
    inverse = (centred.square().mean(dims, keepdim=True) + 1e-5).rsqrt()
    xhat, g = centred * inverse, upstream * mask
    expected = -g.mean(dims, keepdim=True) - xhat * (g * xhat).mean(dims, keepdim=True)
    expected = expected * inverse * weight.view(-1, 1, 1)
    hidden = (~mask).expand(SHAPE)
    torch.testing.assert_close(gradient[hidden], expected[hidden], rtol=1e-10, atol=1e-12)
    assert (gradient[hidden] != 0).all()


def test_masked_positions_get_no_gradient_in_evaluation():
    x = torch.randn(SHAPE, requires_grad=True)
    mask = random_mask()
    out = call(x, training=False, mask=mask, relu=False)
    (gradient,) = torch.autograd.grad(out, x, torch.ones(SHAPE))
    assert torch.equal(gradient == 0, (~mask).expand(SHAPE))


@TRAINING
def test_branches_may_change_places(training):
    """relu(a + b) == relu(b + a), bit for bit, with each branch's mask kept to it."""
    first, second = torch.randn(SHAPE), torch.randn(SHAPE) * 2 + 1
    masks = random_mask(0.3), ~random_mask(0.3)

    def branch(x, mask):
        return Projection(x, None, None, torch.zeros(3), torch.ones(3), mask)

    def total(one, other):
        return bn_mask_add_relu(*one[:5], mask=one.mask, projection=other, training=training)

    one, other = branch(first, masks[0]), branch(second, masks[1])
    assert torch.equal(total(one, other), total(other, one))


def test_shift_and_scale_of_the_input_vanish_in_training():
    """Batch norm forgets an affine change of its input, up to eps."""
    x = torch.randn(SHAPE, dtype=torch.float64)
    mask = random_mask()
    plain = call(x, training=True, mask=mask, eps=1e-12)
    changed = call(7 * x - 3, training=True, mask=mask, eps=1e-12)
    torch.testing.assert_close(changed, plain, rtol=1e-9, atol=1e-9)


def test_statistics_survive_a_mean_far_above_the_spread():
    """mean = 1000 std: the variance must not come from a difference of squares in float32."""
    noise = torch.randn(8, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    x = noise + 1000
    mean, variance = torch.zeros(2), torch.zeros(2)
    bn_mask_add_relu(x, None, None, mean, variance, training=True, momentum=1.0)
    exact = x.double().var((0, 2, 3), unbiased=True)
    # x itself is exact; centring costs |mean| / std roundings.
    tolerance = 32 * FLOAT32 * 1000
    assert ((variance.double() - exact).abs() <= tolerance).all()


def test_apply_mask():
    x = torch.randn(SHAPE, requires_grad=True)
    mask = random_mask()
    out = apply_mask(x, mask)
    assert torch.equal(out, torch.where(mask, x, torch.zeros(())) + 0.0)
    (gradient,) = torch.autograd.grad(out, x, torch.ones(SHAPE))
    assert torch.equal(gradient, mask.expand(SHAPE).float())
    assert apply_mask(x, None) is x
    last = x.detach().to(memory_format=torch.channels_last)
    assert apply_mask(last, mask).is_contiguous(memory_format=torch.channels_last)
