"""Small models for tests of the boundary attack, fast enough for thousands of queries."""

import torch
from torch import nn


class Curved(nn.Module):
    """Five classes with curved boundaries, for images [N,3,8,8]."""

    def __init__(self, seed=0, hidden=32):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(192, hidden, generator=generator) * 0.4)
        self.second = nn.Parameter(torch.randn(hidden, 5, generator=generator))

    def forward(self, pixels):
        return torch.tanh((pixels - 0.5).flatten(1) @ self.first) @ self.second


class HalfSpace(nn.Module):
    """Class 1 where normal . (pixels - 1/2) is positive; nothing else is to be learned from it."""

    def __init__(self, shape=(3, 4, 4), seed=0, dtype=torch.float64):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        normal = torch.randn(shape, generator=generator, dtype=dtype)
        self.normal = nn.Parameter(normal / normal.norm())

    def height(self, pixels):
        """Signed distance from the plane, [N]."""
        return ((pixels - 0.5) * self.normal).flatten(1).sum(1)

    def forward(self, pixels):
        above = (self.height(pixels) > 0).to(pixels.dtype)
        return torch.stack([1 - above, above], 1) * 3 - 1  # no probabilities


class Brightness(nn.Module):
    """Class 1 where the mean pixel is over a level; uniform noise has a mean of 1/2."""

    def __init__(self, level):
        super().__init__()
        self.level = level

    def forward(self, pixels):
        over = pixels.flatten(1).mean(1) - self.level
        return torch.stack([-over, over], 1) * 10


def random_images(count, size=8, seed=2, dtype=torch.float32):
    """Images with pixels at the borders of the box, so that clipping matters."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, size, size, generator=generator, dtype=dtype) * 1.2 - 0.1
    return images.clamp(0, 1)


def classes(model, images):
    """The model's decisions."""
    with torch.no_grad():
        return model(images).argmax(1)


def distances(first, second):
    """Euclidean, [N]."""
    return (first - second).flatten(1).norm(dim=1)
