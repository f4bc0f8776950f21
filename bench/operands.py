"""The operator ``relu(mask * BN(x) + residual)`` on one shape: operands, results, bytes, calls.

An :class:`OpShape` says what is computed, :func:`draw` gives a :class:`Call` of it, its operands
and the gradient that comes back. :func:`results` and :func:`errors` compare what variants compute
with :func:`exact_results`, :func:`minimum_bytes` is the floor that a time is held against, a
:class:`Sweep` calls a variant many times over, with cold or hot caches, and :func:`timings` times
sweeps in turns.
"""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ..defective import sample_mask
from ..defective.errors import UserError
from ..kernels import Projection, backends, bn_mask_add_relu
from . import harness

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
        return math.prod(self.shape)

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


Operands = namedtuple(
    "Operands",
    "x weight bias running_mean running_var mask residual "
    "x2 weight2 bias2 running_mean2 running_var2 mask2",
    defaults=[None] * 7,
)
"""Arguments of one call, in the order in which they are passed on."""


class Call(NamedTuple):
    """One call's operands, any named tuple, and the gradient that comes back."""

    operands: NamedTuple
    grad_out: Tensor

    def named(self) -> dict[str, Tensor]:
        """The operands that there are."""
        return {n: t for n, t in self.operands._asdict().items() if t is not None}

    def inputs(self) -> dict[str, Tensor]:
        """The operands that get a gradient."""
        return {name: tensor for name, tensor in self.named().items() if tensor.requires_grad}

    def with_own_statistics(self) -> Call:
        """The same operands, but running statistics of its own."""
        own = {name: t.clone() for name, t in self.named().items() if "running" in name}
        return Call(self.operands._replace(**own), self.grad_out)

    def copy(self, dtype: torch.dtype) -> Call:
        """The same values in memory of its own, activations in ``dtype``."""
        return _leaves(self, lambda t: t.to(dtype if t.dim() == 4 else t.dtype, copy=True))

    def double(self) -> Call:
        """The same values in memory of its own, all floats in float64."""
        return _leaves(
            self, lambda t: t.to(torch.float64, copy=True) if t.is_floating_point() else t
        )


def _leaves(tree, convert: Callable[[Tensor], Tensor]):
    """Tensors converted, each a leaf that wants a gradient as before."""
    return tree_map_only(
        Tensor, lambda t: convert(t.detach()).requires_grad_(t.requires_grad), tree
    )


def draw(op: OpShape, dtype: torch.dtype, device: torch.device) -> Call:
    """Random operands: parameters and statistics in float32, activations channels_last.

    Parameters need a gradient in training alone: in evaluation nobody but an attack asks for one,
    and an attack asks for that of its input.
    """
    generator = torch.Generator(device).manual_seed(0)

    def activation(offset: float = 0.0) -> Tensor:
        values = torch.randn(op.shape, device=device, generator=generator).add_(offset)
        return values.to(dtype).contiguous(memory_format=torch.channels_last)

    def vector(low: float, high: float) -> Tensor:
        values = torch.empty(op.shape[1], device=device)
        return values.uniform_(low, high, generator=generator)

    def branch() -> tuple:
        mask = None
        if op.masked:
            cpu = torch.Generator().manual_seed(0)
            mask = sample_mask(op.shape[1:], KEEP, generator=cpu).to(device).unsqueeze(0)
            # In the order of the activations, as a network in channels_last keeps it.
            mask = mask.contiguous(memory_format=torch.channels_last).squeeze(0)
        x = activation(0.5).requires_grad_()
        weight, bias = (vector(*r).requires_grad_(op.training) for r in ((0.5, 1.5), (-0.3, 0.3)))
        return x, weight, bias, vector(-0.1, 0.1), vector(0.5, 1.5), mask

    main = branch()
    residual = activation().requires_grad_() if op.kind == "residual" else None
    other = branch() if op.kind == "projection" else ()
    return Call(Operands(*main, residual, *other), activation())


def operator(op: OpShape, backend: str) -> Callable[..., Tensor]:
    """The operator, called with a :class:`Call`'s operands in their order."""
    relu, training = op.relu, op.training

    def run(x, weight, bias, mean, var, mask, residual, *other):
        return bn_mask_add_relu(
            *(x, weight, bias, mean, var),
            mask=mask,
            residual=residual,
            projection=None if other[0] is None else Projection(*other),
            relu=relu,
            training=training,
            backend=backend,
        )

    return run


