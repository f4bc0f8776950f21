"""The boundary attack, which asks a model for nothing but its decisions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import UserError
from . import draws
from .base import Attack, Status, answer, check_count, check_pixels, parameter
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
            search = self.seed, self.start_draws, self.start_steps
            return blended_noise(judge, at_least_float(images[rows]), rows, keys[rows], *search)

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
        self, oracle: Oracle, images: Tensor, labels: Tensor, keys: Tensor, find: Callable, failure
    ) -> tuple[Tensor, Tensor]:
        """``find``: of a judge and rows, where to start and where that is adversarial."""
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


UNLIMITED = 2**62


@dataclass(frozen=True)
class Judge:
    """Decisions of a model on some images of a batch, ``most`` forward passes for each.

    ``labels`` are of the whole batch; ``dtype`` is that of the pixels that the model takes: a walk
    in float32 may be over float16 images.
    """

    oracle: Oracle
    labels: Tensor
    dtype: torch.dtype
    most: int = UNLIMITED

    def __call__(self, pixels: Tensor, rows: Tensor) -> Tensor:
        """bool [n], which of the pixels [n,C,H,W] are adversarial; rows as :class:`Oracle`'s."""
        return self.oracle.won(self.oracle(pixels.to(self.dtype), rows), self.labels[rows])

    def both(self, first: Tensor, second: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Judge two images [n,C,H,W] for each row in one forward pass."""
        pixels = torch.cat([first, second]).to(self.dtype)
        logits = self.oracle(pixels, rows)
        self.oracle.forwards[rows] += 1  # the oracle counted one pass for a row
        wrong = self.oracle.won(logits, self.labels[rows].repeat(2)).view(2, -1)
        return wrong[0], wrong[1]

    def left(self, rows: Tensor) -> Tensor:
        """int64 [n], passes that these images may still use."""
        return self.most - self.oracle.forwards[rows]


def blended_noise(
    judge: Judge, images: Tensor, rows: Tensor, keys: Tensor, seed: int, tries: int, steps: int
) -> tuple[Tensor, Tensor]:
    """Blend images with uniform noise, no more than it takes (Brendel et al., 2018, section 2.2).

    An image's noise is the first of its ``tries`` draws that is adversarial. The blend is the first
    of ``steps`` equal steps from the image to that noise. Images leave as soon as they are done.

    Returns: adversarial images, and bool [n]: whether one was found; else the image is unchanged.
    """
    noise, found = images.clone(), torch.zeros_like(rows, dtype=torch.bool)
    waiting = torch.arange(len(rows), device=rows.device)
    for number in range(tries):
        waiting = waiting[judge.left(rows[waiting]) > 0]
        if not len(waiting):
            break
        shape = tuple(images.shape[1:])
        drawn = draws.uniform(keys[waiting], seed, number, shape, images.dtype)
        wrong = judge(drawn, rows[waiting])
        noise[waiting[wrong]], found[waiting[wrong]] = drawn[wrong], True
        waiting = waiting[~wrong]
    start, waiting = noise.clone(), found.nonzero().flatten()
    for number in range(1, steps):  # step 0 is the image and the last the noise: both are known
        waiting = waiting[judge.left(rows[waiting]) > 0]
        if not len(waiting):
            break
        mixed = torch.lerp(images[waiting], noise[waiting], number / steps).clamp_(0, 1)
        wrong = judge(mixed, rows[waiting])
        start[waiting[wrong]] = mixed[wrong]
        waiting = waiting[~wrong]
    return start, found


def check_starts(starts: Tensor, images: Tensor) -> None:
    """Raises UserError if ``starts`` are not one image of pixels in [0,1] for each image."""
    check_pixels(starts, "starts")
    got, expected = ([tuple(t.shape), t.dtype, str(t.device)] for t in (starts, images))
    if got != expected:
        raise UserError(f"starts is {got}; expected {expected}, like images")


class Window:
    """The latest outcomes of a trial, for each image: how often did it succeed?

    ``hits``: bool [n,length], the oldest overwritten by the newest. ``seen``: int64 [n], outcomes
    since the image was last judged.
    """

    def __init__(self, hits: Tensor, seen: Tensor):
        self.hits, self.seen = hits, seen

    @classmethod
    def empty(cls, like: Tensor, length: int) -> Window:
        """For as many images as ``like`` has, on its device."""
        seen = torch.zeros(len(like), dtype=torch.int64, device=like.device)
        return cls(torch.zeros(len(like), length, dtype=torch.bool, device=like.device), seen)

    def __getitem__(self, some: Tensor) -> Window:
        return Window(self.hits[some], self.seen[some])

    def add(self, outcomes: Tensor, number: int) -> None:
        """Outcomes bool [n] of trial ``number``, counted from zero without gaps."""
        self.hits[:, number % self.hits.shape[1]] = outcomes
        self.seen += 1

    def judge(self, low: float, high: float) -> tuple[Tensor, Tensor]:
        """Who succeeded more often than ``high`` or less than ``low``: two of bool [n].

        Only images with a full window are judged; those with a verdict begin a new window.
        """
        length = self.hits.shape[1]
        full, total = self.seen >= length, self.hits.sum(1)
        more, less = full & (total > high * length), full & (total < low * length)
        self.seen.masked_fill_(more | less, 0)
        return more, less


@dataclass
class Walk:
    """Images on their way, of which some may leave: every field has one entry for each.

    ``best`` are the nearest adversarial images so far, at ``distance``; ``rows`` their places in
    the batch; ``last`` the number of the last step that each may take; ``spherical`` and ``source``
    sizes of the two steps, as parts of the distance; ``around`` and ``ahead`` outcomes of spherical
    and of whole steps.
    """

    images: Tensor
    best: Tensor
    rows: Tensor
    keys: Tensor
    last: Tensor
    distance: Tensor
    spherical: Tensor
    source: Tensor
    around: Window
    ahead: Window

    def keep(self, staying: Tensor) -> None:
        """Only the images where ``staying``, bool [n], is true go on."""
        some = staying.nonzero().flatten()
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name)[some])

    def propose(self, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where a step could lead; Figure 2 of Brendel et al. (2018).

        First along the sphere around the image, in the part of the random direction that is
        orthogonal to the line to the image; by Pythagoras, a step along the tangent and back onto
        the sphere. Then straight towards the image. Clipping to [0,1] leaves the sphere, which the
        second part makes up for.

        Returns: the points after the first and after the second part, and the latter's distance.
        """
        line = self.images - self.best
        along = (directions * line).flatten(1).sum(1) / self.distance.square()
        orthogonal = directions.addcmul_(_wide(along), line, value=-1)
        tangent = self.spherical * self.distance / length(orthogonal)
        onto = (self.spherical.square() + 1).rsqrt()
        sphere = torch.addcmul(self.images, _wide(tangent * onto), orthogonal)
        sphere = sphere.addcmul_(_wide(onto), line, value=-1).clamp_(0, 1)
        line = self.images - sphere
        radius = length(line)
        share = (self.source * self.distance + radius - self.distance).clamp_(min=0) / radius
        candidates = torch.addcmul(sphere, _wide(share), line).clamp_(0, 1)
        return sphere, candidates, length(self.images - candidates)

    def accept(self, candidates: Tensor, distance: Tensor, adversarial: Tensor) -> None:
        """Move where the candidate is adversarial, and nearer than before despite rounding."""
        better = adversarial & (distance < self.distance)
        self.best = torch.where(_wide(better), candidates, self.best)
        self.distance = torch.where(better, distance, self.distance)

    def adapt(self, around: Tensor, ahead: Tensor, number: int, factor: float) -> None:
        """Record outcomes bool [n] and change step sizes, as foolbox 3 does.

        A boundary that looks flat (over half of the spherical steps stay adversarial) allows larger
        steps, a curved one (under a fifth) smaller; and steps towards the image should succeed
        between a tenth and a quarter of the time.
        """
        self.around.add(around, number)
        self.ahead.add(ahead, number)
        change = _change(self.around.judge(0.2, 0.5), factor, self.source)
        self.spherical = self.spherical * change
        self.source = self.source * change * _change(self.ahead.judge(0.1, 0.25), factor, change)


def length(vectors: Tensor) -> Tensor:
    """Euclidean length [n] of [n,C,H,W]."""
    return vectors.flatten(1).square().sum(1).sqrt()


def _change(verdicts: tuple[Tensor, Tensor], factor: float, like: Tensor) -> Tensor:
    more, less = verdicts
    return torch.ones_like(like).masked_fill_(more, factor).masked_fill_(less, 1 / factor)


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]
