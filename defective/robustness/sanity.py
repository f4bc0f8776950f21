"""Signs that a model only seems robust, because attacks cannot get hold of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attacks.base import check_batch
from ..attacks.oracle import check_evaluation_mode, logits_of, looks_like_probabilities
from ..ensemble import as_module

REPEATED, REGROUPED = 1e-5, 1e-3
"""Differences of logits, relative to the largest, that rounding explains: between two passes of
one batch, and between batches of different sizes, for which libraries take different kernels."""

_ALONE = 4
"""How many images are tried alone."""


@torch.inference_mode(False)
def sanity_flags(model: nn.Module, images: Tensor, labels: Tensor) -> list[str]:
    """Warnings about a model, each one line: what was seen, why it matters, what to do.

    The checks follow the flags of AutoAttack (Croce and Hein, 2020) and the signs of masked
    gradients of Athalye et al. (2018). They find common accidents; their silence proves nothing.

    Args:
        model: pixels in [0,1] -> logits, in evaluation mode; an nn.Module or any function.
        images: float [N,C,H,W], pixels in [0,1]. labels: int64 [N], true classes.

    Raises:
        UserError: arguments that do not fit, a model in training mode, or one that returns
            anything but floating [N,K].
    """
    model = as_module(model)
    check_evaluation_mode(model)
    images, labels, _ = check_batch(images, labels, None)
    logits, gradient = _logits_and_gradient(model, images, labels)
    finite = logits.isfinite().all(1)
    if not bool(finite.all()):
        return [
            f"outputs are not finite for {_share(~finite)}: the weights diverged or the precision "
            "is too low, and no attack works; train again, or use float32"
        ]
    flags = []
    if looks_like_probabilities(logits):
        flags.append(
            "outputs look like probabilities (not negative, of sum 1): a second softmax in the "
            "loss flattens gradients and robustness is overstated; leave the model's softmax out"
        )
    zero = (gradient == 0).flatten(1).all(1)
    if bool(zero.any()):
        flags.append(
            f"the gradient for the pixels is zero for {_share(zero)}: gradient attacks do not move "
            "them and robustness is overstated; look for saturated logits or steps without a "
            "slope, and attack with boundary or from another source too"
        )
    saturated = F.cross_entropy(logits.float(), labels, reduction="none") == 0
    if bool(saturated.any()):
        flags.append(
            f"logits are saturated for {_share(saturated)} (the cross entropy is 0 in float32): "
            "its gradient underflows and robustness is overstated; attack with cw-l2, whose loss "
            "is a difference of logits, too"
        )
    with torch.no_grad():
        differ, gap = _gap(model(images), logits, REPEATED)
    if bool(differ.any()):
        flags.append(
            f"two passes of the same batch differ for {_share(differ)} (logits by up to {gap:.2g}):"
            " attacks aim at another network than the one that answers and robustness is "
            "overstated; make the model deterministic, or attack its mean over many passes"
        )
        return flags
    with torch.no_grad():
        if len(images) == 1:  # then the batch is the exception
            alone = model(torch.cat([images, 1 - images]))[:1]
        else:
            alone = torch.cat([model(image[None]) for image in images[:_ALONE]])
    differ, gap = _gap(alone, logits, REGROUPED)
    if bool(differ.any()):
        flags.append(
            f"logits of {_share(differ)} tried depend on the other images of the batch (by up to "
            f"{gap:.2g}): results change with the batch size and are no property of an image; look "
            "for batch statistics in the forward pass"
        )
    return flags


def _logits_and_gradient(model, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs [N,K], and the gradient of the cross entropy; zeros where none reaches the pixels."""
    pixels = images.clone().requires_grad_()
    with torch.enable_grad():
        logits = logits_of(model, pixels)
        total = F.cross_entropy(logits.float(), labels, reduction="sum")
        gradient = None
        if total.requires_grad:
            (gradient,) = torch.autograd.grad(total, pixels, allow_unused=True)
    return logits.detach(), torch.zeros_like(images) if gradient is None else gradient


def _gap(found: Tensor, logits: Tensor, relative: float) -> tuple[Tensor, float]:
    """Whose logits differ by more than rounding, and by how much at most."""
    gap = (found - logits[: len(found)]).abs().amax(1)
    relative = max(relative, 8 * torch.finfo(logits.dtype).eps)
    return gap > relative * logits.abs().max(), float(gap.max())


def _share(flags: Tensor) -> str:
    return f"{int(flags.sum())} of {len(flags)} images"
