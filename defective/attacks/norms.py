"""The geometry of a ball: steepest direction, projection, uniform start."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import draws

TINY = 1e-12
"""Least length that is divided by: an image without gradient stays where it is."""


class Linf:
    """The ball in which no channel of a pixel moves by more than eps."""

    @staticmethod
    def direction(gradient: Tensor) -> Tensor:
        return gradient.sign()

    @staticmethod
    def project(moved: Tensor, images: Tensor, eps: float) -> Tensor:
        return images + (moved - images).clamp_(-eps, eps)

    @staticmethod
    def random(images: Tensor, eps: float, keys: Tensor, seed: int, draw: int) -> Tensor:
        """A point of the ball around each image, uniform in volume."""
        shape, wide = tuple(images.shape[1:]), torch.promote_types(images.dtype, torch.float32)
        delta = eps * (2 * draws.uniform(keys, seed, draw, shape, wide) - 1)
        return images + delta.to(images.dtype)


class L2:
    """The ball of Euclidean radius eps, over all pixels and channels of an image."""

    @staticmethod
    def direction(gradient: Tensor) -> Tensor:
        return gradient * (1 / lengths(gradient).clamp_min_(TINY))

    @staticmethod
    def project(moved: Tensor, images: Tensor, eps: float) -> Tensor:
        delta = moved - images
        return images + delta * (eps / lengths(delta).clamp_min_(TINY)).clamp_max_(1)

    @staticmethod
    def random(images: Tensor, eps: float, keys: Tensor, seed: int, draw: int) -> Tensor:
        """A point of the ball around each image, uniform in volume."""
        shape, size = tuple(images.shape[1:]), math.prod(images.shape[1:])
        wide = torch.promote_types(images.dtype, torch.float32)
        delta = draws.normal(keys, seed, 2 * draw, shape, wide)
        radius = draws.uniform(keys, seed, 2 * draw + 1, (1, 1, 1), wide) ** (1 / size)
        delta = delta * (eps * radius / lengths(delta).clamp_min_(TINY))
        return images + delta.to(images.dtype)


NORMS = {"linf": Linf, "l2": L2}


def at_least_float(x: Tensor) -> Tensor:
    """Half precision as float32: in it sums overflow, small steps are lost, and TINY may be 0."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def lengths(x: Tensor) -> Tensor:
    """Euclidean length of each image [N,1,1,1]."""
    # Flattened, the order of the sum depends on no memory format.
    return torch.linalg.vector_norm(x.flatten(1), dim=1)[:, None, None, None]
