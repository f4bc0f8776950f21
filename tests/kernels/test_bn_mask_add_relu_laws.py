"""Laws of the operator that need no reference: what must not change, and what must vanish."""

import pytest
import torch
from layouts import DENSE
from scotoma.kernels import Projection, apply_mask, bn_mask_add_relu
from targets import everywhere

SHAPE = (4, 3, 5, 6)
TRAINING = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


def normal(target, dtype=torch.float32, *, seed=1, shape=SHAPE):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(target.device, dtype)


def vectors(x):
    """Fixed affine parameters and fresh running statistics."""
    generator = torch.Generator().manual_seed(11)
    weight, bias, mean = (torch.randn(x.shape[1], generator=generator) for _ in range(3))
    wide = x.dtype if x.dtype == torch.float64 else torch.float32
    return [v.to(x.device, wide) for v in (weight, bias, mean, mean.square() + 0.5)]


def call(target, x, *, training, **options):
    return bn_mask_add_relu(x, *vectors(x), training=training, backend=target.backend, **options)


def random_mask(target, keep=0.5):
    mask = torch.rand(SHAPE[1:], generator=torch.Generator().manual_seed(5)) < keep
    return mask.to(target.device)


def widest(target):
    return torch.float64 if target.backend == "eager" else torch.float32


def tolerance(dtype):
    """32 roundings of the sums over values up to 4, weighed with up to 3, 1/std below 2."""
    return 32 * torch.finfo(dtype).eps * 4 * 3 * 2


@everywhere
@TRAINING
def test_mask_of_ones_is_no_mask(target, training):
    mask = torch.ones(SHAPE[1:], dtype=torch.bool, device=target.device)
    for dtype in (torch.float32, target.half):
        x = normal(target, dtype)
        without = call(target, x, training=training)
        assert torch.equal(call(target, x, training=training, mask=mask), without)
        assert torch.equal(call(target, x, training=training, mask=mask.byte()), without)


@everywhere
@TRAINING
def test_mask_of_zeros_leaves_the_residual(target, training):
    x, residual = normal(target).requires_grad_(), normal(target, seed=2)
    mask = torch.zeros(SHAPE[1:], dtype=torch.bool, device=target.device)
    out = call(target, x, training=training, mask=mask, residual=residual)
    assert torch.equal(out, residual.clamp(min=0))
    (gradient,) = torch.autograd.grad(out, x, normal(target, seed=3))
    assert torch.equal(gradient, torch.zeros_like(x))


@everywhere
def test_gradient_at_zero_is_zero(target):
    """Masked positions without addend sit exactly on ReLU's corner; its slope there is 0."""
    residual = torch.zeros(SHAPE, device=target.device, requires_grad=True)
    mask = torch.zeros(SHAPE[1:], dtype=torch.bool, device=target.device)
    out = call(target, normal(target), training=True, mask=mask, residual=residual)
    (gradient,) = torch.autograd.grad(out, residual, torch.ones_like(residual))
    assert torch.equal(gradient, torch.zeros_like(residual))


@everywhere
@TRAINING
def test_bool_and_uint8_masks_agree(target, training):
    x, mask = normal(target), random_mask(target)
    assert torch.equal(
        call(target, x, training=training, mask=mask),
        call(target, x, training=training, mask=mask.byte()),
    )


@everywhere
def test_doubled_batch_keeps_the_output(target):
    """Each image twice has the same mean and the same biased variance."""
    x, mask = normal(target, widest(target)), random_mask(target)
    once = call(target, x, training=True, mask=mask)
    twice = call(target, torch.cat([x, x]), training=True, mask=mask)
    atol = tolerance(x.dtype)
    torch.testing.assert_close(twice, torch.cat([once, once]), rtol=0, atol=atol)


@everywhere
def test_order_of_images(target):
    """Evaluation does not see it, bit for bit; training up to the order of sums."""
    x, mask = normal(target), random_mask(target)
    order = torch.tensor([2, 0, 3, 1], device=target.device)
    for training, atol in ((False, 0), (True, tolerance(x.dtype))):
        whole = call(target, x, training=training, mask=mask)
        moved = call(target, x[order], training=training, mask=mask)
        torch.testing.assert_close(moved, whole[order], rtol=0, atol=atol)


@everywhere
def test_images_are_independent_in_evaluation(target):
    x, mask = normal(target), random_mask(target)
    whole = call(target, x, training=False, mask=mask)
    assert torch.equal(whole[1:2], call(target, x[1:2], training=False, mask=mask))


@everywhere
def test_formats_agree_in_evaluation(target):
    """Contiguous and channels_last take other ways through the kernels to the same bits."""
    x, mask, residual = normal(target), random_mask(target), normal(target, seed=2)
    results = [
        call(
            target,
            x.contiguous(memory_format=layout),
            training=False,
            mask=mask,
            residual=residual,
        )
        for layout in DENSE.values()
    ]
    assert torch.equal(*results)
    for out, layout in zip(results, DENSE.values(), strict=True):
        assert out.is_contiguous(memory_format=layout)


@everywhere
@pytest.mark.parametrize("factor", [2.0**-6, 2.0**5])
def test_powers_of_two_vanish(target, factor):
    """x times 2^k with eps times 4^k is the same output, bit for bit: only exponents change."""
    x, mask = normal(target), random_mask(target)
    eps = 2.0**-10
    plain = call(target, x, training=True, mask=mask, eps=eps)
    scaled = call(target, x * factor, training=True, mask=mask, eps=eps * factor**2)
    assert torch.equal(scaled, plain)


