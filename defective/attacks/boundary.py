"""The boundary attack, which asks a model for nothing but its decisions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import UserError
from . import draws
from .base import Attack, Status, answer, check_count, parameter
from .boundary_start import UNLIMITED, Judge, blended_noise, check_starts
from .boundary_walk import Walk, Window, length
from .norms import at_least_float
from .oracle import Oracle

SPHERICAL_WINDOW, SOURCE_WINDOW = 100, 30


@dataclass(frozen=True, kw_only=True)
class Boundary(Attack):
    """Begin at an adversarial image and walk along the boundary towards the original.

    Brendel, Rauber and Bethge (2018), with the adaptation of step sizes of foolbox 3. All images
    walk together, each with its own directions, step sizes and statistics. An image that has
    converged, or has used its queries, leaves the batch.
    """

    name: ClassVar[str] = "boundary"
    can_target: ClassVar[bool] = True
    steps: int = parameter(25000, "most steps of an image")
    spherical_step: float = parameter(0.01, "first step along the sphere, part of the distance")
    source_step: float = parameter(0.01, "first step to the image, part of the distance")
    convergence: float = parameter(1e-7, "source step below which an image has converged")
    step_adaptation: float = parameter(1.5, "factor by which step sizes grow and shrink")
    update_every: int = parameter(10, "steps between two looks at the success of steps")
    start_draws: int = parameter(1000, "most draws of noise in the search for a start")
    start_steps: int = parameter(50, "steps of the blend between image and noise at the start")
    max_queries: int | None = parameter(None, "most forward passes of an image; none for no limit")
    seed: int = parameter(0, "of the noise and the directions")

    def __post_init__(self):
        super().__post_init__()
        for name in ("steps", "update_every", "start_draws", "start_steps"):
            check_count(name, getattr(self, name))
        check_count("seed", self.seed, 0)
        if self.max_queries is not None:
            check_count("max_queries", self.max_queries, 2)  # the image, and one to start from
        for name in ("spherical_step", "source_step"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(
                    f"{name} is {getattr(self, name)}; expected 0 < {name} < 1, a part of the "
                    "distance to the image"
                )
        if not 0 <= self.convergence < self.source_step:
            raise UserError(
                f"convergence is {self.convergence}; expected 0 <= convergence < source_step "
                f"({self.source_step:g}), or no image takes a step"
            )
        if not 1 < self.step_adaptation < math.inf:
            raise UserError(
                f"step_adaptation is {self.step_adaptation}; expected a factor over 1, such as 1.5"
            )

    def starting_from(self, starts: Tensor) -> Attack:
        """This attack from adversarial images [N,C,H,W] of the caller's, one for each image."""
        return _Started(attack=self, starts=starts)

    def perturb(self, oracle: Oracle, images: Tensor, labels: Tensor, keys: Tensor):
        def find(judge: Judge, rows: Tensor) -> tuple[Tensor, Tensor]:
            pixels = at_least_float(images[rows])
            search = self.seed, self.start_draws, self.start_steps
            return blended_noise(judge, pixels, rows, keys[rows], *search)

        return self._attack(oracle, images, labels, keys, find, Status.NO_START)

    def perturb_from(
        self, oracle: Oracle, images: Tensor, labels: Tensor, keys: Tensor, starts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`perturb`, from ``starts``; where one is not adversarial, BAD_START."""
        check_starts(starts, images)

        def find(judge: Judge, rows: Tensor) -> tuple[Tensor, Tensor]:
            given = at_least_float(starts.detach()[rows])
            return given, judge(given, rows)

        return self._attack(oracle, images, labels, keys, find, Status.BAD_START)

    def _attack(
        self,
        oracle: Oracle,
        images: Tensor,
        labels: Tensor,
        keys: Tensor,
        find: Callable[[Judge, Tensor], tuple[Tensor, Tensor]],
        failure: Status,
    ) -> tuple[Tensor, Tensor]:
        result, special = images.clone(), torch.zeros_like(labels, dtype=torch.uint8)
        judge = Judge(oracle, labels, images.dtype, self.max_queries or UNLIMITED)
        wrong = judge(images, torch.arange(len(images), device=images.device))
        rows = (~wrong).nonzero().flatten()
        if not len(rows):
            return result, special
        starts, found = find(judge, rows)
        special[rows[~found]] = failure
        rows, starts = rows[found], starts[found]
        if len(rows):
            self._walk(judge, self._begin(judge, images, starts, rows, keys), result)
        return result, special

    def _begin(self, judge: Judge, images, starts, rows, keys) -> Walk:
        pixels = at_least_float(images[rows])
        distance = length(pixels - starts)
        # Every update_every-th step takes two passes, so ``every`` steps take every + 1.
        every, left = self.update_every, judge.left(rows)
        affordable = left // (every + 1) * every + (left % (every + 1)).clamp(max=every - 1)
        return Walk(
            images=pixels,
            best=starts,
            rows=rows,
            keys=keys[rows],
            last=affordable.clamp(max=self.steps),
            distance=distance,
            spherical=torch.full_like(distance, self.spherical_step),
            source=torch.full_like(distance, self.source_step),
            around=Window.empty(distance, SPHERICAL_WINDOW),
            ahead=Window.empty(distance, SOURCE_WINDOW),
        )

    def _walk(self, judge: Judge, walk: Walk, result: Tensor) -> None:
        """Take all steps; write the images' best into ``result`` as they leave."""
        shape, dtype = tuple(walk.images.shape[1:]), walk.images.dtype
        ends = set(walk.last.tolist())

        def leave(staying: Tensor) -> None:
            result[walk.rows] = walk.best.to(result.dtype)
            walk.keep(staying)

        for step in range(1, self.steps + 1):
            if step - 1 in ends:
                leave(walk.last >= step)
                if not len(walk.rows):
                    return
            directions = draws.normal(walk.keys, self.seed, self.start_draws + step, shape, dtype)
            sphere, candidates, distance = walk.propose(directions)
            if step % self.update_every:
                walk.accept(candidates, distance, judge(candidates, walk.rows))
                continue
            around, ahead = judge.both(sphere, candidates, walk.rows)
            walk.accept(candidates, distance, ahead)
            walk.adapt(around, ahead, step // self.update_every, self.step_adaptation)
            # Sizes change only here, so only here does the host wait to hear who has converged.
            going = walk.source >= self.convergence
            if not bool(going.all()):
                leave(going)
                if not len(walk.rows):
                    return
        leave(walk.last > self.steps)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Started(Attack):
    """A boundary attack with the images to start from. It has no name, so nobody can ask for it."""

    can_target: ClassVar[bool] = True
    attack: Boundary
    starts: Tensor

    def perturb(self, oracle: Oracle, images: Tensor, labels: Tensor, keys: Tensor):
        return self.attack.perturb_from(oracle, images, labels, keys, self.starts)

    def parameters(self) -> dict[str, Any]:
        return self.attack.parameters()

    def __str__(self) -> str:
        return str(self.attack)


def boundary(
    model,
    images: Tensor,
    labels: Tensor,
    *,
    steps: int = Boundary.steps,
    starts: Tensor | None = None,
    keys: Tensor | None = None,
    details: bool = False,
    targeted: bool = False,
    **options,
):
    """Boundary attack; the model need not be differentiable.

    Args:
        model, images, labels, keys, targeted: as :class:`scotoma.defective.attacks.Attack` takes
            them; with ``targeted`` labels are the classes to reach. Noise is rarely taken for a
            given class, so give ``starts`` of the goals' classes.
        steps: most steps of an image.
        starts: adversarial images like ``images`` to start from; None to search in noise. Where a
            start is not adversarial the image comes back unchanged, with Status.BAD_START.
        details: return the :class:`AttackResult` beside the images.
        options: further fields of :class:`Boundary`.

    Returns:
        Adversarial images like ``images``; with ``details`` (images, result).

    Raises:
        UserError: a setting out of range, or bad arguments.
    """
    attack: Attack = Boundary(steps=steps, **options)
    if starts is not None:
        attack = attack.starting_from(starts)
    return answer(attack, details, model, images, labels, keys, targeted)
