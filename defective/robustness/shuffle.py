"""Images whose patches change places: shape is lost, texture stays."""

from __future__ import annotations

import math

import torch
from einops import rearrange, repeat
from torch import Tensor

from ..attacks import draws
from ..attacks.base import check_count, check_keys
from ..errors import UserError

PAPER_GRIDS = (2, 4, 8)
"""Patches along a side (the paper's Tables 1 and 13)."""


def shuffle_patches(images: Tensor, grid: int, seed: int, keys: Tensor | None) -> Tensor:
    """Images cut into grid x grid patches that are put in a random order.

    The order is one uniformly random permutation for each image, the same in all channels; it may
    be the identity. It depends on (seed, key, grid) only, neither on the device nor on the other
    images. A grid of 1 returns the images as they are.

    Args:
        images: [N,C,H,W] of any dtype. grid: patches along each side, which must divide H and W.
        seed: 0 or more. keys: int64 [N], one for each image (its number in the data set);
            None to make them from the pixels.

    Returns:
        [N,C,H,W], like ``images``.

    Raises:
        UserError: a grid that does not divide the sides, or arguments of a wrong form.
    """
    if not isinstance(images, Tensor) or images.dim() != 4:
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise UserError(f"images is {got}; expected a tensor [N,C,H,W]")
    height, width = images.shape[2:]
    check_grid(grid, height, width)
    check_count("seed", seed, 0)
    order = orders(check_keys(images, keys), grid, seed)
    # A place is a row and a column of patches, and a patch is tall and wide.
    image, places = "n c (row tall) (column wide)", "n (row column) (c tall wide)"
    sides = {"row": grid, "column": grid, "tall": height // grid, "wide": width // grid}
    patches = rearrange(images, f"{image} -> {places}", **sides)
    patches = patches.gather(1, repeat(order, "n place -> n place pixel", pixel=patches.shape[2]))
    return rearrange(patches, f"{places} -> {image}", **sides)


def orders(keys: Tensor, grid: int, seed: int) -> Tensor:
    """int64 [N, grid * grid]: which patch comes to each place, places counted row by row."""
    # 53 bits, for two equal numbers would prefer the first patch; a stream for each grid.
    numbers = draws.uniform(keys, seed, grid, (grid * grid,), torch.float64)
    return numbers.argsort(dim=1, stable=True)


def check_grid(grid: int, height: int, width: int | None = None) -> None:
    """Raises UserError if the sides cannot be cut into ``grid`` equal parts."""
    check_count("grid", grid)
    width = height if width is None else width
    common = math.gcd(height, width)
    if common % grid:
        side = f"{height}" if height == width else f"{height}x{width}"
        fitting = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
        raise UserError(
            f"grid is {grid}; images of side {side} cannot be cut into {grid} equal parts, only "
            f"into {fitting}"
        )
