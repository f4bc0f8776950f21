"""A layer around the operator, run on whatever device there is, and comparisons of its steps."""

import copy

import torch
from bn_blocks import Block
from torch import nn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Norm(Block):
    """The operator by the kernels, with fresh statistics."""

    def __init__(self, addend, channels=24, size=9):
        super().__init__(addend, channels=channels, size=(size, size))
        self.backend = "triton"
        for i in range(2):
            weight, bias, mean, variance, _ = self.branch(i)
            nn.init.uniform_(weight, 0.5, 1.5), nn.init.normal_(bias, std=0.25)
            mean.zero_(), variance.fill_(1)


class Layer(nn.Module):
    """Two convolutions and the operator over both, as in a residual block."""

    def __init__(self, addend, channels=24):
        super().__init__()
        self.main = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.other = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = Norm(addend, channels)

    def forward(self, x):
        return self.norm(self.main(x), self.other(x))


def layer(addend):
    torch.manual_seed(0)
    return Layer(addend).to(DEVICE, memory_format=torch.channels_last)


def activation(seed, dtype=torch.float32, shape=(8, 24, 9, 9)):
    generator = torch.Generator(DEVICE).manual_seed(seed)
    x = torch.randn(shape, device=DEVICE, generator=generator).to(dtype)
    return x.contiguous(memory_format=torch.channels_last).requires_grad_()


def step(module, inputs, upstream):
    """Output, gradients of the inputs and of all parameters (None where there is none)."""
    out = module(*inputs)
    leaves = [*inputs, *module.parameters()]
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream, allow_unused=True)]


def away_from_relus_corner(module, x, upstream, width):
    """``upstream``, 0 where rounding may take a value of the layer to the other side of ReLU."""
    linear = copy.deepcopy(module)
    linear.norm.relu = False
    with torch.no_grad():
        return upstream.masked_fill(linear(x).abs() < width, 0)


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


def close(found, expected, tolerance):
    """Relative error of every tensor in the 2-norm."""
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        if other is None or one is None:
            # The compiler gives zeros for what takes no part.
            assert all(t is None or not t.any() for t in (one, other))
            continue
        error = (one.double() - other.double()).norm() / other.double().norm().clamp_min(1e-30)
        assert error <= tolerance, f"tensor {index}: {float(error):.3g}"


def buffers(module):
    return [b.clone() for b in module.buffers()]
