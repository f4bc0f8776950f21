"""The Carlini-Wagner attack in the Euclidean norm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .base import Attack, answer, check_count, parameter
from .constant_search import MOST, ConstantSearch
from .cw_descent import Descent
from .oracle import Oracle

CHECKS = 10
"""How often in an inner optimisation its progress is looked at."""
PROGRESS = 0.9999
"""It has progressed if its least loss is at most this times what it was at the check before."""


@dataclass(frozen=True, kw_only=True)
class CWL2(Attack):
    """The nearest image that the model gets wrong by a margin (Carlini and Wagner, 2017).

    Targeted, the margin is that of the goal over the best other class.

    Minimises ||x' - x||^2 + c * max(0, z_true - max z_other + confidence) by Adam, pixels in [0,1]
    through tanh, and searches for the smallest c that succeeds. The nearest success of all steps
    is returned; where there is none, the image itself.

    Every image has its own clock: one whose optimisation ends goes on with its next constant while
    the others are still in theirs, and one that is through leaves the batch. A constant that an
    image has tried is not tried again, as the outcome would be the same.

    The hinge is an exact penalty: the minimum is at the same place for every c above some least
    one. A search is therefore nearly as good when it ends some way above it, which ``tolerance``
    allows.
    """

    name: ClassVar[str] = "cw-l2"
    can_target: ClassVar[bool] = True
    confidence: float = parameter(0.0, "margin to reach, in logits")
    search_steps: int = parameter(9, "constants to try")
    steps: int = parameter(1000, "steps of Adam for each constant")
    lr: float = parameter(0.01, "Adam's learning rate")
    initial_const: float = parameter(1e-3, "the first constant")
    stop_early: bool = parameter(True, "end an image's optimisation when its loss stalls")
    tolerance: float = parameter(0.0, "end the search when bounds on c are this close; 0: never")
    warm_start: bool = parameter(False, "go on from the last constant's perturbation and moments")

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.confidence < math.inf:
            raise UserError(
                f"confidence is {self.confidence}; expected 0 or more, finite, in logits"
            )
        for name in ("search_steps", "steps"):
            check_count(name, getattr(self, name))
        if not 0 < self.lr < math.inf:
            raise UserError(f"lr is {self.lr}; expected a positive number, usually 0.01")
        if not 0 <= self.tolerance < math.inf:
            raise UserError(
                f"tolerance is {self.tolerance}; expected a share of c, 0 or more, such as 0.25"
            )
        if not 0 < self.initial_const <= MOST:
            raise UserError(
                f"initial_const is {self.initial_const}; expected 0 < initial_const <= {MOST:g}, "
                "usually 0.001"
            )

    @classmethod
    def release(cls, confidence: float = 40.0) -> CWL2:
        """As the defective-CNN authors' code attacks: confidence 40, and 20 for ResNet-18.

        A smaller learning rate, 30 constants, and a warm start. Their box and distance are those of
        normalised pixels, and theirs stops all images of a batch together; ours do not.
        """
        return cls(confidence=confidence, search_steps=30, lr=5e-4, warm_start=True)

    def perturb(self, oracle: Oracle, images: Tensor, labels: Tensor, keys: Tensor):
        result = images.clone()
        rows = (~oracle.won(oracle(images), labels)).nonzero().flatten()
        if not len(rows):
            return result, None
        # A warm start makes the outcome depend on more than the constant.
        wide = np.float64 if images.dtype == torch.float64 else np.float32
        digits = None if self.warm_start else wide
        searches = [
            ConstantSearch(self.initial_const, self.search_steps, digits, self.tolerance)
            for _ in rows
        ]
        descent = Descent(
            images[rows], labels[rows], rows, self.initial_const, self.confidence, self.lr
        )
        clock = np.zeros(len(rows), dtype=np.int64)
        while len(clock):
            descent.step(oracle)
            ended = self._ended(descent, clock)
            clock += 1
            if len(ended):
                clock[ended] = 0
                left = self._next_constants(descent, searches, ended)
                if len(left) < len(clock):
                    gone = np.setdiff1d(ended, left)
                    result[descent.rows[gone]] = descent.best[gone]
                    searches, clock = [searches[i] for i in left], clock[left]
                    descent.only(left)
        return result, None

    def _ended(self, descent: Descent, clock: np.ndarray) -> np.ndarray:
        """Places of the images whose optimisation ends with this step; clock: int64 [n], from 0."""
        over = clock == self.steps - 1
        if self.stop_early:
            due = np.flatnonzero((clock % math.ceil(self.steps / CHECKS) == 0) & ~over)
            stalled = descent.stalled(due, PROGRESS) if len(due) else None
            if stalled is not None and clock[due].any():  # nothing stalls at its first step
                over[due] = stalled.cpu().numpy()
        return np.flatnonzero(over)

    def _next_constants(
        self, descent: Descent, searches: list[ConstantSearch], ended: np.ndarray
    ) -> np.ndarray:
        """Give those whose optimisation ended their next constants; places of all who go on."""
        found = descent.found.cpu().numpy()[ended]
        again = [i for i, won in zip(ended, found, strict=True) if searches[i].advance(bool(won))]
        if again:
            descent.restart(again, [searches[i].value for i in again], self.warm_start)
        return np.setdiff1d(np.arange(len(searches)), np.setdiff1d(ended, again))


def cw_l2(
    model,
    images: Tensor,
    labels: Tensor,
    confidence: float = CWL2.confidence,
    *,
    keys: Tensor | None = None,
    details: bool = False,
    targeted: bool = False,
    **options,
):
    """Carlini-Wagner attack in the Euclidean norm; nothing about it is random.

    Args:
        model, images, labels, targeted: as :class:`scotoma.defective.attacks.Attack` takes them;
            with ``targeted`` labels are the classes to reach.
        confidence: margin to reach, in logits: of the best other class over the true one, or of
            the goal over the best other class.
        keys: not used. details: return the :class:`AttackResult` beside the images.
        options: further fields of :class:`CWL2`: search_steps, steps, lr, initial_const,
            stop_early, tolerance, warm_start.

    Returns:
        Adversarial images like ``images``, the image itself where none was found or the model is
        wrong, or at the goal, already; with ``details`` (images, result).

    Raises:
        UserError: a setting out of range, or bad arguments.
    """
    attack = CWL2(confidence=confidence, **options)
    return answer(attack, details, model, images, labels, keys, targeted)
