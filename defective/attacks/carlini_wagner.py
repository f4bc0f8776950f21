"""The Carlini-Wagner attack in the Euclidean norm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .base import Attack, check_count, function_of, parameter
from .norms import at_least_float
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


cw_l2 = function_of(CWL2, "confidence")


SHRINK = 0.999999
"""Pixels of exactly 0 and 1 would be infinitely far out under the inverse of tanh."""
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
PATIENCE = 2
"""Checks without progress after which an image's optimisation has stalled."""


class Descent:
    """Adam on squared L2 + c * hinge, each image with a constant and a step count of its own.

    The variable is w in pixels = (1 + tanh w) / 2, so that no step leaves [0,1] (Carlini and
    Wagner, 2017, section V). Everything has one entry for each image that is left (``rows``: which
    of the oracle's these are), and nothing waits for the device.

    ``best`` is the nearest success over all constants, else the image itself, ``nearest`` its L2
    distance; ``found`` and ``lowest`` are success and least loss under the present constant.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, rows: Tensor, constant: float, confidence: float, lr
    ):
        self.confidence, self.lr = confidence, lr
        self.images, self.labels, self.rows, self.best = images, labels, rows, images
        wide = at_least_float(images)
        self.origin = torch.atanh((wide * 2 - 1) * SHRINK)
        self.offset = torch.zeros_like(self.origin)
        self.mean, self.square = self.offset.clone(), self.offset.clone()
        self.constants = wide.new_full((len(images),), constant)
        self.age = torch.zeros_like(self.constants, dtype=torch.float64)
        self.nearest = torch.full_like(self.constants, torch.inf)
        self.lowest, self.checked = self.nearest, self.nearest.clone()
        self.stalls = torch.zeros_like(labels)
        self.found = torch.zeros_like(labels, dtype=torch.bool)

    def step(self, oracle: Oracle) -> None:
        """Look at every image's present pixels, keep what succeeds, and take one step of Adam."""
        bent = torch.tanh(self.origin + self.offset)
        pixels = unbend(bent).to(self.images.dtype).requires_grad_()
        with torch.enable_grad():
            logits = oracle(pixels, self.rows)
            margin = margins(logits, self.labels)
            hinge = (self.confidence - (-margin if oracle.targeted else margin)).clamp_min(0)
            # Without the constant, which times float16's scale would overflow.
            gradient = oracle.gradient(hinge.sum(), pixels, self.rows)
        pixels = pixels.detach()
        moved = pixels - unbend(torch.tanh(self.origin))
        loss = moved.flatten(1).square().sum(1) + self.constants * hinge.detach()
        self.lowest = torch.minimum(self.lowest, loss)
        self._keep(oracle, pixels, logits.detach())
        gradient = (gradient * over(self.constants) + 2 * moved) * ((1 - bent * bent) / 2)
        self._move(gradient)

    def _keep(self, oracle: Oracle, pixels: Tensor, logits: Tensor) -> None:
        handicap = -self.confidence if oracle.targeted else self.confidence
        handicaps = torch.full_like(logits[:, :1], handicap)
        success = oracle.won(logits.scatter_add(1, self.labels[:, None], handicaps), self.labels)
        moved = (pixels - self.images).to(self.nearest).flatten(1)
        distance = torch.linalg.vector_norm(moved, dim=1)
        better = success & (distance < self.nearest)
        self.best = torch.where(over(better), pixels, self.best)
        self.nearest = torch.where(better, distance, self.nearest)
        self.found = self.found | success

    def _move(self, gradient: Tensor) -> None:
        """Adam (Kingma and Ba, 2015)."""
        self.age += 1
        self.mean.lerp_(gradient, 1 - BETA1)
        self.square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        first, second = (over((1 - beta**self.age).to(gradient)) for beta in (BETA1, BETA2))
        self.offset -= self.lr * (self.mean / first) / ((self.square / second).sqrt() + EPSILON)

    def stalled(self, places: np.ndarray, progress: float) -> Tensor:
        """bool [m]: the least loss of the images at ``places`` was twice in a row not at most
        ``progress`` times what it was at the check before; False at the first check.

        The least, since the present one goes up and down where the hinge begins; twice, since it
        goes up first where a step is large.
        """
        which = self._on_device(places)
        now = self.lowest[which]
        self.stalls[which] = torch.where(
            now <= progress * self.checked[which], 0, self.stalls[which] + 1
        )
        self.checked[which] = now
        return self.stalls[which] >= PATIENCE

    def restart(self, places: Sequence[int], constants: Sequence[float], warm: bool) -> None:
        """Begin anew with other constants; ``warm``: from the present perturbation and moments."""
        which = self._on_device(places)
        self.constants[which] = self.constants.new_tensor(constants)
        self.found[which], self.stalls[which] = False, 0
        self.checked[which] = self.lowest[which] = torch.inf
        if not warm:
            for state in (self.offset, self.mean, self.square, self.age):
                state[which] = 0

    def only(self, places: np.ndarray) -> None:
        """Let all images but these go; places: int64 [m], among the images left."""
        which = self._on_device(places)
        for name in _PER_IMAGE:
            setattr(self, name, getattr(self, name)[which])

    def _on_device(self, places: Sequence[int]) -> Tensor:
        return torch.as_tensor(places, device=self.rows.device)


