"""The operators that ``scotoma bench roofline`` measures: on which shapes, by what means, and how
many bytes and operations they need."""

from __future__ import annotations

from collections import Counter, namedtuple
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..defective import create_model
from ..kernels import apply_mask, backends, convolution
from ..kernels.convolution import CONV_TILES
from ..kernels.reference import Branch, Settings
from .layers import HEADLINE_SHAPES, SMALL_SHAPES, headline_ops
from .operands import (
    Call,
    OpShape,
    draw,
    dtype_name,
    exact_results,
    minimum_bytes,
    operator,
    results,
    users_text,
)

# Operations. What surrounds batch norm is counted as the fused kernels compute it: a subtraction,
# product, sum, comparison or selection of one element is one operation; what is done once a channel
# is not counted. These figures are approximate, and nothing hangs on them: such operators have
# about two operations a byte, where a GPU needs tens before arithmetic costs time.


def norm_flops(op: OpShape) -> dict[str, int]:
    """Operations of ``bn_mask_add_relu`` forward and backward."""
    branches = 2 if op.kind == "projection" else 1
    masks = branches * op.masked
    # (x - mean) * scale + bias, times the mask, the branches or the residual added
    value = 3 * branches + masks + (op.kind != "none")
    forward = value + op.relu
    # A saved bit selects, or the value is computed again and compared.
    past_relu = op.relu * (1 if op.kind == "residual" else value + 2)
    backward = past_relu + masks + branches  # the gradient masked and scaled
    if op.training:
        # (x - centre) and its square summed: a subtraction, a sum, a multiply-add
        forward += 4 * branches
        # the pass for the sums: g, and g * (x - mean), each added to its sum
        backward += past_relu + masks + 4 * branches
        # constant + (x - mean) * slope, subtracted
        backward += 4 * branches
    return {"forward": forward * op.elements, "backward": backward * op.elements}


@dataclass(frozen=True)
class Layer:
    """A square convolution without groups, dilation or bias, or a linear layer.

    Attributes:
        shape: N, C, H, W of its input; 1 x 1 pixels for a linear layer.
        users: where it comes from, for people.
    """

    shape: tuple[int, int, int, int]
    out_channels: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    linear: bool = False
    users: str = field(default="", compare=False)

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        def size(n: int) -> int:
            return (n + 2 * self.padding - self.kernel) // self.stride + 1

        n, _, height, width = self.shape
        return n, self.out_channels, size(height), size(width)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return self.out_channels, self.shape[1], self.kernel, self.kernel

    @property
    def elements(self) -> int:
        """Of input, weight and output."""
        return sum(map(prod, (self.shape, self.weight_shape, self.out_shape)))

    @property
    def flops(self) -> int:
        """Of a forward, and of each of the two gradients; padding is counted."""
        return 2 * prod(self.out_shape) * self.shape[1] * self.kernel**2

    def __str__(self) -> str:
        stride = f" stride {self.stride}" if self.stride > 1 else ""
        form = "" if self.linear else f"{self.kernel}x{self.kernel}{stride} "
        return f"{form}-> {self.out_channels}"


def network_layers(
    networks: Iterable[str], batch: int, image_size: int, width: int | None = None
) -> list[Layer]:
    """The distinct 1x1 and 3x3 convolutions of some networks, and their linear layers, found by a
    run on the meta device. width: channels of the first block; None for the networks' own."""
    users: dict[Layer, Counter] = {}
    for network in networks:
        with torch.device("meta"):
            model = create_model(network, image_size=image_size, width=width)
            images = torch.empty(batch, 3, image_size, image_size)
            with _Calls() as calls, torch.no_grad():
                model.train()(images)
        for layer in calls.found:
            users.setdefault(layer, Counter())[network] += 1
    return [replace(layer, users=users_text(counts)) for layer, counts in users.items()]


class _Calls(TorchDispatchMode):
    """Records convolutions and linear layers, whoever calls them."""

    def __init__(self):
        super().__init__()
        self.found: list[Layer] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution.default:
            x, weight, _, stride, padding, dilation, transposed, _, groups = args
            kernel = tuple(weight.shape[2:])
            square = kernel in ((1, 1), (3, 3)) and len(set(stride)) == len(set(padding)) == 1
            if square and not transposed and groups == 1 and set(dilation) == {1}:
                layer = tuple(x.shape), weight.shape[0], kernel[0], stride[0], padding[0]
                self.found.append(Layer(*layer))
        elif function is torch.ops.aten.addmm.default:
            _, x, weight = args[:3]
            self.found.append(Layer((*x.shape, 1, 1), weight.shape[1], linear=True))
        return function(*args, **(kwargs or {}))


