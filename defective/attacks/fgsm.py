"""The fast gradient sign method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Attack, check_size, function_of, parameter
from .oracle import Oracle
from .pgd import moved


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """One step of size eps along the gradient's sign (Goodfellow et al., 2015).

    The release's step is a little over eps in two colour channels; ours is exact.
    """

    name: ClassVar[str] = "fgsm"
    can_target: ClassVar[bool] = True
    eps: float = parameter(8 / 255, "size of the step, pixels in [0,1]")

    def __post_init__(self):
        super().__post_init__()
        check_size("eps", self.eps)

    def perturb(self, oracle: Oracle, images: Tensor, labels: Tensor, keys: Tensor):
        _, gradient = oracle.loss_gradient(images, labels)
        return moved(images, gradient, images, self.eps, self.eps, "linf"), None


fgsm = function_of(FGSM, "eps")
