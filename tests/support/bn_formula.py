"""``relu(mask * BN(x) + residual)`` written out in float64, and how far rounding may lead from it.

Nothing here calls a batch norm of torch: mean, variance, mask, sum and ReLU are spelled out, and
gradients are autograd's of that formula.

Every tolerance counts roundings. With u the unit of the activations' dtype and v that of the
sums (float32; float64 for float64 activations), a term of the output is rounded at most four
times to u, and its sums lose at most 32 roundings v, magnified by cancellation in x - mean
(``cancel`` = |x| / std) and by an error of the variance (``spread`` = the largest normalised
value).
"""

import torch
from bn_cases import NAMES
from layouts import output_format


def check(case):
    """Output, running statistics and every gradient, and what must stay as it was."""
    expected, before_relu, leaves = formula(case)
    expected_running = list(running_formula(case))
    tolerance = output_tolerance(case)
    if case.relu:
        # Within the rounding error of zero, ReLU may be open in one precision and shut in another.
        case = case.without_corner(before_relu.abs() <= tolerance)
    expected_grads = torch.autograd.grad(expected, leaves, case.upstream.double())
    constants = [
        t
        for branch in case.branches()
        for name, t in zip(NAMES, branch, strict=True)
        if t is not None and not ("running" in name and case.training)
    ]
    constants += [t for t in (case.residual, case.upstream) if t is not None]
    copies = [t.clone() for t in constants]
    out, grads = case.gradients()
    x = case.main[0]
    assert out.dtype == x.dtype and out.shape == x.shape
    assert case.backend == "eager" or out.is_contiguous(memory_format=output_format(x))
    near("output", out, expected.detach(), tolerance)
    found = [branch[3:5] for branch in case.branches() if branch[3] is not None]
    for (mean, variance), right in zip(found, expected_running, strict=True):
        near("running_mean", mean, right[0], right[2])
        near("running_var", variance, right[1], right[3])
    tolerances = gradient_tolerances(case, case.upstream, expected_grads)
    wanted = [i for i, wants in enumerate(case.wanted) if wants]
    for i, grad in zip(wanted, grads, strict=True):
        assert grad.dtype == case.inputs()[i].dtype
        near(f"gradient {i}", grad, expected_grads[i], tolerances[i])
    assert all(map(torch.equal, constants, copies))


def near(what, found, expected, tolerance):
    """Wherever it is, an error is allowed up to ``tolerance``."""
    error = (found.double() - expected).abs()
    allowed = torch.as_tensor(tolerance, device=error.device).expand_as(error)
    worst = (error - allowed).argmax()
    assert (error <= allowed).all(), (
        f"{what}: error {error.flatten()[worst]:.3g}, "
        f"allowed {allowed.reshape(-1)[worst]:.3g}, at {int(worst)} of {list(found.shape)}"
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


def running_formula(case):
    """Of each branch with running statistics: their new values, and how far they may be off.

    Closed form: (1 - momentum) * old + momentum * batch, the batch's variance unbiased.
    """
    for x, _, _, mean, variance, _ in case.branches():
        if mean is None:
            continue
        if not case.training:
            yield mean.double(), variance.double(), 0.0, 0.0
            continue
        batch_mean, biased, count = statistics(x.double())
        m, size = float(case.momentum), x.double().abs().amax((0, 2, 3))
        u = 32 * wide_unit(case)
        # The vectors themselves may be half precision: two roundings of the result.
        stored = 2 * unit(mean.dtype)
        unbiased = biased * count / (count - 1)
        yield (
            (1 - m) * mean.double() + m * batch_mean,
            (1 - m) * variance.double() + m * unbiased,
            u * (size + mean.double().abs()) + stored * (mean.double().abs() + batch_mean.abs()),
            u * (unbiased + size * unbiased.sqrt() + variance.double())
            + stored * (unbiased + variance.double()),
        )


def sizes(branch, case):
    """Of a branch, per channel: |w|, |b|, 1/std, and the factors by which rounding errors grow."""
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


def kept_unit(branch, case):
    """In which statistics are kept for use.

    Torch's batch norm on a CPU rounds them to the activations' dtype where no float32 vector says
    otherwise: 4 roundings of that, where 32 wide ones are allowed.
    """
    if case.backend == "eager" and all(vector is None for vector in branch[1:5]):
        return max(wide_unit(case), unit(branch[0].dtype) / 8)
    return wide_unit(case)


def output_tolerance(case):
    """[C,1,1]: 4 roundings to the activations' dtype of every term, 32 wide ones in the sums."""
    narrow, total = unit(case.main[0].dtype), 0
    for branch in case.branches():
        w, b, _, cancel, spread = sizes(branch, case)
        wide = kept_unit(branch, case)
        total = total + 4 * narrow * (w * spread + b) + 32 * wide * (w * cancel * spread + b)
    if case.residual is not None:
        total = total + 4 * narrow * case.residual.double().abs().max()
    return total.view(-1, 1, 1)


def gradient_tolerances(case, upstream, expected):
    """One for each of ``Case.inputs``; ``expected`` are their gradients."""
    tolerances = []
    narrow = unit(upstream.dtype)
    largest = upstream.double().abs().amax((0, 2, 3))
    summed = upstream.double().abs().sum((0, 2, 3))
    right = iter(expected)
    for branch in case.branches():
        w, _, inverse, cancel, spread = sizes(branch, case)
        wide = kept_unit(branch, case)
        grown = wide * cancel * spread**2
        next(right)
        dx = w * inverse * largest * (4 * narrow * spread**2 + 64 * grown)
        tolerances.append(dx.view(-1, 1, 1) + tiny(upstream.dtype))
        # Torch's backward on a CPU may round the vectors' gradients to x's dtype once on the way.
        for vector, factor in (
            (branch[1], 64 * grown + narrow * spread),
            (branch[2], 64 * wide + narrow),
        ):
            if vector is not None:
                stored = unit(vector.dtype) * next(right).abs() + tiny(vector.dtype)
                tolerances.append(factor * summed + stored)
    if case.residual is not None:
        tolerances.append(torch.tensor(0.0))  # the upstream gradient itself, or zero
    return tolerances


def tiny(dtype):
    """Below it float16 rounds by absolute steps."""
    return torch.finfo(dtype).smallest_normal if dtype == torch.float16 else 0.0
