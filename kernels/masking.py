"""``apply_mask``: the mask on a bare convolution output. Its gradient is the same map."""

from __future__ import annotations

import torch
from torch import Tensor

from . import backends, launch, reference
from .fused import aligned
from .launch import LARGE, MAX_PLANS, Launch, elementwise, empty_output, masks_order, on_device
from .operator import FLOATS, MASK_DTYPES, check_activation, check_mask

# Launches, layouts and whether to reorder the mask, by the description of a call.
launches: dict[tuple, tuple[Launch, torch.memory_format, bool]] = {}


def apply_mask(x: Tensor, mask: Tensor | None, *, backend: str | None = None) -> Tensor:
    """``x * mask``: the mask on a bare convolution output (the paper's placement in DenseNet).

    Args:
        x: [N,C,H,W]; [N,C,L] and [N,C,D,H,W] as well.
        mask: 0/1 mask of the shape of an image, [C,H,W], bool or uint8; None returns ``x`` itself.
        backend: as in :func:`scotoma.kernels.bn_mask_add_relu`.

    One launch forward and one backward, 4 bytes an element each in half precision; only the mask
    is saved for backward. Can be differentiated any number of times.

    Raises:
        ValueError: ``x`` has other dimensions, ``mask`` does not fit it, or ``backend`` is
            "triton" and cannot run this.
    """
    if mask is None:
        return x
    try:
        fits = x.dim() in (3, 4, 5) and x.dtype in FLOATS and mask.dtype in MASK_DTYPES
        fits = fits and mask.shape == x.shape[1:] and mask.device == x.device
    except AttributeError:  # of what is no tensor
        fits = False
    if not fits:
        check_activation(x, "x")
        check_mask(x, mask, "mask")
    if not backends.use_triton(backend, x) or backends.transformed(x):
        return reference.apply_mask(x, mask)
    if x.dim() == 3:
        return apply_mask(x.unsqueeze(2), mask.unsqueeze(1), backend=backend).squeeze(2)
    if x.dim() != 4:
        image = apply_mask(x.flatten(2, -2), mask.flatten(1, -2), backend=backend)
        return image.unflatten(2, x.shape[2:-1])
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) is not Tensor:
        return torch.ops.scotoma.apply_mask(x, mask)
    if torch.is_grad_enabled() and x.requires_grad:
        return _ApplyMask.apply(x, mask, backend)
    return _launch(x, mask)


def _launch(x: Tensor, mask: Tensor) -> Tensor:
    direct = aligned(x, mask)
    key = x.shape, x.stride(), x.dtype, x.device, mask.stride(), direct
    if key not in launches:
        if len(launches) >= MAX_PLANS:
            launches.clear()
        layout, order = launch.memory_format(x), masks_order(mask)
        cut = launch.tiling(x.shape, layout == torch.channels_last, x.element_size(), LARGE)
        last = {"MASK_CHANNELS_LAST": order is not False}
        made = elementwise("multiply_mask", cut, x.get_device(), direct, **last)
        launches[key] = made, layout, order is None
    multiply, layout, reorder = launches[key]
    x = x.contiguous(memory_format=layout)
    if reorder:
        mask = mask.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    out = empty_output(x)
    with on_device(multiply.device):
        multiply(None, x, mask, out)
    return out


class _ApplyMask(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, mask, backend):
        ctx.save_for_backward(mask)
        ctx.backend = backend
        return _launch(x, mask)

    @staticmethod
    def backward(ctx, grad):
        # The public function, so that the gradient has a gradient.
        return apply_mask(grad, *ctx.saved_tensors, backend=ctx.backend), None, None


@torch.library.custom_op("scotoma::apply_mask", mutates_args=())
def _operator(x: Tensor, mask: Tensor) -> Tensor:
    """``apply_mask`` as the compiler sees it."""
    if backends.why_not_triton(x):
        return empty_output(x).copy_(reference.apply_mask(x, mask))
    return _launch(x, mask)


@_operator.register_fake
def _(x, mask):
    return empty_output(x)


_operator.register_autograd(
    lambda ctx, grad: (torch.ops.scotoma.apply_mask(grad, *ctx.saved_tensors), None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[1]),
)
