"""Derivatives of derivatives: finite differences for the eager definition, and the eager
definition in float64 for the kernels (whose backward is then plain torch)."""

import pytest
import torch
from products import pairwise
from scotoma.kernels import Projection, bn_mask_add_relu
from targets import on_triton

SHAPE = (2, 2, 3, 3)
TRAINING = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
SETTINGS = pairwise(
    "addend, training, relu", ["none", "residual", "projection"], [True, False], [True, False]
)


def problem(addend, dtype, device="cpu"):
    """Leaves, and the function of them; running statistics are fresh in each call."""
    generator = torch.Generator().manual_seed(3)

    def normal(*size):
        values = torch.randn(size, dtype=torch.float64, generator=generator)
        return values.to(device, dtype).requires_grad_()

    leaves = [normal(*SHAPE), normal(2), normal(2)]
    if addend == "residual":
        leaves += [normal(*SHAPE)]
    elif addend == "projection":
        leaves += [normal(*SHAPE), normal(2), normal(2)]
    masks = [torch.rand(SHAPE[1:], generator=generator).to(device) < 0.6 for _ in range(2)]
    vector = dtype if dtype == torch.float64 else torch.float32

    def call(x, weight, bias, *others, **options):
        def running():
            return [torch.full((2,), f, dtype=vector, device=device) for f in (0.3, 1.7)]

        projected = Projection(*others, *running(), masks[1]) if addend == "projection" else None
        return bn_mask_add_relu(
            x,
            weight,
            bias,
            *running(),
            mask=masks[0],
            residual=others[0] if addend == "residual" else None,
            projection=projected,
            **options,
        )

    return leaves, call


@SETTINGS
def test_gradcheck_twice(training, relu, addend):
    leaves, call = problem(addend, torch.float64)

    def function(*leaves):
        return call(*leaves, relu=relu, training=training, backend="eager")

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


def second(leaves, call, training, relu, backend, connect=None):
    """First and second derivatives of a function that is curved in every input."""
    inputs = connect(leaves) if connect else leaves
    out = call(*inputs, relu=relu, training=training, backend=backend)
    # The second term is not zero where ReLU is.
    total = (out.square() + out).sum()
    first = torch.autograd.grad(total, leaves, create_graph=True, allow_unused=True)
    loss = sum(g.sin().sum() for g in first if g is not None)
    return first, torch.autograd.grad(loss, leaves, allow_unused=True)


def check(found, expected):
    """1024 roundings of the largest value: sums of 18 products of values up to 5, thrice nested."""
    for values, rights in zip(found, expected, strict=True):
        for value, right in zip(values, rights, strict=True):
            # Where there is no gradient, eager may return zeros and the kernels None.
            value = torch.zeros_like(right) if value is None and right is not None else value
            if right is not None:
                atol = 1024 * 2**-23 * max(1.0, right.abs().max().item())
                torch.testing.assert_close(value.double(), right.double(), rtol=0, atol=atol)
            else:
                assert value is None or not value.any()


@on_triton
@SETTINGS
def test_double_backward(target, training, relu, addend):
    found = second(*problem(addend, torch.float32, target.device), training, relu, "triton")
    expected = second(*problem(addend, torch.float64, target.device), training, relu, "eager")
    check(found, expected)


CONNECTED = {
    "the second branch is the first": lambda t: [*t[:3], t[0], *t[4:]],
    "the second branch depends on the first": lambda t: [*t[:3], t[3] + t[0] ** 2, *t[4:]],
    "parameters are shared": lambda t: [*t[:4], t[1], t[2]],
    "a weight depends on x": lambda t: [t[0], t[1] + t[0].mean((0, 2, 3)), *t[2:]],
}


@on_triton
@TRAINING
@pytest.mark.parametrize("connect", CONNECTED.values(), ids=CONNECTED)
def test_inputs_that_depend_on_each_other(target, training, connect):
    """The gradient to an input is the partial one: what flows on from there is not in it."""
    results = [
        second(*problem("projection", dtype, target.device), training, True, backend, connect)
        for dtype, backend in ((torch.float32, "triton"), (torch.float64, "eager"))
    ]
    check(*results)


@on_triton
@TRAINING
@pytest.mark.parametrize("constant", [slice(0, 3), slice(3, 6)], ids=["main", "projection"])
def test_one_branch_of_constants(target, training, constant):
    """Beside frozen layers: only one of the branches has a derivative."""
    results = []
    for dtype, backend in ((torch.float32, "triton"), (torch.float64, "eager")):
        leaves, call = problem("projection", dtype, target.device)
        for leaf in leaves[constant]:
            leaf.requires_grad_(False)
        out = call(*leaves, training=training, backend=backend)
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        first = torch.autograd.grad(out.square().sum(), wanted, create_graph=True)
        results.append((first, torch.autograd.grad(sum(g.sin().sum() for g in first), wanted)))
    check(*results)