_PER_IMAGE = (
    *("images", "labels", "rows", "best", "origin", "offset", "mean", "square"),
    *("constants", "age", "nearest", "lowest", "checked", "stalls", "found"),
)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the best other class is above the label's, in logits [n]; negative if it is not."""
    true = labels[:, None]
    other = logits.detach().scatter(1, true, -torch.inf).argmax(1, keepdim=True)
    return (logits.gather(1, other) - logits.gather(1, true))[:, 0]


def unbend(bent: Tensor) -> Tensor:
    """From (-1,1), where tanh ends, to pixels."""
    return bent * 0.5 + 0.5


def over(values: Tensor) -> Tensor:
    """[n] -> [n,1,1,1]."""
    return values[:, None, None, None]


MOST = 1e10
"""The largest constant; beside it the distance no longer counts."""
REPEATS_FROM = 10
"""Searches of this many steps end at the smallest constant that succeeded."""


@dataclass
class ConstantSearch:
    """The constants that one image's search tries, one after the other (on the host).

    Ten times the one before until one succeeds, then the middle between the largest that failed and
    the smallest that succeeded (Carlini and Wagner, 2017, section VI). The last of ten or more is
    the smallest that succeeded once more, as in the authors' code.

    ``steps`` is how many may be tried. ``digits`` rounds a constant as the optimisation sees it,
    where that depends on nothing else: one that was tried is then not tried again, since its
    outcome is known, and still uses up its step. The search is over when ``upper``, the smallest
    constant that succeeded, is at most the share ``tolerance`` above the largest that failed.
    """

    value: float
    steps: int
    digits: type | None = None
    tolerance: float = 0.0
    lower: float = 0.0
    upper: float = math.inf
    _tried: int = field(default=0, init=False)

    def advance(self, found: bool) -> bool:
        """Take the outcome of ``value`` and go to the next; False if there is none to try."""
        while True:
            if found:
                self.upper = self.value
            else:
                self.lower = self.value
            self._tried += 1
            if self._tried == self.steps or self._close():
                return False
            self.value = self._next()
            outcome = self._known()
            if outcome is None:
                return True
            found = outcome

    def _close(self) -> bool:
        return self.tolerance > 0 and self.upper <= self.lower * (1 + self.tolerance)

    def _next(self) -> float:
        if self._tried == self.steps - 1 and self.steps >= REPEATS_FROM:
            return min(self.upper, MOST)
        if math.isinf(self.upper):
            return min(10 * self.value, MOST)
        return (self.lower + self.upper) / 2

    def _known(self) -> bool | None:
        """Whether ``value`` succeeds, if it was tried before."""
        if self.digits is None:
            return None
        value = self.digits(self.value)
        if value == self.digits(self.upper):
            return True
        return False if value == self.digits(self.lower) else None
