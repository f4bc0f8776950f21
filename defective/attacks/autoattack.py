"""APGD and the AutoAttack set, by a library: attacks that nobody here wrote judge a defence too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ..errors import UserError
from .base import Attack, check_count, check_size, function_of, parameter
from .library import hand_over
from .oracle import Oracle

LOSSES = {"ce": 2, "dlr": 3}
"""And the least number of classes that each is defined for."""
NORMS = {"linf": "Linf", "l2": "L2"}
VERSIONS = ("standard",)
MOST_TARGETS = 9
"""The targeted attacks of the set try the nine next best classes, also where there are more."""
TARGETED_CLASSES = 4


@dataclass(frozen=True, kw_only=True)
class _FromLibrary(Attack):
    """Settings that both attacks share."""

    eps: float = parameter(8 / 255, "radius of the ball, pixels in [0,1]")
    norm: Literal["linf", "l2"] = parameter("linf", "linf or l2")
    steps: int = parameter(100, "number of steps")
    seed: int = parameter(0, "of the random starts")

    def __post_init__(self):
        super().__post_init__()
        if self.norm not in tuple(NORMS):
            raise UserError(f"norm is {self.norm!r}; expected one of {', '.join(NORMS)}")
        check_size("eps", self.eps, 1.0 if self.norm == "linf" else math.inf)
        check_count("steps", self.steps)
        check_count("seed", self.seed, 0)

    def _check_images(self, images: Tensor) -> None:
        """The longest Euclidean distance depends on the images' size. Raises UserError."""
        if self.norm == "l2":
            check_size("eps", self.eps, math.sqrt(images[0].numel()))

    def _shared(self) -> dict:
        """Settings under the library's names."""
        return {"norm": NORMS[self.norm], "eps": self.eps, "seed": self.seed, "verbose": False}


@dataclass(frozen=True, kw_only=True)
class APGD(_FromLibrary):
    """PGD that chooses its own step sizes (Croce and Hein, 2020), by torchattacks.

    An image that resists comes back unchanged. The random start comes from one stream for the whole
    batch, so an image's result **does depend on its batch**, unlike in all attacks of our own. Runs
    in float32 or bfloat16; CUDA graphs are not used.

    Passes are counted for each image, and one forward pass more than the library takes: it tells
    which images the model has right. Of several images with the same pixels in one batch, the
    counts may be exchanged.

    ``loss`` "dlr" is the difference of logits ratio, which needs three classes.
    """

    name: ClassVar[str] = "apgd"
    loss: Literal["ce", "dlr"] = parameter("ce", "ce or dlr (difference of logits ratio)")
    restarts: int = parameter(1, "random starts, for images that resisted so far")

    def __post_init__(self):
        super().__post_init__()
        check_count("restarts", self.restarts)
        if self.loss not in tuple(LOSSES):
            raise UserError(f"loss is {self.loss!r}; expected one of {', '.join(LOSSES)}")

    def perturb(self, oracle: Oracle, images: Tensor, labels: Tensor, keys: Tensor):
        def build(library, model, classes: int):
            settings = {"steps": self.steps, "n_restarts": self.restarts, "loss": self.loss}
            return library.APGD(model, **settings, **self._shared())

        self._check_images(images)
        ball = self.eps, self.norm
        return hand_over(build, oracle, images, labels, *ball, LOSSES[self.loss]), None


@dataclass(frozen=True, kw_only=True)
class AutoAttack(_FromLibrary):
    """The standard set of AutoAttack (Croce and Hein, 2020), by torchattacks.

    APGD on the cross entropy, targeted APGD, targeted FAB and Square, each on the images that
    resisted the ones before. Steps and queries are those of the paper; torchattacks' own class
    for the set takes 10 steps instead of 100, and so is a weaker attack. Square's schedule is
    scaled to its queries, and in targeted APGD with norm l2 all images of a batch take the step
    size of the first; both are the library's way.

    As in :class:`APGD`, an image that resists comes back unchanged, its result **does depend on
    its batch**, and passes are counted for each image. The targeted attacks need four classes.
    """

    name: ClassVar[str] = "autoattack"
    version: Literal["standard"] = parameter("standard", "the set: standard")
    queries: int = parameter(5000, "most queries of Square")

    def __post_init__(self):
        super().__post_init__()
        check_count("queries", self.queries)
        if self.version not in VERSIONS:
            raise UserError(
                f"version is {self.version!r}; expected {', '.join(VERSIONS)}: the set for "
                "deterministic models, which these attacks take"
            )

    def perturb(self, oracle: Oracle, images: Tensor, labels: Tensor, keys: Tensor):
        def build(library, model, classes: int):
            shared = self._shared()
            targets = {"n_classes": min(classes, MOST_TARGETS + 1), "steps": self.steps}
            return library.MultiAttack(
                [
                    library.APGD(model, steps=self.steps, loss="ce", **shared),
                    library.APGDT(model, **targets, **shared),
                    library.FAB(model, multi_targeted=True, **targets, **shared),
                    library.Square(model, n_queries=self.queries, **shared),
                ]
            )

        self._check_images(images)
        ball = self.eps, self.norm
        return hand_over(build, oracle, images, labels, *ball, TARGETED_CLASSES), None


apgd = function_of(APGD, "eps")


autoattack = function_of(AutoAttack, "eps")