@everywhere
def test_shift_and_scale_of_the_input_vanish_in_training(target):
    """Batch norm forgets an affine change of its input, up to eps."""
    x, mask = normal(target, widest(target)), random_mask(target)
    plain = call(target, x, training=True, mask=mask, eps=1e-30)
    changed = call(target, 7 * x - 3, training=True, mask=mask, eps=1e-30)
    torch.testing.assert_close(changed, plain, rtol=0, atol=4 * tolerance(x.dtype))


@everywhere
def test_masked_values_count_in_the_statistics(target):
    """Change a masked input: outputs elsewhere in its channel move, other channels stay."""
    mask = torch.ones(SHAPE[1:], dtype=torch.bool, device=target.device)
    mask[1, 2, 3] = False
    x = normal(target)
    moved = x.clone()
    moved[0, 1, 2, 3] += 100
    before = call(target, x, training=True, mask=mask, relu=False)
    after = call(target, moved, training=True, mask=mask, relu=False)
    assert (after[:, 1] != before[:, 1])[:, mask[1]].all()
    assert (after[:, 1, 2, 3] == 0).all() and (before[:, 1, 2, 3] == 0).all()
    assert torch.equal(after[:, [0, 2]], before[:, [0, 2]])


@everywhere
def test_masked_positions_get_the_statistics_gradient(target):
    """At a masked position dx is w/std * (-mean(g) - xhat * mean(g * xhat)), g the masked one."""
    dtype = widest(target)
    x, mask = normal(target, dtype).requires_grad_(), random_mask(target)
    upstream, weight = normal(target, dtype, seed=2), vectors(x)[0]
    out = call(target, x, training=True, mask=mask, relu=False, eps=1e-5)
    (gradient,) = torch.autograd.grad(out, x, upstream)

    values, dims = x.detach().double(), (0, 2, 3)
    centred = values - values.mean(dims, keepdim=True)
    inverse = (centred.square().mean(dims, keepdim=True) + 1e-5).rsqrt()
    xhat, g = centred * inverse, upstream.double() * mask
    expected = -g.mean(dims, keepdim=True) - xhat * (g * xhat).mean(dims, keepdim=True)
    expected = expected * inverse * weight.double().view(-1, 1, 1)
    hidden = (~mask).expand(SHAPE)
    error = (gradient.double() - expected)[hidden].abs().max()
    assert error <= tolerance(dtype)
    assert (gradient[hidden] != 0).all()


@everywhere
def test_masked_positions_get_no_gradient_in_evaluation(target):
    x, mask = normal(target).requires_grad_(), random_mask(target)
    out = call(target, x, training=False, mask=mask, relu=False)
    (gradient,) = torch.autograd.grad(out, x, torch.ones_like(x))
    assert torch.equal(gradient == 0, (~mask).expand(SHAPE))


@everywhere
@TRAINING
def test_branches_may_change_places(target, training):
    """relu(a + b) == relu(b + a), bit for bit, with each branch's mask kept to it."""
    first, second = normal(target), normal(target, seed=2) * 2 + 1
    masks = random_mask(target, 0.3), ~random_mask(target, 0.3)

    def branch(x, mask):
        zeros, ones = (f(3, device=target.device) for f in (torch.zeros, torch.ones))
        return Projection(x, None, None, zeros, ones, mask)

    def total(one, other):
        return bn_mask_add_relu(
            *one[:5],
            mask=one.mask,
            projection=other,
            training=training,
            backend=target.backend,
        )

    one, other = branch(first, masks[0]), branch(second, masks[1])
    assert torch.equal(total(one, other), total(other, one))


@everywhere
def test_running_statistics_after_many_steps(target):
    """Closed form of k updates: (1-m)^k start + m sum (1-m)^(k-i) batch_i."""
    momentum, steps = 0.25, 5
    mean = torch.full((3,), 2.0, device=target.device)
    variance = torch.full((3,), 7.0, device=target.device)
    expected = torch.stack([mean, variance]).double()
    for step in range(steps):
        x = normal(target, seed=step) * (step + 1) + step
        bn_mask_add_relu(
            x, None, None, mean, variance, training=True, momentum=momentum, backend=target.backend
        )
        batch = torch.stack([f(x.double(), (0, 2, 3)) for f in (torch.mean, torch.var)])
        expected = (1 - momentum) * expected + momentum * batch
    # Each step rounds its sums and the result, whose terms are no larger than the largest.
    bound = steps * 32 * 2**-23 * expected.abs().max()
    assert ((torch.stack([mean, variance]).double() - expected).abs() <= bound).all()


def test_apply_mask():
    target_mask = torch.rand(SHAPE[1:], generator=torch.Generator().manual_seed(5)) < 0.5
    x = torch.randn(SHAPE, requires_grad=True)
    out = apply_mask(x, target_mask)
    assert torch.equal(out, torch.where(target_mask, x, torch.zeros(())) + 0.0)
    (gradient,) = torch.autograd.grad(out, x, torch.ones(SHAPE))
    assert torch.equal(gradient, target_mask.expand(SHAPE).float())
    assert apply_mask(x, None) is x
    last = x.detach().to(memory_format=torch.channels_last)
    assert apply_mask(last, target_mask).is_contiguous(memory_format=torch.channels_last)
