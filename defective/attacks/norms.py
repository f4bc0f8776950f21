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
        shape = tuple(images.shape[1:])
        return images + eps * (2 * draws.uniform(keys, seed, draw, shape, images.dtype) - 1)


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
        delta = draws.normal(keys, seed, 2 * draw, shape, images.dtype)
        radius = draws.uniform(keys, seed, 2 * draw + 1, (1, 1, 1), images.dtype) ** (1 / size)
        return images + delta * (eps * radius / lengths(delta).clamp_min_(TINY))


NORMS = {"linf": Linf, "l2": L2}


def lengths(x: Tensor) -> Tensor:
    """Euclidean length of each image [N,1,1,1]."""
    return torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)
