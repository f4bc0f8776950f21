"""The operator as a module, once on a target and once as a reference in float64."""

import copy

import torch
from scotoma.kernels import Projection, bn_mask_add_relu
from torch import nn

SHAPE = (3, 5, 4, 4)


class Block(nn.Module):
    """The operator with the parameters and buffers of its branches."""

    def __init__(self, addend="none", relu=True, channels=SHAPE[1], size=SHAPE[2:]):
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.addend, self.relu, self.backend, self.momentum = addend, relu, "eager", 0.1
        for i in range(2):
            self.register_parameter(f"weight{i}", nn.Parameter(torch.randn(channels)))
            self.register_parameter(f"bias{i}", nn.Parameter(torch.randn(channels)))
            self.register_buffer(f"mean{i}", torch.randn(channels))
            self.register_buffer(f"var{i}", torch.rand(channels) + 0.5)
            mask = torch.rand(channels, *size, generator=generator) < 0.6
            self.register_buffer(f"mask{i}", mask)

    def branch(self, i):
        names = ("weight", "bias", "mean", "var", "mask")
        return [getattr(self, f"{name}{i}") for name in names]

    def running(self):
        return self.mean0, self.var0, self.mean1, self.var1

    def forward(self, x, other=None):
        *first, mask = self.branch(0)
        return bn_mask_add_relu(
            x,
            *first,
            mask=mask,
            residual=other if self.addend == "residual" else None,
            projection=Projection(other, *self.branch(1)) if self.addend == "projection" else None,
            relu=self.relu,
            training=self.training,
            momentum=self.momentum,
            backend=self.backend,
        )


def on(target, addend="none", training=True, **options):
    """A block on a target, its parameters from a fixed seed."""
    torch.manual_seed(2)
    block = Block(addend, **options).train(training).to(target.device)
    block.backend = target.backend
    return block


def pair(target, training, addend="none", **options):
    """The same block for the target (float32) and for reference (eager, float64)."""
    tested = on(target, addend, training, **options)
    reference = copy.deepcopy(tested).double()
    reference.backend = "eager"
    return tested, reference


def inputs(target, seed=0, count=2):
    generator = torch.Generator().manual_seed(seed)
    single = [torch.randn(SHAPE, generator=generator).to(target.device) for _ in range(count)]
    double = [t.double().requires_grad_() for t in single]
    return [t.requires_grad_() for t in single], double


def close(found, expected, roundings=256):
    """Errors up to 256 roundings of the largest value: sums of 48 terms, their variance and the
    products of both, for inputs of mean 0 and deviation 1."""
    assert len(found) == len(expected)
    for value, right in zip(found, expected, strict=True):
        if value is None:  # eager gives zeros where the kernels know that there is nothing
            assert right is None or not right.any()
            continue
        largest = right.abs().max().item() if right.numel() else 0.0
        atol = roundings * 2**-23 * largest
        torch.testing.assert_close(value.double(), right, rtol=0, atol=atol)


def leaves(block, *tensors):
    return [*tensors, *block.parameters()]


def gradients(out, wanted, **options):
    return torch.autograd.grad(out, wanted, allow_unused=True, **options)
