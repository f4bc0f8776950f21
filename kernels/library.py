"""The fused operator as torch sees it under ``torch.compile`` and ``torch.export``.

Two functional operators, forward and backward, opaque to the compiler. The forward one returns
the batch statistics, and running statistics are updated outside it: an operator that mutates has
no derivative in torch.library, and mutated inputs keep Inductor from using CUDA graphs. In eager
mode ``fused.py`` is used instead, which costs less per call.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import backends, fused, reference
from .fused import Gradients
from .launch import empty_output
from .reference import NO_BRANCH, Branch, Settings, pack_bits, unpack_bits

OptTensor = Tensor | None


def bn_mask_add_relu(main: Branch, other, residual, settings: Settings) -> Tensor:
    """``fused.bn_mask_add_relu`` by way of the registered operators."""
    second = other or NO_BRANCH
    inputs = (main.x, main.weight, main.bias, residual, second.x, second.weight, second.bias)
    save_bits = (
        settings.relu
        and residual is not None
        and torch.is_grad_enabled()
        and any(t is not None and t.requires_grad for t in inputs)
    )
    # In training the operator has no use for the running statistics; leaving them out tells the
    # compiler that their update need not wait for it.
    reads = [b._replace(mean=None, var=None) if settings.training else b for b in (main, second)]
    functional = torch._C._are_functorch_transforms_active()
    run = _Functional.apply if functional else torch.ops.scotoma.bn_mask_add_relu
    out, statistics, _ = run(
        *reads[0], *reads[1], residual, settings.relu, settings.training, settings.eps, save_bits
    )
    if settings.training:
        count = main.x.numel() // main.x.shape[1]
        for branch, (mean, var) in zip((main, other), statistics.detach(), strict=False):
            if branch.mean is not None:
                reference.update_running_statistics(
                    branch.mean, branch.var, mean, var * (count / (count - 1)), settings.momentum
                )
    return out


@torch.library.custom_op("scotoma::bn_mask_add_relu", mutates_args=())
def _forward(
    x: Tensor,
    weight: OptTensor,
    bias: OptTensor,
    running_mean: OptTensor,
    running_var: OptTensor,
    mask: OptTensor,
    x2: OptTensor,
    weight2: OptTensor,
    bias2: OptTensor,
    running_mean2: OptTensor,
    running_var2: OptTensor,
    mask2: OptTensor,
    residual: OptTensor,
    relu: bool,
    training: bool,
    eps: float,
    save_bits: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, statistics [branches,2,C] (empty in evaluation) and bits (empty unless asked for)."""
    main = Branch(x, weight, bias, running_mean, running_var, mask)
    other = None
    if x2 is not None:
        other = Branch(x2, weight2, bias2, running_mean2, running_var2, mask2)
    if training:  # running statistics are not this operator's
        main = main._replace(mean=None, var=None)
        other = None if other is None else other._replace(mean=None, var=None)
    settings = Settings(relu, training, 0.0, eps)
    if backends.why_not_triton(x):
        result = eager_forward(main, other, residual, settings, save_bits)
    else:
        result = fused.forward(main, other, residual, settings, save_bits=save_bits)
    return (
        result.out,
        _stack_statistics(result.main, result.other) if training else x.new_empty(0),
        x.new_empty(0, dtype=torch.uint8) if result.bits is None else result.bits,
    )


