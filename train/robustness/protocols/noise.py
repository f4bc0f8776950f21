"""Accuracy under Gaussian noise: the paper's Figure 4."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor

from ....defective.attacks import GaussianNoise
from ....defective.attacks.base import check_count, check_size
from ....defective.errors import UserError
from ....defective.robustness.adversarial_set import to_uint8
from ....defective.robustness.rates import mean_over_draws
from ...store import Store
from ..arithmetic import full_precision, memory_advice
from ..images import TestImages
from ..models import NamedModel
from ..predictions import digest_of
from ..set_request import Pixels
from ..tables import levels
from .common import KEPT, Job, Progress, Tally, cells_of, check_evaluation, stage

PAPER_EPSILONS = tuple(level / 255 for level in (2, 4, 8, 16, 24, 32, 40, 48, 56, 64))
"""Twice the standard deviations of Figure 4, pixels in [0,1]."""

LEAST_DRAWS = 3
"""One draw, as in the paper, leaves the draw's share of a difference unseen."""


def evaluate_noise(
    targets: Sequence[NamedModel],
    images: TestImages,
    indices: Tensor,
    cells: Store,
    *,
    epsilons: Sequence[float] = PAPER_EPSILONS,
    draws: int = LEAST_DRAWS,
    seed: int = 0,
    pixels: Pixels = "uint8",
    batch_size: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """A cell for each epsilon and target: accuracy on images with noise of sigma = epsilon / 2.

    The noise is clipped at 2 sigma and added, with the same sigma in every channel (the release
    scales it by the smallest channel's standard deviation, and makes the others' up to 1.5 %
    stronger). All targets see the same noisy images. An image's noise depends on its number and on
    the draw's seed, and is the same pattern at each epsilon.

    ``accuracy`` counts each image once, with the mean of its draws
    (:func:`scotoma.defective.robustness.rates.mean_over_draws`); ``per_draw`` has a rate a draw.

    Args:
        indices: int64 [N], numbers of test images that all targets classify right.
        epsilons: pixels in [0,1]. draws: noisy copies of each image, at least 3.
        seed: of the first draw; the others' are the numbers after it.
        pixels: "uint8" rounds the noisy images to 256 levels, "float" leaves them.
        progress: told (images done, all, text), where an image counts once for each draw.

    Returns:
        Cells in the order of epsilons, then of targets.

    Raises:
        UserError: a setting out of range, or no images. What was finished before is kept.
    """
    check_evaluation(targets, indices, batch_size)
    if not len(epsilons):
        raise UserError("epsilons is empty; expected at least one, such as 8/255")
    for epsilon in epsilons:
        check_size("epsilons", epsilon)
    check_count("draws", draws, LEAST_DRAWS)
    check_count("seed", seed, 0)
    if pixels not in get_args(Pixels):
        raise UserError(f"pixels is {pixels!r}; expected one of {', '.join(get_args(Pixels))}")
    seeds = range(seed, seed + draws)
    each = draws * len(indices)
    total, found = each * len(epsilons), []
    for number, epsilon in enumerate(epsilons):
        noises = [GaussianNoise(sigma=epsilon / 2, seed=s) for s in seeds]
        done = stage(progress, number * each, total, f"noise of {levels(epsilon)}/255")
        noisy = NoisyImages(images, indices, noises, pixels, batch_size)
        found += _cells(targets, noisy, cells, done)
        done(each)
    return found


@dataclass(frozen=True)
class NoisyImages:
    """Test images with noise, a copy for each of ``noises``; batches as :class:`TestImages`'."""

    images: TestImages
    indices: Tensor
    noises: Sequence[GaussianNoise]
    pixels: Pixels
    batch_size: int

    def batches(self) -> Iterator[tuple[list[Tensor], Tensor]]:
        """(a noisy copy [n,C,H,W] for each noise, labels [n]); originals are loaded once."""
        for part, clean, labels in self.images.batches(self.indices, self.batch_size):
            keys = part.to(clean.device)
            copies = [noise.noisy(clean, keys) for noise in self.noises]
            if self.pixels == "uint8":
                copies = [to_uint8(copy).float() / 255 for copy in copies]
            yield copies, labels

    def identity(self) -> dict[str, Any]:
        noise = self.noises[0]
        return {
            "sigma": noise.sigma,
            "limit": noise.limit,
            "tails": noise.tails,
            "seeds": [each.seed for each in self.noises],
            "pixels": self.pixels,
            "images": self.images.fingerprint(self.indices),
            "indices": digest_of(self.indices),
        }


def _cells(
    targets: Sequence[NamedModel], noisy: NoisyImages, cells: Store, done: Callable[[int], None]
) -> list[dict[str, Any]]:
    """Of one epsilon."""
    identity, epsilon = noisy.identity(), 2 * noisy.noises[0].sigma

    def compute(missing: list[NamedModel]) -> list[dict[str, Any]]:
        tallies = [Tally(missing) for _ in noisy.noises]
        with memory_advice(noisy.images.device, noisy.batch_size, KEPT), full_precision():
            for copies, labels in noisy.batches():
                for tally, copy in zip(tallies, copies, strict=True):
                    tally.add(copy, labels)
                done(sum(tally.total for tally in tallies))
        by_target = zip(*(tally.rates() for tally in tallies), strict=True)
        return [
            {"accuracy": mean_over_draws(rates), "per_draw": list(rates), "epsilon": epsilon}
            for rates in by_target
        ]

    label = levels(epsilon)
    jobs = [Job(t, "noise", f"{t.name}-{label}", {"target": t.digest, **identity}) for t in targets]
    return cells_of(jobs, cells, compute)
