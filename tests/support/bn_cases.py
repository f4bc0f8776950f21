"""Calls of ``bn_mask_add_relu`` as hypothesis draws them."""

from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from layouts import LAYOUTS, MASK_LAYOUTS, laid_out, mask_laid_out
from scotoma.kernels import Projection, bn_mask_add_relu
from tilings import SIZES, edge_rows, tiling

NAMES = ("x", "weight", "bias", "running_mean", "running_var", "mask")


@dataclass
class Case:
    """Arguments of one call. A branch is a tuple in the order of ``NAMES``."""

    main: tuple
    residual: torch.Tensor | None
    projection: tuple | None
    relu: bool
    training: bool
    upstream: torch.Tensor
    upstream_layout: str
    backend: str
    momentum: float | torch.Tensor = 0.1
    eps: float = 1e-5
    tiling: str = "real"
    wanted: list | None = None  # which gradients; all

    def __post_init__(self):
        self.wanted = self.wanted or [True] * len(self.inputs())

    def branches(self):
        return [self.main] if self.projection is None else [self.main, self.projection]

    def call(self, **changes):
        options = {
            "mask": self.main[5],
            "residual": self.residual,
            "projection": None if self.projection is None else Projection(*self.projection),
            "relu": self.relu,
            "training": self.training,
            "momentum": self.momentum,
            "eps": self.eps,
            "backend": self.backend,
        }
        with tiling(self.tiling):
            return bn_mask_add_relu(*self.main[:5], **options | changes)

    def inputs(self):
        """The arguments that have a gradient, in a fixed order."""
        tensors = [t for branch in self.branches() for t in branch[:3]] + [self.residual]
        return [t for t in tensors if t is not None]

    def without_corner(self, near):
        """The same call, its gradient zero where ``near`` is true."""
        repeated = {"expanded images": 0, "expanded map": (2, 3)}.get(self.upstream_layout)
        if repeated is not None:
            near = near.any(repeated, keepdim=True)
        upstream = laid_out(self.upstream.masked_fill(near, 0), self.upstream_layout)
        return replace(self, upstream=upstream)

    def gradients(self, **changes):
        """Output and gradients of the ``wanted`` inputs."""
        leaves = [
            t.detach().requires_grad_(w) for t, w in zip(self.inputs(), self.wanted, strict=True)
        ]
        out = self.with_inputs(leaves).call(**changes)
        with tiling(self.tiling):
            grads = torch.autograd.grad(out, [t for t in leaves if t.requires_grad], self.upstream)
        return out.detach(), grads

    def with_inputs(self, leaves):
        """The same call on other tensors in place of ``inputs()``."""
        left = iter(leaves)

        def branch(old):
            return (*(None if t is None else next(left) for t in old[:3]), *old[3:])

        main = branch(self.main)
        projection = None if self.projection is None else branch(self.projection)
        residual = None if self.residual is None else next(left)
        return replace(self, main=main, projection=projection, residual=residual)


@st.composite
def shapes(draw, tiles, most):
    """[N,C,H,W] of at most ``most`` elements: small, or with rows at the edge of a tile."""
    channels = draw(
        st.one_of(
            st.integers(1, 9), st.sampled_from([12, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 96])
        )
    )
    if draw(st.booleans()):
        n, h, w = (draw(st.integers(1, top)) for top in (4, 7, 7))
        while n * h * w * channels > most:
            n, h, w = -(-n // 2), -(-h // 2), w
            if n == h == 1:
                w = -(-w // 2)
        return n, channels, h, w
    rows = draw(
        st.sampled_from([r for r in edge_rows(channels, tiles) if r * channels <= most] or [1])
    )
    n = draw(st.sampled_from(_divisors(rows)))
    h = draw(st.sampled_from(_divisors(rows // n)))
    return n, channels, h, rows // n // h


def _divisors(n):
    return [d for d in range(1, n + 1) if n % d == 0]


def layouts(target):
    """Torch's own backward on a CPU reads a permuted tensor of one image in the wrong order."""
    return st.sampled_from([x for x in LAYOUTS if target.backend == "triton" or x != "permuted"])


@st.composite
def masks(draw, shape, generator, device):
    kind = draw(st.sampled_from(["none", "random", "random", "ones", "zeros"]))
    if kind == "none":
        return None
    keep = {"random": 0.4, "ones": 1.0, "zeros": 0.0}[kind]
    mask = torch.rand(shape[1:], generator=generator) < keep
    mask = mask.to(draw(st.sampled_from([torch.bool, torch.uint8]))).to(device)
    return mask_laid_out(mask, draw(st.sampled_from(MASK_LAYOUTS)))


@st.composite
def branches(draw, shape, dtype, target, running):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    channels = shape[1]
    vector = torch.float64 if dtype == torch.float64 else torch.float32
    if target.backend == "triton" and draw(st.integers(0, 4)) == 0:
        vector = dtype  # parameters may be half precision as well

    def normal(*size):
        return torch.randn(size, dtype=torch.float64, generator=generator)

    def parameter():
        if not draw(st.booleans()):
            return None
        values = normal(channels).to(target.device, vector)
        # Torch's own backward on a CPU reads strided weights as dense ones.
        strided = target.backend == "triton" and draw(st.booleans())
        return values.repeat_interleave(2)[::2] if strided else values

    scale, offset = draw(st.sampled_from([(1.0, 0.0), (0.1, 1.0), (5.0, -20.0)]))
    x = laid_out(normal(*shape) * scale + offset, draw(layouts(target)), dtype, target.device)
    weight, bias = parameter(), parameter()
    mean = normal(channels).to(target.device, vector) if running else None
    variance = (normal(channels).square() + 0.1).to(target.device, vector) if running else None
    return x, weight, bias, mean, variance, draw(masks(shape, generator, target.device))


@st.composite
def cases(draw, target, most=2000):
    tiles = "real"
    if target.backend == "triton":
        tiles = draw(st.sampled_from(list(SIZES)))
    shape = draw(shapes(tiles, most))
    training = draw(st.booleans())
    if training and shape[0] * shape[2] * shape[3] == 1:
        shape = (2, *shape[1:])  # one value has no variance
    dtype = draw(st.sampled_from(target.dtypes))
    running = not training or draw(st.booleans())
    addend = draw(st.sampled_from(["none", "residual", "projection"]))
    main = draw(branches(shape, dtype, target, running))
    other = draw(branches(shape, dtype, target, running)) if addend != "none" else None
    momentum = draw(st.sampled_from([0.1, 0.5, 1.0, 0.0, 1, torch.tensor(0.25)]))
    if isinstance(momentum, torch.Tensor):
        momentum = momentum.to(target.device)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    upstream = torch.randn(shape, dtype=torch.float64, generator=generator)
    upstream_layout = draw(layouts(target))
    case = Case(
        main=main,
        residual=other[0] if addend == "residual" else None,
        projection=other if addend == "projection" else None,
        relu=draw(st.booleans()),
        training=training,
        momentum=momentum,
        eps=draw(st.sampled_from([1e-5, 1e-3, 0.1])),
        upstream=laid_out(upstream, upstream_layout, dtype, target.device),
        upstream_layout=upstream_layout,
        backend=target.backend,
        tiling=tiles,
    )
    count = len(case.inputs())
    case.wanted = draw(
        st.one_of(
            st.just([True] * count), st.lists(st.booleans(), min_size=count, max_size=count)
        ).filter(any)
    )
    return case