@_forward.register_fake
def _(x, weight, bias, running_mean, running_var, mask, x2, weight2, bias2, running_mean2,
      running_var2, mask2, residual, relu, training, eps, save_bits):  # fmt: skip
    n, channels, height, width = x.shape
    statistics = x.new_empty(0)
    if training:
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        statistics = x.new_empty((1 if x2 is None else 2, 2, channels), dtype=dtype)
    rows = (n * height * width, (channels + 7) // 8)
    bits = x.new_empty(rows if save_bits else 0, dtype=torch.uint8)
    return empty_output(x), statistics, bits


def _stack_statistics(main: Branch, other: Branch | None) -> Tensor:
    branches = [main] if other is None else [main, other]
    return torch.stack([torch.stack([b.mean, b.var]) for b in branches])


@torch.library.custom_op("scotoma::bn_mask_add_relu_backward", mutates_args=())
def _backward(
    grad_out: Tensor,
    x: Tensor,
    weight: OptTensor,
    bias: OptTensor,
    mean: Tensor,
    var: Tensor,
    mask: OptTensor,
    x2: OptTensor,
    weight2: OptTensor,
    bias2: OptTensor,
    mean2: OptTensor,
    var2: OptTensor,
    mask2: OptTensor,
    bits: OptTensor,
    relu: bool,
    training: bool,
    eps: float,
    wanted: list[bool],
) -> list[Tensor]:
    """Gradients of x, weight, bias, residual, x2, weight2, bias2; empty where not wanted."""
    main = Branch(x, weight, bias, mean, var, mask)
    other = None if x2 is None else Branch(x2, weight2, bias2, mean2, var2, mask2)
    settings = Settings(relu, training, 0.0, eps)
    if backends.why_not_triton(x):
        grads = eager_backward(grad_out, main, other, bits, settings, Gradients(*wanted))
    else:
        grads = fused.backward(grad_out, main, other, bits, settings, Gradients(*wanted))
    # An operator may not return its own input, which grad_out is where there is no ReLU.
    copy = [g is not None and g.data_ptr() == grad_out.data_ptr() for g in grads]
    return [
        x.new_empty(0) if g is None else empty_output(x).copy_(g) if copied else g
        for g, copied in zip(grads, copy, strict=True)
    ]


def _empty_gradients(x: Tensor, main, other, wanted) -> list[Tensor]:
    """Memory for every gradient that is wanted, and an empty tensor for each of the others.

    Those of activations all have the format of the first.
    """
    vectors = {1: main[1], 2: main[2], 5: other and other[1], 6: other and other[2]}
    return [
        x.new_empty(0) if not wants
        else vectors[i].new_empty(vectors[i].shape) if i in vectors
        else empty_output(x)
        for i, wants in enumerate(wanted)
    ]  # fmt: skip


@_backward.register_fake
def _(grad_out, x, weight, bias, mean, var, mask, x2, weight2, bias2, mean2, var2, mask2, bits,
      relu, training, eps, wanted):  # fmt: skip
    main, other = (x, weight, bias), (x2, weight2, bias2)
    return _empty_gradients(x, main, other, wanted)


def _save(ctx, inputs, output):
    x, weight, bias, mean, var, mask, x2, weight2, bias2, mean2, var2, mask2 = inputs[:12]
    _, _, relu, training, eps, save_bits = inputs[11:17]
    statistics, bits = output[1:]
    if training:
        mean, var = statistics[0]
        mean2, var2 = statistics[1] if x2 is not None else (None, None)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(statistics, bits)
    ctx.save_for_backward(
        x, weight, bias, mean, var, mask, x2, weight2, bias2, mean2, var2, mask2,
        bits if save_bits else None,
    )  # fmt: skip
    ctx.flags = relu, training, eps


def _differentiate(ctx, grad_out, *_):
    # Operator order: 12 of the two branches, then the residual, then flags.
    needs = ctx.needs_input_grad
    wanted = [needs[i] for i in (0, 1, 2, 12, 6, 7, 8)]
    none = [None] * 17
    if grad_out is None:
        return tuple(none)
    functional = torch._C._are_functorch_transforms_active()
    run = _FunctionalBackward.apply if functional else torch.ops.scotoma.bn_mask_add_relu_backward
    grads = run(grad_out, *ctx.saved_tensors, *ctx.flags, wanted)
    for i, grad, wants in zip((0, 1, 2, 12, 6, 7, 8), grads, wanted, strict=True):
        none[i] = grad if wants else None
    return tuple(none)


_forward.register_autograd(_differentiate, setup_context=_save)


def _no_second_derivative(ctx, *grads):
    raise RuntimeError(
        "scotoma::bn_mask_add_relu has no second derivative inside a compiled or exported graph; "
        "call the model without torch.compile, or pass backend='eager'"
    )


_backward.register_autograd(_no_second_derivative, setup_context=lambda ctx, inputs, output: None)


def transforms_allow() -> bool:
    """Whether the operators can run under the functorch transforms that are active.

    So it is under one ``torch.func.grad``; vmap, forward-mode and second derivatives take the
    definition.
    """
    if forward_ad._current_level >= 0:
        return False
    stack = torch._C._functorch.get_interpreter_stack() or []
    return [level.key().name for level in stack] == ["Grad"]


class _Functional(torch.autograd.Function):
    """The forward operator for ``torch.func.grad``, which wants ``setup_context`` of a Function."""

    @staticmethod
    def forward(*inputs):
        return torch.ops.scotoma.bn_mask_add_relu(*inputs)

    setup_context = staticmethod(_save)
    backward = staticmethod(_differentiate)


class _FunctionalBackward(torch.autograd.Function):
    @staticmethod
    def forward(*inputs):
        return tuple(torch.ops.scotoma.bn_mask_add_relu_backward(*inputs))

    setup_context = staticmethod(lambda ctx, inputs, output: None)
    backward = staticmethod(_no_second_derivative)


def eager_forward(main: Branch, other, residual, settings: Settings, save_bits: bool):
    """``fused.forward`` by the definition: where a graph made on a GPU runs without one."""
    branches = [main] if other is None else [main, other]
    if settings.training:
        for i, b in enumerate(branches):
            wide = b.x if b.x.dtype == torch.float64 else b.x.float()
            var, mean = torch.var_mean(wide, (0, 2, 3), correction=0)
            branches[i] = b._replace(mean=mean, var=var)
    total = _before_relu(branches, settings)
    total = total if residual is None else total + residual
    out = empty_output(main.x).copy_(torch.relu(total) if settings.relu else total)
    bits = pack_bits(~(total <= 0)) if save_bits else None
    return fused.Forward(out, branches[0], branches[1] if other else None, bits, None)


def _before_relu(branches: list[Branch], settings: Settings) -> Tensor:
    """The sum of the branches by given statistics."""
    evaluated = settings._replace(training=False, momentum=0.0)
    values = (reference.batch_norm(*b[:5], *evaluated[1:]) for b in branches)
    return sum(reference.apply_mask(v, b.mask) for v, b in zip(values, branches, strict=True))


def eager_backward(grad_out, main: Branch, other, bits, settings: Settings, wanted: Gradients):
    """``fused.backward`` in plain torch: each branch's is that of torch's own batch norm."""
    branches = [main] if other is None else [main, other]
    grad = grad_out
    if settings.relu:
        if bits is None:
            alive = ~(_before_relu(branches, settings) <= 0)
        else:
            alive = unpack_bits(bits, main.x)
        grad = grad.where(alive, 0)
    found = []
    for b in branches:
        saved = b.mean, (b.var + settings.eps).rsqrt()
        running = (None, None) if settings.training else (b.mean, b.var)
        found += torch.ops.aten.native_batch_norm_backward(
            reference.apply_mask(grad, b.mask), b.x, b.weight, *running, *saved,
            settings.training, settings.eps, [True, b.weight is not None, b.bias is not None],
        )  # fmt: skip
    found += [None] * (6 - len(found))
    found.insert(3, grad)
    outputs = _empty_gradients(main.x, main, other, wanted)
    pairs = zip(outputs, found, wanted, strict=True)
    return Gradients(*(out.copy_(g) if wants else None for out, g, wants in pairs))