def released(op: OpShape) -> Callable[..., Tensor]:
    """The reference's layer as it was released, run under autocast without a thought, for operands
    as :func:`as_released` makes them.

    Its masks are float32 buffers. A mask times the half-precision output of batch norm is float32
    by torch's promotion rule, and so are the addition and ReLU after it; the next convolution's
    autocast rounds the result to half precision again. That cast belongs to what the mask costs,
    and is timed. The float32 result is also the next block's residual.

    In half precision a masked layer without a residual moves 26 bytes an element forward (batch
    norm 6, mask 2 + 4, ReLU 4 + 4, cast 4 + 2) and 42 backward (cast 6, ReLU 12, mask 8 + 6, batch
    norm 10), where eager with masks of one byte moves 14 and 20.
    """
    relu, training = op.relu, op.training

    def branch(x, weight, bias, mean, var, mask):
        out = F.batch_norm(x, mean, var, weight, bias, training, 0.1, 1e-5)
        return out if mask is None else out * mask

    def run(x, weight, bias, mean, var, mask, residual, *other):
        out = branch(x, weight, bias, mean, var, mask)
        if residual is not None:
            out = out + residual
        if other[0] is not None:
            out = out + branch(*other)
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
        there = call.named()
        wide = {n: there[n] for n in ("mask", "mask2", "residual") if n in there}
        grad_out = call.grad_out if op.relu else call.grad_out.float()
        return Call(call.operands._replace(**_leaves(wide, Tensor.float)), grad_out)

    return adapt


def check_kernels_run(option: str, name: str, device: torch.device) -> None:
    """Refuse a name of the fused kernels where they do not run. Raises UserError."""
    if device.type == "cpu" and not backends.interpreting():
        raise UserError(
            f"{option} has {name!r}, whose kernels run on a GPU; leave it out with --cpu, or set "
            "TRITON_INTERPRET=1 (which times the interpreter, not the kernels)"
        )


def users_text(counts: dict[str, int]) -> str:
    """How often each network uses something, for people."""
    return ", ".join(f"{network} x{count}" for network, count in counts.items())


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# Results


def tolerance(dtype: torch.dtype) -> float:
    """Of a relative error ||found - expected|| / ||expected||: eager rounds after each of its four
    steps, and each rounding errs by at most half of ``finfo.eps``."""
    return max(4 * torch.finfo(dtype).eps, FLOAT32_TOLERANCE)


def exact_results(op: OpShape, call: Call) -> dict[str, Tensor]:
    """Output and gradients in float64, by the names of :func:`results`; ``call.grad_out`` becomes
    zero where rounding alone decides on which side of ReLU a value falls."""
    wide = call.double()
    if op.relu:
        with torch.no_grad():
            value = operator(replace(op, relu=False), "eager")(*wide.operands)
            near = value.abs() < 16 * torch.finfo(call.grad_out.dtype).eps
            call.grad_out.masked_fill_(near, 0.0)
            wide.grad_out.masked_fill_(near, 0.0)
            del value, near
    return results(operator(op, "eager"), wide, without_gradients=not op.training)


def results(run, call: Call, *, without_gradients: bool = False) -> dict[str, Tensor]:
    """Output ("out") and gradients by name. Updates the running statistics of ``call``.

    without_gradients: the output of a forward under ``torch.no_grad`` too ("inference"), which may
    be computed in another way.
    """
    inputs = call.inputs()
    with torch.set_grad_enabled(bool(inputs)):
        out = run(*call.operands)
    found = {"out": out.detach()}
    grads = torch.autograd.grad(out, [*inputs.values()], call.grad_out) if inputs else ()
    if without_gradients:
        with torch.no_grad():
            found["inference"] = run(*call.operands)
    return found | dict(zip(inputs, grads, strict=True))


def check(row: dict, run, call: Call, expected: dict[str, Tensor], **options) -> None:
    """Note in a row how far :func:`results` are from those in float64; one that errs by more than
    ``row["tolerance"]`` is a problem."""
    found = errors(results(run, call, **options), expected)
    row["errors"] = {name: value if math.isfinite(value) else None for name, value in found.items()}
    row["problems"] += [
        f"{name} is wrong: relative error {value:.2g}, allowed {row['tolerance']:.2g}"
        for name, value in found.items()
        if value > row["tolerance"]
    ]


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
# In evaluation there are no statistics to wait for: one pass each way. Its forward is that of a
# network under ``torch.no_grad``, its backward goes to the inputs alone, and "both" is a forward
# that keeps what this backward needs, as in an attack.

