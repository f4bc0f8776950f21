"""The operator ``relu(mask * BN(x) + residual)`` on one shape: operands, results, bytes, calls.

An :class:`OpShape` says what is computed, :func:`draw` gives a :class:`Call` of it, its operands
and the gradient that comes back. :func:`results` and :func:`errors` compare what variants compute
with :func:`exact_results`, :func:`minimum_bytes` is the floor that a time is held against, and a
:class:`Sweep` calls a variant many times over, with cold or hot caches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..defective import sample_mask
from ..kernels import Projection, bn_mask_add_relu

KINDS = ("none", "residual", "projection")
MODES = ("training", "evaluation")
PASSES = ("forward", "backward", "both")
KEEP = 0.3
FLOAT32_TOLERANCE = 1e-4
"""Of batch statistics, and of sums over the batch, of float32 values."""


@dataclass(frozen=True)
class OpShape:
    """One form of the operator on one shape.

    Attributes:
        kind: what is added: nothing, a tensor ("residual") or a second masked branch
            ("projection").
        shape: N, C, H, W.
        mode: "training", by batch statistics; or "evaluation", by running ones.
        users: where it comes from, for people.
    """

    kind: str
    shape: tuple[int, int, int, int]
    relu: bool = True
    masked: bool = True
    mode: str = "training"
    users: str = "headline"

    @property
    def elements(self) -> int:
        n, c, h, w = self.shape
        return n * c * h * w

    @property
    def training(self) -> bool:
        return self.mode == "training"

    @property
    def form(self) -> tuple:
        """What is measured once, whoever uses it."""
        return self.kind, self.relu, self.shape

    def __str__(self) -> str:
        notes = ("" if self.relu else ", no ReLU") + ("" if self.masked else ", no mask")
        notes += "" if self.training else ", evaluation"
        return f"{'x'.join(map(str, self.shape))} {self.kind}{notes}"


class Operands(NamedTuple):
    """Arguments of one call, in the order in which they are passed on."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    mask: Tensor | None
    residual: Tensor | None = None
    x2: Tensor | None = None
    weight2: Tensor | None = None
    bias2: Tensor | None = None
    running_mean2: Tensor | None = None
    running_var2: Tensor | None = None
    mask2: Tensor | None = None


