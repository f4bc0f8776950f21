"""Logit-space projected gradient ascent: the attack on networks with thermometer encoding."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..thermometer import reachable, soft_code
from . import draws
from .base import Attack, check_count, check_size, function_of, parameter
from .oracle import Oracle, loss_gradient

SHARPEST = 1e4
"""Most that logits are multiplied by; the softmax is hard long before, and nothing overflows."""

Encoder = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class LSPGA(Attack):
    """LS-PGA (Buckman et al., ICLR 2018) on networks with thermometer encoding.

    Each pixel has a logit for each level (bin) that lies within eps of it, drawn from N(0,1). The
    network sees the expected code under softmax(logits / temperature), which has a gradient where
    the code itself has none. Every step moves the logits by ``step`` along the gradient's sign and
    divides the temperature by ``annealing``. In the end each pixel goes to its likeliest level, or
    stays as it is if that is its own (:func:`scotoma.defective.thermometer.reachable`).

    Levels are all that such a network sees of an image, so that no image within eps is beyond the
    attack. Temperature and annealing are those of the authors' release, whose step is the gradient
    times 1 instead of its sign. White-box, for one network; those of an ensemble are attacked
    one at a time.

    Raises (when called):
        UserError: the model has no thermometer encoding.
    """

    name: ClassVar[str] = "ls-pga"
    eps: float = parameter(8 / 255, "radius of the L-infinity ball, pixels in [0,1]")
    step: float = parameter(1.0, "size of a step of the logits")
    steps: int = parameter(7, "number of steps")
    temperature: float = parameter(1.0, "of the softmax over levels, in the first step")
    annealing: float = parameter(1.2, "each step divides the temperature by it")
    seed: int = parameter(0, "of the initial logits")

    def __post_init__(self):
        super().__post_init__()
        check_size("eps", self.eps)
        check_count("steps", self.steps)
        check_count("seed", self.seed, 0)
        for name, least in (("step", 0.0), ("temperature", 0.0), ("annealing", 1.0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least and value > 0):
                words = f"at least {least:g}" if least else "above 0"
                raise UserError(f"{name} is {value}; expected a finite number {words}")

    def perturb(self, oracle: Oracle, images: Tensor, labels: Tensor, keys: Tensor):
        levels = thermometer_levels(oracle.model)

        def gradient(logits: Tensor, encoded: Encoder) -> Tensor:
            oracle._count(oracle.forwards, None)
            oracle._count(oracle.backwards, None)
            options = oracle.scale, oracle.dtype, oracle._check
            found = relaxed_gradient(oracle.model, encoded, logits, labels, *options)
            oracle._watch(found, None)
            return found

        wide = torch.promote_types(images.dtype, torch.float32)
        shape = (images.shape[1], levels, *images.shape[2:])
        start = draws.normal(keys, self.seed, 0, shape, wide)
        return self.ascend(gradient, images, start), None

    def ascend(
        self, gradient: Callable[[Tensor, Encoder], Tensor], images: Tensor, logits: Tensor
    ) -> Tensor:
        """The steps and the choice at their end. Waits for no device; fit for a CUDA graph.

        Args:
            gradient: called with logits [N,C,L,H,W] and a differentiable function from such to a
                soft code [N,C*L,H,W]; returns the gradient of the loss for the logits.
            images: [N,C,H,W], pixels in [0,1]. logits: the first ones, [N,C,L,H,W].

        Returns:
            Images like ``images``, within eps of them.
        """
        pixels, allowed = reachable(images, logits.shape[2], self.eps)
        sharpness = 1 / self.temperature
        for _ in range(self.steps):
            encoded = _encoder(~allowed, min(sharpness, SHARPEST), images.dtype)
            logits = logits + self.step * gradient(logits, encoded).sign()
            sharpness = min(sharpness * self.annealing, SHARPEST)
        chosen = logits.masked_fill(~allowed, -math.inf).argmax(2, keepdim=True)
        return torch.empty_like(images).copy_(pixels.gather(2, chosen).squeeze(2))


def relaxed_gradient(
    model: nn.Module, encoded: Encoder, logits: Tensor, labels: Tensor, *options
) -> Tensor:
    """The gradient of the summed cross entropy for the levels' logits [N,C,L,H,W].

    ``options``: scale, dtype and check of :func:`scotoma.defective.attacks.oracle.loss_gradient`.
    """
    return loss_gradient(lambda u: model.forward_encoded(encoded(u)), logits, labels, *options)[1]


def _encoder(refused: Tensor, sharpness: float, dtype: torch.dtype) -> Encoder:
    """Logits -> soft code of the dtype; the refused levels have probability 0, and no gradient."""

    def encoded(logits: Tensor) -> Tensor:
        code = soft_code((logits * sharpness).masked_fill(refused, -math.inf).softmax(2))
        return code.to(dtype)

    return encoded


def thermometer_levels(model: nn.Module) -> int:
    """Levels of a network's thermometer encoding. Raises UserError if it has none."""
    levels = getattr(getattr(model, "spec", None), "thermometer", 0)
    if not levels:
        raise UserError(
            "ls-pga moves the levels of a thermometer encoding, and this model has none: attack it "
            "with pgd (of an ensemble, attack the networks one at a time)"
        )
    return levels


lspga = function_of(LSPGA, "eps", "steps")
