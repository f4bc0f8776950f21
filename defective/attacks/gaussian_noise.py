"""Gaussian noise: no attack, but the control that every attack is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..errors import UserError
from . import draws
from .base import Attack, check_count, check_keys, check_pixels, check_size, parameter
from .oracle import Oracle

Tails = Literal["clip", "truncate", "keep"]


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Attack):
    """N(0, sigma) on every channel of every pixel, then [0,1].

    The paper's Figure 4 clips the noise at 2 sigma and calls 2 sigma epsilon. Clipped at 2, the
    noise has 0.9205 of sigma's variance; truncated at 2 (drawn again until inside), 0.7737.
    """

    name: ClassVar[str] = "gaussian-noise"
    sigma: float = parameter(8 / 255, "standard deviation, pixels in [0,1]")
    limit: float = parameter(2.0, "where the tails end, in sigmas")
    tails: Tails = parameter("clip", "clip, truncate, or keep")
    seed: int = parameter(0, "of the noise")

    def __post_init__(self):
        super().__post_init__()
        check_size("sigma", self.sigma)
        if not self.limit > 0:
            raise UserError(f"limit is {self.limit}; expected a positive number of sigmas")
        if self.tails not in ("clip", "truncate", "keep"):
            raise UserError(f"tails is {self.tails!r}; expected clip, truncate or keep")
        check_count("seed", self.seed, 0)

    def noisy(self, images: Tensor, keys: Tensor) -> Tensor:
        """Images with the noise that belongs to their keys int64 [N]."""
        shape = tuple(images.shape[1:])
        # Half precision could not hold the bits that the noise is made from.
        dtype = torch.promote_types(images.dtype, torch.float32)
        if self.tails == "truncate":
            # By the inverse of the distribution function; in float64, where its ends are exact.
            limit = torch.tensor(self.limit, dtype=torch.float64, device=images.device)
            inside = draws.uniform(keys, self.seed, 0, shape, torch.float64) * 2 - 1
            noise = 2**0.5 * torch.erfinv(inside * torch.erf(limit / 2**0.5))
        else:
            noise = draws.normal(keys, self.seed, 0, shape, dtype)
        if self.tails != "keep":
            noise = noise.clamp_(-self.limit, self.limit)
        return (images + (self.sigma * noise).to(images.dtype)).clamp_(0, 1)

    def perturb(self, oracle: Oracle, images: Tensor, labels: Tensor, keys: Tensor):
        return self.noisy(images, keys), None


def gaussian_noise(
    images: Tensor,
    sigma: float = GaussianNoise.sigma,
    *,
    limit: float = GaussianNoise.limit,
    tails: Tails = GaussianNoise.tails,
    seed: int = GaussianNoise.seed,
    keys: Tensor | None = None,
) -> Tensor:
    """Images with Gaussian noise; it needs no model.

    Args:
        images: float [N,C,H,W], pixels in [0,1].
        sigma: standard deviation, in units of pixels in [0,1].
        limit: in sigmas. tails: "clip" noise to the limit (the paper), "truncate" it (draw until
            it is inside), or "keep" it.
        seed: of the noise. keys: int64 [N] of the images; None to make them from the pixels.

    Returns:
        Noisy images in [0,1], like ``images``.

    Raises:
        UserError: pixels outside [0,1], or a setting out of range.
    """
    attack = GaussianNoise(sigma=sigma, limit=limit, tails=tails, seed=seed)
    images = check_pixels(images)
    return attack.noisy(images, check_keys(images, keys))