class Pass(NamedTuple):
    """One thing to time.

    Attributes:
        name: "forward", "backward", or "evaluation": a forward without gradients.
        moved, flops: the fewest bytes, and the operations.
        wanted: the operands that need a gradient.
    """

    name: str
    moved: int
    flops: int
    wanted: tuple[str, ...] = ()
    note: str = ""


class Variant(NamedTuple):
    """A function of the operands. Of several tiles of one backend the fastest counts."""

    backend: str
    run: Callable[..., Tensor]
    tile: str = ""


@dataclass(frozen=True)
class Case:
    """An operator on a shape.

    Attributes:
        operator, kind, shape, detail: as in a row of results; a batch's worth, N first.
        elements: of distinct memory that a forward touches.
        passes: what is timed. variants: who competes, on the operands that ``draw`` gives.
        draw: random operands, the same each time, and the gradient that comes back.
        exact: results in float64. May change the call's ``grad_out`` where rounding alone would
            decide.
        arithmetic: whose ceiling holds. Around batch norm it is float32, whatever activations are.
        users: where the shape comes from, for people.
    """

    operator: str
    shape: tuple[int, int, int, int]
    elements: int
    passes: list[Pass]
    variants: list[Variant]
    draw: Callable[[], Call]
    exact: Callable[[Call], dict[str, Tensor]]
    arithmetic: str = "float32"
    kind: str = ""
    detail: str = ""
    users: str = "headline"

    def __str__(self) -> str:
        words = self.operator, self.kind, "x".join(map(str, self.shape)), self.detail
        return " ".join(word for word in words if word)


def _exact(run: Callable[..., Tensor]) -> Callable[[Call], dict[str, Tensor]]:
    """Results of a function that knows float64."""
    return lambda call: results(run, call.double())


def norm_case(op: OpShape, dtype: torch.dtype, device: torch.device) -> Case:
    """``bn_mask_add_relu`` in training: bound by memory."""
    moved, flops = minimum_bytes(op, dtype.itemsize), norm_flops(op)
    wanted = ("x", "weight", "bias", "residual", "x2", "weight2", "bias2")
    return Case(
        "bn_mask_add_relu",
        op.shape,
        (2 + (op.kind != "none")) * op.elements,
        [Pass(name, moved[name], flops[name], wanted) for name in ("forward", "backward")],
        [Variant(name, operator(op, name)) for name in ("triton", "eager")],
        partial(draw, op, dtype, device),
        partial(exact_results, op),
        kind=op.kind,
    )


MaskOperands = namedtuple("MaskOperands", "x mask")
LayerOperands = namedtuple("LayerOperands", "x weight bias", defaults=[None])
FusedOperands = namedtuple(
    "FusedOperands", "x kernel weight bias running_mean running_var mask residual"
)


