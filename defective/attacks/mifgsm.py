"""The momentum iterative fast gradient sign method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import UserError
from .base import Attack, check_count, check_size, function_of, parameter
from .norms import TINY, at_least_float
from .oracle import Oracle
from .pgd import moved


@dataclass(frozen=True, kw_only=True)
class MIFGSM(Attack):
    """PGD along the sign of a running sum of gradients (Dong et al., 2018).

    Each gradient is divided by its L1 norm before it is added, image by image (the release takes
    one norm of the whole batch, but its batches are single images).
    """

    name: ClassVar[str] = "mifgsm"
    can_target: ClassVar[bool] = True
    eps: float = parameter(16 / 255, "radius of the L-infinity ball, pixels in [0,1]")
    step: float = parameter(1 / 255, "size of a step, same unit")
    steps: int = parameter(40, "number of steps")
    decay: float = parameter(1.0, "weight of the gradients before")

    def __post_init__(self):
        super().__post_init__()
        for name in ("eps", "step"):
            check_size(name, getattr(self, name))
        check_count("steps", self.steps)
        if not 0 <= self.decay < float("inf"):
            raise UserError(f"decay is {self.decay}; expected 0 or more, usually 1")

    def perturb(self, oracle: Oracle, images: Tensor, labels: Tensor, keys: Tensor):
        adversarial, momentum = images, torch.zeros_like(at_least_float(images))
        for _ in range(self.steps):
            gradient = at_least_float(oracle.loss_gradient(adversarial, labels)[1])
            norm = gradient.abs().flatten(1).sum(1).clamp_min_(TINY)
            momentum = gradient / norm[:, None, None, None] + self.decay * momentum
            adversarial = moved(adversarial, momentum, images, self.eps, self.step, "linf")
        return adversarial, None


mifgsm = function_of(MIFGSM, "eps", "step", "steps", "decay")
