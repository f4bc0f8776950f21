"""The operator on every backend against the formula written out by hand in float64."""

import pytest
import torch
from bn_cases import NAMES, cases
from bn_formula import formula, gradient_tolerances, output_tolerance, running_formula
from hypothesis import given, settings
from hypothesis import strategies as st
from targets import EAGER, on_triton


@settings(max_examples=100)
@given(cases(EAGER))
def test_eager(case):
    check(case)


@on_triton
@settings(max_examples=30)
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

    assert out.dtype == case.main[0].dtype and out.shape == case.main[0].shape
    error = (out.double() - expected).abs()
    assert (error <= tolerance).all(), (error / tolerance).max()

    found = [branch[3:5] for branch in case.branches() if branch[3] is not None]
    for (mean, variance), right in zip(found, expected_running, strict=True):
        assert ((mean.double() - right[0]).abs() <= right[2]).all()
        assert ((variance.double() - right[1]).abs() <= right[3]).all()

    tolerances = gradient_tolerances(case, case.upstream, expected_grads)
    wanted = [i for i, wants in enumerate(case.wanted) if wants]
    for i, grad in zip(wanted, grads, strict=True):
        assert grad.dtype == case.inputs()[i].dtype
        error = (grad.double() - expected_grads[i]).abs()
        assert (error <= tolerances[i]).all(), (i, (error / tolerances[i]).max())

    for tensor, copy in zip(constants, copies, strict=True):
        assert torch.equal(tensor, copy)