@dataclass
class Call:
    """One call's operands, any named tuple, and the gradient that comes back."""

    operands: NamedTuple
    grad_out: Tensor

    def inputs(self) -> list[Tensor]:
        """The operands that get a gradient."""
        return [t for t in self.operands if t is not None and t.requires_grad]

    def input_names(self) -> list[str]:
        return [n for n, t in self.operands._asdict().items() if t is not None and t.requires_grad]

    def with_own_statistics(self) -> Call:
        """The same operands, but running statistics of its own."""
        own = {
            n: t.clone()
            for n, t in self.operands._asdict().items()
            if "running" in n and t is not None
        }
        return Call(self.operands._replace(**own), self.grad_out)

    def copy(self, dtype: torch.dtype) -> Call:
        """The same values in memory of its own, activations in ``dtype``."""

        def own(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            wanted = dtype if tensor.dim() == 4 else tensor.dtype
            new = tensor.detach().to(wanted, copy=True)
            return new.requires_grad_(tensor.requires_grad)

        return Call(type(self.operands)(*map(own, self.operands)), own(self.grad_out))

    def double(self) -> Call:
        """The same values in memory of its own, everything in float64."""

        def own(tensor: Tensor | None) -> Tensor | None:
            if tensor is None or not tensor.is_floating_point():
                return tensor
            new = tensor.detach().to(torch.float64, copy=True)
            return new.requires_grad_(tensor.requires_grad)

        return Call(type(self.operands)(*map(own, self.operands)), own(self.grad_out))


def draw(op: OpShape, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Call:
    """Random operands: parameters and statistics in float32, activations channels_last.

    Parameters need a gradient in training alone: in evaluation nobody but an attack asks for one,
    and an attack asks for that of its input.
    """
    generator = torch.Generator(device).manual_seed(seed)
    channels = op.shape[1]

    def activation(offset: float = 0.0) -> Tensor:
        values = torch.randn(op.shape, device=device, generator=generator).add_(offset)
        return values.to(dtype).contiguous(memory_format=torch.channels_last)

    def vector(low: float, high: float) -> Tensor:
        return torch.empty(channels, device=device).uniform_(low, high, generator=generator)

    def branch():
        mask = None
        if op.masked:
            cpu = torch.Generator().manual_seed(seed)
            mask = sample_mask(op.shape[1:], KEEP, generator=cpu).to(device).unsqueeze(0)
            # In the order of the activations, as a network in channels_last keeps it.
            mask = mask.contiguous(memory_format=torch.channels_last).squeeze(0)
        x = activation(0.5).requires_grad_()
        weight, bias = (
            v.requires_grad_(op.training) for v in (vector(0.5, 1.5), vector(-0.3, 0.3))
        )
        return x, weight, bias, vector(-0.1, 0.1), vector(0.5, 1.5), mask

    main, residual, other = branch(), None, ()
    if op.kind == "residual":
        residual = activation().requires_grad_()
    if op.kind == "projection":
        other = branch()
    return Call(Operands(*main, residual, *other), activation())


def operator(op: OpShape, backend: str) -> Callable[..., Tensor]:
    """The operator, called with a :class:`Call`'s operands in their order."""
    relu, training = op.relu, op.training

    def run(x, weight, bias, mean, var, mask, residual, x2, weight2, bias2, mean2, var2, mask2):
        projection = None
        if x2 is not None:
            projection = Projection(x2, weight2, bias2, mean2, var2, mask2)
        return bn_mask_add_relu(
            x,
            weight,
            bias,
            mean,
            var,
            mask=mask,
            residual=residual,
            projection=projection,
            relu=relu,
            training=training,
            backend=backend,
        )

    return run


def released(op: OpShape) -> Callable[..., Tensor]:
    """The reference's layer as it was released, run under autocast without a thought.

    For operands as :func:`as_released` makes them.

    Its masks are float32 buffers. A mask times the half-precision output of batch norm is float32
    by torch's promotion rule, and so are the addition and ReLU after it; the next convolution's
    autocast rounds the result to half precision again. That cast belongs to what the mask costs,
    and is timed. The float32 result is also the next block's residual.

    With activations of N elements in half precision, a masked layer without a residual moves 26
    bytes an element forward (batch norm 6, mask 2 + 4, ReLU 4 + 4, cast 4 + 2) and 42 backward
    (cast 6, ReLU 12, mask 8 + 6, batch norm 10), where eager with masks of one byte moves 14 and
    20.
    """
    relu, training = op.relu, op.training

    def branch(x, weight, bias, mean, var, mask):
        out = F.batch_norm(x, mean, var, weight, bias, training, 0.1, 1e-5)
        return out if mask is None else out * mask

    def run(x, weight, bias, mean, var, mask, residual, x2, weight2, bias2, mean2, var2, mask2):
        out = branch(x, weight, bias, mean, var, mask)
        if residual is not None:
            out = out + residual
        if x2 is not None:
            out = out + branch(x2, weight2, bias2, mean2, var2, mask2)
        # Where ReLU is parted from here by a dropout, the convolution comes later as well.
        return F.relu(out).to(x.dtype) if relu else out

    return run


def as_released(op: OpShape) -> Callable[[Call], Call] | None:
    """Masks and residual in float32, as the layers before have left them.

    Without a ReLU the output stays float32, and so its gradient is. None where nothing is masked:
    such a layer stays in half precision.
    """
    if not op.masked:
        return None

    def adapt(call: Call) -> Call:
        wide = {
            name: _wide(tensor)
            for name, tensor in call.operands._asdict().items()
            if name in ("mask", "mask2", "residual") and tensor is not None
        }
        grad_out = call.grad_out if op.relu else _wide(call.grad_out)
        return Call(call.operands._replace(**wide), grad_out)

    return adapt


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float32).requires_grad_(tensor.requires_grad)


def tolerance(dtype: torch.dtype) -> float:
    """Of a relative error ||found - expected|| / ||expected||.

    Eager rounds after each of its four steps, and each rounding errs by at most half of
    ``finfo.eps``.
    """
    return max(4 * torch.finfo(dtype).eps, FLOAT32_TOLERANCE)


def exact_results(op: OpShape, call: Call) -> dict[str, Tensor]:
    """Output and gradients in float64, by the names of :func:`results`.

    Also zeroes ``call.grad_out`` in place where the value before ReLU is so near zero that
    rounding alone decides on which side of ReLU it falls.
    """
    wide = call.double()
    run = operator(op, "eager")
    if op.relu:
        linear = operator(replace(op, relu=False), "eager")
        with torch.no_grad():
            value = linear(*wide.operands)
            near = value.abs() < 16 * torch.finfo(call.grad_out.dtype).eps
            call.grad_out.masked_fill_(near, 0.0)
            wide.grad_out.masked_fill_(near, 0.0)
            del value, near
    return results(run, wide, without_gradients=not op.training)


def results(run, call: Call, *, without_gradients: bool = False) -> dict[str, Tensor]:
    """Output ("out") and gradients by name. Updates the running statistics of ``call``.

    without_gradients: the output of a forward under ``torch.no_grad`` too ("inference"), which may
    be computed in another way.
    """
    out = run(*call.operands)
    grads = torch.autograd.grad(out, call.inputs(), call.grad_out)
    found = {"out": out.detach()}
    if without_gradients:
        with torch.no_grad():
            found["inference"] = run(*call.operands)
    return found | dict(zip(call.input_names(), grads, strict=True))


def errors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Relative error of each tensor in the 2-norm; infinite where one is not finite."""
    if found.keys() != expected.keys():
        raise ValueError(f"results are {list(found)}; expected {list(expected)}")
    measured = {}
    for name, right in expected.items():
        difference = (found[name].double() - right).norm() / right.norm()
        measured[name] = float(difference) if bool(difference.isfinite()) else float("inf")
    return measured


# How many bytes of device memory an operator must move. The model counts whole activations
# (N*C*H*W elements) read or written once by each pass over them, with batch statistics read before
# they are used. Vectors of C values, and the mask, which one batch shares, are not counted, so that
# a percentage of the copy bandwidth errs on the low side.
#
# In evaluation there are no statistics to wait for. Its forward is that of a network under
# ``torch.no_grad``, its backward goes to the inputs alone, and "both" is a forward that keeps what
# this backward needs, as in an attack.


def minimum_bytes(op: OpShape, itemsize: int) -> dict[str, int]:
    """Bytes of each pass at ``op`` by elements of ``itemsize`` bytes."""
    forward, backward = _training(op) if op.training else _evaluation(op)
    # With a residual the side of ReLU is a saved bit: written once, read by each backward pass.
    saved = read = 0
    if op.kind == "residual" and op.relu:
        saved, read = 1, 2 if op.training else 1
    n, channels, height, width = op.shape
    bits = n * height * width * -(-channels // 8)
    found = {
        "forward": op.elements * itemsize * forward + bits * (saved if op.training else 0),
        "backward": op.elements * itemsize * backward + bits * read,
    }
    both = sum(found.values()) + (0 if op.training else bits * saved)
    return found | {"both": both}


def _training(op: OpShape) -> tuple[int, int]:
    """Activations moved forward and backward by batch statistics."""
    if op.kind == "none":
        # statistics x; apply x -> out | sums g, x; apply g, x -> dx
        return 3, 5
    if op.kind == "residual":
        # ... and the residual read | and its gradient, which without ReLU is g itself
        return 4, 6 if op.relu else 5
    # statistics x, x2; apply x, x2 -> out | sums g, x, x2; apply g, x, x2 -> dx, dx2
    return 5, 8


def _evaluation(op: OpShape) -> tuple[int, int]:
    """Activations moved by running statistics: one pass each way.

    Backward reads ``x`` only to find out on which side of ReLU it was.
    """
    if op.kind == "none":
        # x -> out | g, x -> dx
        return 2, 3 if op.relu else 2
    if op.kind == "residual":
        # x, residual -> out | g -> dx, and the residual's, which without ReLU is g itself
        return 3, 3 if op.relu else 2
    # x, x2 -> out | g, x, x2 -> dx, dx2
    return 3, 5 if op.relu else 3


def saved_bytes(run, call: Call) -> int:
    """Bytes of all tensors that a forward keeps for its backward, shared storages counted once.

    Operands that are kept count too: keeping the convolution's output is a cost.
    """
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = run(*call.operands)
    del out
    return sum(storages.values())


def peak_bytes(run, call: Call) -> int | None:
    """Memory that one forward and backward allocate beyond their operands; None on a CPU."""
    device = call.operands.x.device
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    out = run(*call.operands)
    grads = torch.autograd.grad(out, call.inputs(), call.grad_out)
    torch.cuda.synchronize(device)
    del out, grads
    return torch.cuda.max_memory_allocated(device) - before


# Cold: between two uses of a byte, at least so many times the L2 cache is read and written.
COLD_L2_SIZES = 3
COLD_SETS = (3, 256)
# Hot: the same operands so many times in a row.
HOT_CALLS = 16
# A timed sweep has at least so many calls, so that what starts and ends it costs little.
COLD_CALLS = 12
CPU_CALLS = 2


class Sweep:
    """One variant's forward and backward over a number of calls.

    Cold, every call has operands of its own and its results stay alive until it is made again, so
    that inputs and outputs alike come from and go to device memory; in ``both``, all forwards go
    before all backwards, as in a network. Hot, all calls share one set of operands.

    Not in ``training``, ``forward`` is what evaluation does, without gradients, and ``both`` what
    an attack does.
    """

    def __init__(
        self,
        run,
        sets: Sequence[Call],
        *,
        hot: bool,
        calls: int | None = None,
        training: bool = True,
    ):
        self.run, self.training = run, training
        # A backward refuses running statistics that another variant has updated in between.
        self.sets = [call.with_own_statistics() for call in (sets[:1] if hot else sets)]
        rounds = math.ceil(COLD_CALLS / len(self.sets))
        self.calls = calls or (HOT_CALLS if hot else rounds * len(self.sets))
        self.inputs = [call.inputs() for call in self.sets]
        self.forget()

    def forget(self) -> None:
        """Let go of all results."""
        self.outs: list = [None] * len(self.sets)
        self.kept, self.grads = list(self.outs), list(self.outs)

    def prepare(self) -> None:
        """Forwards whose graphs every ``backward`` uses again."""
        self.outs = [self.run(*call.operands) for call in self.sets]

    def forward(self) -> None:
        with torch.set_grad_enabled(self.training):
            for number in range(self.calls):
                at = number % len(self.sets)
                self.kept[at] = self.run(*self.sets[at].operands)

    def backward(self) -> None:
        for number in range(self.calls):
            self._differentiate(self.outs, number % len(self.sets))

    def both(self) -> None:
        for _ in range(0, self.calls, len(self.sets)):
            for at, call in enumerate(self.sets):
                self.kept[at] = self.run(*call.operands)
            for at in range(len(self.sets)):
                self._differentiate(self.kept, at)

    def _differentiate(self, outs, at: int) -> None:
        self.grads[at] = torch.autograd.grad(
            outs[at], self.inputs[at], self.sets[at].grad_out, retain_graph=True
        )


def cold_sets(forward_bytes: int, l2_bytes: int | None) -> int:
    """Sets of operands to go round, each touching ``forward_bytes`` of distinct memory."""
    if l2_bytes is None:
        return CPU_CALLS
    fewest, most = COLD_SETS
    return max(fewest, min(most, math.ceil(COLD_L2_SIZES * l2_bytes / forward_bytes)))
