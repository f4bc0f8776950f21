"""``apply_mask``: the mask on a bare convolution output. Its gradient is the same map."""

from __future__ import annotations

import torch
from torch import Tensor

from . import backends, checks, geometry, launch, reference


def apply_mask(x: Tensor, mask: Tensor | None, *, backend: str | None = None) -> Tensor:
    """``x * mask``: the mask on a bare convolution output (the paper's placement in DenseNet).

    Args:
        x: [N,C,H,W].
        mask: 0/1 mask [C,H,W], bool or uint8; None returns ``x`` itself.
        backend: as in :func:`scotoma.kernels.bn_mask_add_relu`.

    One launch forward and one backward, 4 bytes an element each in half precision; only the mask
    is saved for backward. Can be differentiated any number of times.

    Raises:
        ValueError: ``mask`` does not fit ``x``, or ``backend`` is "triton" and cannot run this.
    """
    if mask is None:
        return x
    checks.check_mask(x, mask, "mask")
    if not backends.use_triton(backend, x):
        return reference.apply_mask(x, mask)
    if torch.compiler.is_compiling():
        return torch.ops.scotoma.apply_mask(x, mask)
    if torch.is_grad_enabled() and x.requires_grad:
        return _ApplyMask.apply(x, mask, backend)
    return _launch(x, mask)


def _launch(x: Tensor, mask: Tensor) -> Tensor:
    x = x.contiguous(memory_format=launch.memory_format(x))
    out = torch.empty_like(x)
    tiles = launch.tiling_of(x)
    (as_bytes,), masks_last = launch.mask_bytes(mask)
    with launch.on_device(x):
        launch.device_kernels().multiply_mask[(tiles.programs,)](
            x,
            as_bytes,
            out,
            *tiles.sizes,
            **tiles.constants,
            MASK_CHANNELS_LAST=masks_last,
            TILES=geometry.TILES,
        )
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
        return torch.empty_like(x).copy_(reference.apply_mask(x, mask))
    return _launch(x, mask)


@_operator.register_fake
def _(x, mask):
    return torch.empty_like(x)


_operator.register_autograd(
    lambda ctx, grad: (torch.ops.scotoma.apply_mask(grad, *ctx.saved_tensors), None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[1]),
)
