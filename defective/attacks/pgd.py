"""Projected gradient descent in the L-infinity ball."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    step: float,
    steps: int,
    random_start: bool = False,
    generator: torch.Generator | None = None,
    loss_scale: float = 1.0,
) -> Tensor:
    """Untargeted PGD: step along the gradient's sign, project on the ball, clip to [0,1].

    The loss is summed over the batch, so that no image's result depends on its batch, and the
    gradient is taken for the images alone: parameters collect none. The model is used in the mode
    it is in; put it in evaluation mode, or batch statistics mix the images.

    Args:
        model: pixels in [0,1] [N,C,H,W] -> logits [N,K].
        images: float [N,C,H,W], pixels in [0,1]. labels: int64 [N], the true classes.
        eps: radius of the ball, step: step size, both in units of pixels in [0,1].
        steps: number of gradient steps, all of them taken.
        random_start: begin at a uniform point of the ball (Madry et al., 2018) instead of at the
            image (Kurakin et al., 2017; the paper's PGD, appendix E).
        generator: for the random start, on the images' device; None for torch's global one.
        loss_scale: factor on the loss, against underflow of the gradient under float16 autocast;
            a power of two changes no sign.

    Returns:
        Adversarial images, like ``images``, without gradient.

    Raises:
        UserError: eps, step or steps out of range.
    """
    if not 0 < eps <= 1 or not 0 < step <= 1:
        raise UserError(
            f"eps is {eps} and step is {step}; expected both in (0, 1], in units of pixels in "
            "[0,1] (for eight levels of 255 write 8/255)"
        )
    if steps < 1:
        raise UserError(f"steps is {steps}; expected at least 1")
    images = images.detach()
    adversarial = images.clone()
    if random_start:
        noise = torch.rand(
            images.shape, dtype=images.dtype, device=images.device, generator=generator
        )
        adversarial = (images + eps * (2 * noise - 1)).clamp_(0, 1)
    for _ in range(steps):
        adversarial.requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(model(adversarial), labels, reduction="sum") * loss_scale
        (gradient,) = torch.autograd.grad(loss, adversarial)
        with torch.no_grad():
            moved = adversarial + step * gradient.sign()
            adversarial = (images + (moved - images).clamp_(-eps, eps)).clamp_(0, 1)
    return adversarial.detach()