MOVED = {
    # statistics x; apply x -> out | sums g, x; apply g, x -> dx
    ("none", "training"): (3, 5),
    # ... and the residual read | and its gradient
    ("residual", "training"): (4, 6),
    # statistics x, x2; apply x, x2 -> out | sums g, x, x2; apply g, x, x2 -> dx, dx2
    ("projection", "training"): (5, 8),
    # x -> out | g, x -> dx
    ("none", "evaluation"): (2, 3),
    # x, residual -> out | g -> dx, and the residual's
    ("residual", "evaluation"): (3, 3),
    # x, x2 -> out | g, x, x2 -> dx, dx2
    ("projection", "evaluation"): (3, 5),
}
"""Activations forward and backward."""
SPARED = {
    # The residual's gradient is g itself.
    ("residual", "training"): 1,
    ("residual", "evaluation"): 1,
    # Nobody has to find out on which side of ReLU x, or x and x2, were.
    ("none", "evaluation"): 1,
    ("projection", "evaluation"): 2,
}
"""Activations backward that an operator without a ReLU does not move."""


def minimum_bytes(op: OpShape, itemsize: int) -> dict[str, int]:
    """Bytes of each pass at ``op`` by elements of ``itemsize`` bytes."""
    case = op.kind, op.mode
    forward, backward = (count * op.elements * itemsize for count in MOVED[case])
    if not op.relu:
        backward -= SPARED.get(case, 0) * op.elements * itemsize
    # With a residual the side of ReLU is a saved bit: written once, read by each backward pass.
    bits = 0
    if op.kind == "residual" and op.relu:
        n, channels, height, width = op.shape
        bits = n * height * width * -(-channels // 8)
    found = {
        "forward": forward + (bits if op.training else 0),
        "backward": backward + bits * (2 if op.training else 1),
    }
    return found | {"both": sum(found.values()) + (0 if op.training else bits)}


def saved_bytes(run, call: Call) -> int:
    """Bytes of all tensors that a forward keeps for its backward, shared storages counted once.

    Operands that are kept count too: keeping the convolution's output is a cost.
    """
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
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
    grads = torch.autograd.grad(out, [*call.inputs().values()], call.grad_out)
    torch.cuda.synchronize(device)
    del out, grads
    return torch.cuda.max_memory_allocated(device) - before


# Times

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

    def __init__(self, run, sets: Sequence[Call], *, hot: bool = False, training: bool = True):
        self.run, self.training = run, training
        # A backward refuses running statistics that another variant has updated in between.
        self.sets = [call.with_own_statistics() for call in (sets[:1] if hot else sets)]
        rounds = math.ceil(COLD_CALLS / len(self.sets))
        self.calls = HOT_CALLS if hot else rounds * len(self.sets)
        if sets[0].grad_out.device.type == "cpu":
            self.calls = CPU_CALLS
        self.inputs = [[*call.inputs().values()] for call in self.sets]
        self.forget()

    def forget(self) -> None:
        """Let go of all results."""
        self.outs: list = [None] * len(self.sets)
        self.kept, self.grads = list(self.outs), list(self.outs)

    def prepare(self, step: str) -> None:
        """Do whatever is done once before one of ``PASSES``: choose a kernel; for "backward" run
        the forwards whose graphs all of its calls use again."""
        if step == "backward":
            self.outs = [self.run(*call.operands) for call in self.sets]
        getattr(self, step)()

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


def timings(
    sweeps: dict[Hashable, Sweep],
    step: str,
    clocks: Iterable[str],
    device: torch.device,
    repeats: int,
    rows: dict[Hashable, dict],
    what: str = "",
) -> Iterator[tuple[str, Hashable, dict[str, float]]]:
    """Time one of ``PASSES`` of all sweeps, in turns: (clock, key, figures of one call).

    Args:
        clocks: "wall", the host's; "graph", the GPU's, of replays of a CUDA graph.
        rows: by the keys of ``sweeps``; a sweep that cannot be captured is a problem of its row.
        what: is captured, for people.
    """
    for sweep in sweeps.values():
        sweep.prepare(step)
    for clock in clocks:
        works = {key: getattr(sweep, step) for key, sweep in sweeps.items()}
        seconds_of = harness.wall_seconds
        if clock == "graph":
            works = harness.graph_replays(works, rows, what)
            seconds_of = harness.device_seconds
        samples = harness.interleaved(works, partial(seconds_of, device=device), repeats)
        del works
        for key, seconds in samples.items():
            yield clock, key, harness.spread(seconds, sweeps[key].calls)
    for sweep in sweeps.values():
        sweep.forget()