def mask_case(shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> Case:
    """``apply_mask``: bound by memory."""
    n = prod(shape)
    triton, eager = (partial(apply_mask, backend=backend) for backend in ("triton", "eager"))

    def drawn() -> Call:
        call = draw(OpShape("none", shape), dtype, device)
        return Call(MaskOperands(call.operands.x, call.operands.mask), call.grad_out)

    return Case(
        "apply_mask",
        shape,
        2 * n,
        [Pass(name, 2 * n * dtype.itemsize, n, ("x",)) for name in ("forward", "backward")],
        [Variant("triton", triton), Variant("eager", eager)],
        drawn,
        _exact(eager),
    )


EVALUATION = Settings(relu=True, training=False, momentum=0.1, eps=1e-5)


def fused_case(layer: Layer, kind: str, dtype: torch.dtype, device: torch.device) -> Case:
    """``conv_bn_mask_add_relu`` in evaluation: one Triton kernel, with each of its tiles, beside
    cuDNN and the fused operator.

    Its FLOP are those of the convolution and of the one pass after it.
    """
    op = OpShape(kind, layer.out_shape, mode="evaluation")
    elements = layer.elements + (prod(layer.out_shape) if kind == "residual" else 0)
    flops = layer.flops + norm_flops(op)["forward"]
    # None is Triton's operator after the convolution, where there is a GPU.
    backend = None if device.type == "cuda" else "eager"

    def call(x, kernel, weight, bias, mean, var, mask, residual) -> convolution.Call:
        branch = Branch(None, weight, bias, mean, var, mask)
        options = (layer.stride, layer.padding, 1, 1)
        return convolution.Call(x, kernel, None, options, branch, residual, None, EVALUATION)

    def fused(tile) -> Variant:
        return Variant("triton", lambda *given: convolution.fused(call(*given), tile), tile.name)

    def separate(*given) -> Tensor:
        return convolution.separate(call(*given), backend)

    def drawn() -> Call:
        after = draw(op, dtype, device)
        vectors = after.operands[1:7]  # weight to residual
        return Call(FusedOperands(*_factors(layer, dtype, device), *vectors), after.grad_out)

    tiles = CONV_TILES if dtype in backends.DTYPES else ()
    return Case(
        "conv_bn_mask_add_relu",
        layer.shape,
        elements,
        [Pass("evaluation", dtype.itemsize * elements, flops)],
        [Variant("separate", separate), *map(fused, tiles)],
        drawn,
        _exact(separate),
        arithmetic(dtype, device, backends.convolutions_may_use_tf32()),
        kind,
        str(layer),
        layer.users,
    )


def layer_case(layer: Layer, dtype: torch.dtype, device: torch.device) -> Case:
    """torch's own convolution or linear layer, cuDNN's and cuBLAS's on a GPU: forward, and backward
    towards each of its two factors."""
    moved, flops = dtype.itemsize * layer.elements, layer.flops
    if layer.linear:
        name, library, tf32 = "linear", "cublas", backends.products_may_use_tf32()
    else:
        name, library, tf32 = "convolution", "cudnn", backends.convolutions_may_use_tf32()

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if layer.linear:
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, layer.stride, layer.padding)

    def drawn() -> Call:
        if layer.linear:
            normal, (n, c), k = _normal(dtype, device), layer.shape[:2], layer.out_channels
            factors = normal((n, c)), normal((k, c), c**-0.5), normal((k,))
            return Call(LayerOperands(*factors), normal((n, k)))
        factors = _factors(layer, dtype, device)
        return Call(LayerOperands(*factors), _normal(dtype, device, 1)(layer.out_shape))

    return Case(
        name,
        layer.shape,
        layer.elements,
        [
            Pass("forward", moved, flops),
            Pass("backward", moved, flops, ("x",), "to the input"),
            Pass("backward", moved, flops, ("weight",), "to the weight"),
        ],
        [Variant(library if device.type == "cuda" else "torch", run)],
        drawn,
        _exact(run),
        arithmetic(dtype, device, tf32),
        "",
        str(layer),
        layer.users,
    )


def _factors(layer: Layer, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Input and weight, so that the output's deviation is about 1."""
    normal = _normal(dtype, device)
    weight = normal(layer.weight_shape, (layer.shape[1] * layer.kernel**2) ** -0.5)
    return normal(layer.shape), weight


def _normal(dtype: torch.dtype, device: torch.device, seed: int = 0) -> Callable[..., Tensor]:
    """Draws normal tensors of a shape and deviation, images channels_last."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(shape, deviation: float = 1.0) -> Tensor:
        values = torch.randn(shape, device=device, generator=generator).mul_(deviation).to(dtype)
        layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
        return values.contiguous(memory_format=layout)

    return normal


def arithmetic(dtype: torch.dtype, device: torch.device, tf32: bool) -> str:
    """Whose ceiling holds for a matrix product. tf32: it is taken for float32 on a GPU."""
    tf32 = tf32 and dtype == torch.float32 and device.type == "cuda"
    return "tf32" if tf32 else dtype_name(dtype)


OPERATORS = ("bn_mask_add_relu", "apply_mask", "conv_bn_mask_add_relu", "convolution", "linear")
NETWORKS = ("resnet18", "resnet50")
FULL = {"batch": 128, "image_size": 32}
SMALL = {"batch": 2, "image_size": 16, "width": 8}
"""What a CPU can do in a moment."""


def cases(operators: Iterable[str], dtype: torch.dtype, device: torch.device) -> list[Case]:
    """The cases of some ``OPERATORS``, in their order; small ones for a CPU."""
    small, on = device.type == "cpu", (dtype, device)
    shapes, sizes = (SMALL_SHAPES, SMALL) if small else (HEADLINE_SHAPES, FULL)

    def of(operator: str) -> Iterator[Case]:
        if operator == "bn_mask_add_relu":
            yield from (norm_case(op, *on) for op in headline_ops(shapes))
        elif operator == "apply_mask":
            yield from (mask_case(shape, *on) for shape in shapes)
        elif operator == "conv_bn_mask_add_relu":
            # Every convolution of a ResNet-18; those that end a block with its residual.
            for layer in network_layers(NETWORKS[:1], **sizes):
                if not layer.linear:
                    yield fused_case(layer, "none", *on)
                    if layer.kernel == 3 and layer.shape == layer.out_shape:
                        yield fused_case(layer, "residual", *on)
        else:
            for layer in network_layers(NETWORKS[:1] if small else NETWORKS, **sizes):
                if layer.linear == (operator == "linear"):
                    yield layer_case(layer, *on)

    return [case for name in OPERATORS if name in operators for case in of(name)]
