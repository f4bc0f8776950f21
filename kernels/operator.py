"""The public face of the operators: checks once, then hands over to a backend."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from . import backends, checks, fused, library, reference
from .call import Branch, Settings
from .reference import Projection


def bn_mask_add_relu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    mask: Tensor | None = None,
    residual: Tensor | None = None,
    projection: Projection | None = None,
    relu: bool = True,
    training: bool,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
    group: dist.ProcessGroup | None = None,
    backend: Literal["eager", "triton"] | None = None,
) -> Tensor:
    """``relu(mask * BN(x) + residual)``: a defective layer after its convolution.

    The mask comes after batch norm and before both the addition and ReLU, so the batch
    statistics see every position, the masked ones too. Nothing is rescaled by 1/p. The mask is a
    factor: a non-finite value under its zero gives NaN.
    Source: paper equations 3 to 5, in the order of the authors' release.

    Args:
        x: convolution output [N,C,H,W], float32, float16, bfloat16 or (eager) float64;
            channels_last or contiguous. The output has its shape, dtype and memory format.
        weight, bias: affine parameters [C], or None.
        running_mean, running_var: running statistics [C], updated in place when ``training``;
            None to use none (``training`` must then be True).
        mask: fixed 0/1 mask [C,H,W], bool or uint8, the same for every image; None for no mask.
        residual: tensor added to the masked branch, shaped like ``x``.
        projection: second branch ``mask * BN(x)`` added to the first, instead of ``residual``.
        relu: apply ReLU at the end. NaN passes through it.
        training: normalise by batch statistics (True) or running statistics (False). The gradient
            is right in both cases.
        momentum: weight of the new batch in the running statistics; a float, or a tensor with one
            value where it is known on the device alone (1 / batches seen, for ``momentum=None`` of
            ``torch.nn.BatchNorm2d``).
        eps: epsilon, added to the variance.
        group: process group over which batch statistics are synchronised; None for local ones.
        backend: "triton" for the fused kernels, "eager" for the PyTorch definition, None to choose:
            what the environment variable ``SCOTOMA_BACKEND`` says, else Triton where it can run.

    Saved for backward by the fused kernels: ``x`` (and the projection's), per-channel vectors,
    masks, and with ``residual`` and ``relu`` one bit for each element (a row of channels is padded
    to whole bytes). Never the output, never the residual.

    Speed: in training forward and backward launch three kernels each (partial sums, their merge,
    one pass over the activations). In bfloat16 without a residual they move 6 and 10 bytes an
    element. Activations that are neither channels_last nor contiguous,
    or whose formats differ, are copied first.

    Raises:
        ValueError: an argument has the wrong shape, dtype or combination, or ``backend`` is
            "triton" and cannot run this call. The message names it.
    """
    settings = Settings(relu, training, momentum, eps, group)
    checks.check_call(
        x, weight, bias, running_mean, running_var, mask, residual, projection, settings
    )
    others = (residual, None if projection is None else projection.x)
    # Collectives are not inside the registered operator: compiled, synchronised statistics are
    # those of the eager definition.
    compiling = torch.compiler.is_compiling()
    if backends.use_triton(backend, x, *others) and not (compiling and settings.synchronised):
        main = Branch(x, weight, bias, running_mean, running_var, mask)
        other = None if projection is None else Branch(*projection)
        # The compiler sees registered operators; eager mode takes the shorter way.
        run = library.bn_mask_add_relu if compiling else fused.bn_mask_add_relu
        return run(main, other, residual, settings)
    return reference.bn_mask_add_relu(
        x,
        weight,
        bias,
        running_mean,
        running_var,
        mask=mask,
        residual=residual,
        projection=projection,
        **settings._asdict(),
    )
