"""``conv_bn_mask_add_relu``: a convolution and everything up to the ReLU after it.

Two ways compute it: *separate*, torch's convolution (cuDNN) and then ``bn_mask_add_relu``; or
*fused*, one Triton convolution with the rest in its epilogue (evaluation) or with the batch
statistics in it (training). Which is faster depends on the shape and the GPU, so nothing is fused
until it was measured: see ``choice.py``.
"""

from __future__ import annotations

from typing import Literal

import torch.distributed as dist
from torch import Tensor

from . import backends, checks, choice, conv_launch, conv_ways
from .call import Branch, Settings
from .conv_ways import Call
from .reference import Projection


def conv_bn_mask_add_relu(
    x: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    mask: Tensor | None = None,
    residual: Tensor | None = None,
    projection: Projection | None = None,
    relu: bool = True,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
    group: dist.ProcessGroup | None = None,
    backend: Literal["eager", "triton"] | None = None,
) -> Tensor:
    """``relu(mask * BN(conv(x)) + residual)``.

    In evaluation without gradients the fused way folds BN into a scale and a shift on the
    convolution's float32 accumulator, and the output is rounded once. In training the fused way
    takes the batch statistics in the convolution's epilogue, which saves one read of its output;
    its backward is torch's for the convolution and the fused one for the rest.

    Args:
        x: [N,C_in,H_in,W_in]; the fused way works in channels_last and copies anything else.
        conv_weight, conv_bias: [C_out,C_in/groups,KH,KW] and [C_out] or None.
        stride, padding, dilation, groups: as in ``torch.nn.functional.conv2d``.
        weight, bias, running_mean, running_var, mask, residual, projection, relu, training,
            momentum, eps, group: of :func:`scotoma.kernels.bn_mask_add_relu`, whose ``x`` is the
            convolution's output [N,C_out,H,W].
        backend: "eager" for torch's convolution and the eager definition; "triton" for the fused
            way, by the measured tile or else the first; None for whichever was measured to be
            faster (:func:`scotoma.kernels.measure_convolutions`), separate where nothing was.

    The fused way knows kernels of 1x1 and 3x3, strides 1 and 2, no dilation and one group. It does
    not run under ``torch.compile``. Under autocast it computes in autocast's dtype, as torch's
    convolution does. float32 it multiplies as TF32, if torch's convolution does so too
    (``torch.backends.cudnn.conv.fp32_precision``).

    Raises:
        ValueError: arguments do not fit together, or ``backend`` is "triton" and the fused way
            does not know this call. The message names the argument.
    """
    checks.check_convolution(x, conv_weight, conv_bias, groups)
    call = Call(
        x,
        conv_weight,
        conv_bias,
        (stride, padding, dilation, groups),
        Branch(None, weight, bias, running_mean, running_var, mask),
        residual,
        projection,
        Settings(relu, training, momentum, eps, group),
    )
    if backend is None and not choice.active():  # the common case, decided without looking further
        return conv_ways.separate(call, None)
    if backends.checked(backend) == "eager":
        return conv_ways.separate(call, "eager")
    refusal = conv_ways.why_separate(call)
    if refusal and backend == "triton":
        raise ValueError(f"backend is 'triton', but {refusal}; use backend=None")
    if refusal:
        return conv_ways.separate(call, None)
    name = choice.choose(
        x.device,
        conv_ways.describe(call),
        # Measuring must leave the running statistics alone.
        conv_ways.candidates(conv_ways.without_running_statistics(call)),
    )
    tile = conv_ways.tile_named(name)
    if tile is None and backend is None:
        return conv_ways.separate(call, None)
    return conv_ways.fused(call, tile or conv_launch.CONV_TILES[0])
