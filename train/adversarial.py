"""Adversarial training: the attack inside a step, and the loss of pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from ..defective.attacks import LSPGA, PGD, Attack
from ..defective.attacks.lspga import relaxed_gradient
from ..defective.attacks.oracle import loss_gradient
from ..defective.attacks.pgd import moved
from ..defective.models.base import Network
from ..defective.regularizers import smoothed_cross_entropy
from .config import TrainConfig


def attacked_images(
    model: Network, config: TrainConfig, images: Tensor, labels: Tensor, scale: float
) -> Tensor:
    """Images like ``images`` [N,C,H,W], at most the settings' eps away; fit for a CUDA graph.

    Args:
        model: in evaluation mode. scale: on the loss, where gradients are of float16.
    """
    inner = _lspga if model.spec.thermometer else _pgd
    return inner(model, config, images, labels, scale)


def held_out_attack(config: TrainConfig) -> Attack:
    """The same attack on images that training does not see; its start is each image's own."""
    if config.thermometer:
        return _lspga_settings(config)
    return PGD(
        eps=config.adversarial_eps,
        step=config.adversarial_step,
        steps=config.adversarial_steps,
        random_start=True,
        seed=config.seed,
    )


def _pgd(
    model: Network, config: TrainConfig, images: Tensor, labels: Tensor, scale: float
) -> Tensor:
    """PGD with a random start (Madry et al., 2018)."""
    eps = config.adversarial_eps
    attacked = (images + eps * (2 * torch.rand_like(images) - 1)).clamp_(0, 1)
    for _ in range(config.adversarial_steps):
        _, gradient = loss_gradient(model, attacked, labels, scale)
        attacked = moved(attacked, gradient, images, eps, config.adversarial_step, "linf")
    return attacked


def _lspga(
    model: Network, config: TrainConfig, images: Tensor, labels: Tensor, scale: float
) -> Tensor:
    """LS-PGA for thermometer encoding, through which PGD gets no gradient (Buckman, 2018)."""

    def gradient(logits: Tensor, encoded) -> Tensor:
        return relaxed_gradient(model, encoded, logits, labels, scale)

    count, channels, height, width = images.shape
    shape = (count, channels, model.spec.thermometer, height, width)
    start = torch.randn(shape, device=images.device)
    return _lspga_settings(config).ascend(gradient, images, start)


def _lspga_settings(config: TrainConfig) -> LSPGA:
    """Radius and number of steps are the run's; the rest are the attack's own defaults."""
    return LSPGA(eps=config.adversarial_eps, steps=config.adversarial_steps, seed=config.seed)


def paired_loss(
    logits: Tensor, labels: Tensor, weight: float, label_smoothing: float = 0.0
) -> Tensor:
    """Adversarial logit pairing (Kannan, Kurakin and Goodfellow, 2018), summed over the images.

    For each image: half the cross entropy of the clean and half that of the adversarial version
    (their mixed minibatch, whose images all count alike), and ``weight`` times the mean over
    classes of the squared difference between the two logits, as in the authors' release. Gradients
    flow into both. With weight 0 the mixed minibatch remains.

    Args:
        logits: [2N,K], of N clean images and then of their adversarial versions; widened to
            float32. labels: int64 [N].

    Returns:
        A scalar; divide it by the number of images for the mean.
    """
    logits = logits.float()
    entropy = smoothed_cross_entropy(logits, labels.repeat(2), label_smoothing, reduction="sum")
    clean, attacked = logits.chunk(2)
    return entropy / 2 + weight * (clean - attacked).square().mean(1).sum()
