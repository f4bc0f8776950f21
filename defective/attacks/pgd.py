"""Projected gradient descent, in the L-infinity or the Euclidean ball."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from .base import Attack, check_count, check_size, function_of, parameter
from .norms import NORMS, at_least_float
from .oracle import Oracle


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Step along the steepest direction, project on the ball, clip to [0,1]; as often as asked.

    Kurakin et al. (2017) start at the image, as the paper's PGD does (appendix E), Madry et al.
    (2018) at a random point. The paper writes (step, steps, eps) in levels of 255: its (1, 20, 16)
    is ``PGD(eps=16/255, step=1/255, steps=20)``.
    """

    name: ClassVar[str] = "pgd"
    can_target: ClassVar[bool] = True
    eps: float = parameter(8 / 255, "radius of the ball, pixels in [0,1]")
    step: float = parameter(2 / 255, "size of a step, same unit")
    steps: int = parameter(10, "number of steps")
    norm: Literal["linf", "l2"] = parameter("linf", "linf or l2")
    random_start: bool = parameter(False, "begin at a uniform point of the ball")
    restarts: int = parameter(1, "random starts; the worst for the model counts")
    stop_when_fooled: bool = parameter(False, "an image leaves at its first fooling step")
    seed: int = parameter(0, "of the random starts")

    def __post_init__(self):
        super().__post_init__()
        if self.norm not in tuple(NORMS):
            raise UserError(f"norm is {self.norm!r}; expected one of {', '.join(NORMS)}")
        for name in ("eps", "step"):
            # The longest Euclidean distance depends on the images' size: see perturb.
            most = 1.0 if self.norm == "linf" else math.inf
            check_size(name, getattr(self, name), most)
        for name in ("steps", "restarts"):
            check_count(name, getattr(self, name))
        check_count("seed", self.seed, 0)
        if self.restarts > 1 and not self.random_start:
            raise UserError(
                f"restarts is {self.restarts} without random_start: all would be the same; set "
                "random_start=True"
            )

    def perturb(self, oracle: Oracle, images: Tensor, labels: Tensor, keys: Tensor):
        if self.norm == "l2":
            for name in ("eps", "step"):
                check_size(name, getattr(self, name), math.sqrt(images[0].numel()))
        best = self._once(oracle, images, labels, keys, None, 0)
        if self.restarts == 1:
            return best, None
        losses, fooled = self._judge(oracle, best, labels, None)
        for restart in range(1, self.restarts):
            rows = (~fooled).nonzero().flatten()  # fooled images leave
            if not len(rows):
                break
            part = images[rows], labels[rows], keys[rows]
            found = self._once(oracle, *part, rows, restart)
            loss, won = self._judge(oracle, found, part[1], rows)
            better = won | (loss > losses[rows])
            best[rows[better]], losses[rows[better]] = found[better], loss[better]
            fooled[rows[won]] = True
        return best, None

    def _once(self, oracle, images, labels, keys, rows, restart: int) -> Tensor:
        start = images
        if self.random_start:
            start = NORMS[self.norm].random(images, self.eps, keys, self.seed, restart)
            start = start.clamp_(0, 1)
        if self.stop_when_fooled:
            return self._until_fooled(oracle, images, labels, start, rows)
        for _ in range(self.steps):
            _, gradient = oracle.loss_gradient(start, labels, rows)
            start = self.move(start, gradient, images)
        return start

    def move(self, adversarial: Tensor, gradient: Tensor, images: Tensor) -> Tensor:
        """One step from ``adversarial`` up the gradient, inside the ball around ``images``."""
        return moved(adversarial, gradient, images, self.eps, self.step, self.norm)

    def _until_fooled(self, oracle, images, labels, adversarial, rows) -> Tensor:
        """As many steps as each image needs; the batch shrinks."""
        result = adversarial.clone()
        rows = torch.arange(len(images), device=images.device) if rows is None else rows
        places = torch.arange(len(images), device=images.device)
        for _ in range(self.steps):
            logits, gradient = oracle.loss_gradient(adversarial, labels, rows)
            left = ~oracle.won(logits, labels)
            if not bool(left.all()):
                result[places[~left]] = adversarial[~left]
                rows, places, images, labels = (t[left] for t in (rows, places, images, labels))
                adversarial, gradient = adversarial[left], gradient[left]
                if not len(places):
                    return result
            adversarial = self.move(adversarial, gradient, images)
        result[places] = adversarial
        return result

    def _judge(self, oracle: Oracle, adversarial, labels, rows) -> tuple[Tensor, Tensor]:
        logits = oracle(adversarial, rows)
        losses = F.cross_entropy(logits, labels, reduction="none")
        return -losses if oracle.targeted else losses, oracle.won(logits, labels)


def moved(
    adversarial: Tensor, gradient: Tensor, images: Tensor, eps: float, step: float, norm: str
) -> Tensor:
    """A step up the gradient, then the ball, then [0,1]: the order that decides the last bits."""
    geometry = NORMS[norm]
    ahead = at_least_float(adversarial) + step * geometry.direction(at_least_float(gradient))
    return geometry.project(ahead, at_least_float(images), eps).clamp_(0, 1).to(images.dtype)


pgd = function_of(PGD, "eps", "step", "steps", "random_start")
