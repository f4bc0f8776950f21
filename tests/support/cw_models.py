"""Small models for the tests of the Carlini-Wagner attack."""

import torch
from torch import nn


class Scaled(nn.Module):
    """A model with its logits multiplied and shifted.

    Logits of a random network differ by fractions; confidences are whole numbers. The shift makes
    all logits negative, where an attack that takes zeros for "no other class" goes wrong.
    """

    def __init__(self, model, factor=10.0, shift=-100.0):
        super().__init__()
        self.model, self.factor, self.shift = model, factor, shift
        self.training = model.training

    def forward(self, pixels):
        return self.model(pixels) * self.factor + self.shift


class TwoClasses(nn.Module):
    """Logits 0 and w x + b: the nearest image of margin kappa is (z + kappa) / |w| away, if it is
    inside the box."""

    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, pixels):
        score = pixels.flatten(1) @ self.weight + self.bias
        return torch.stack([torch.zeros_like(score), score], 1)


class Constant(nn.Module):
    """Logits that depend on no pixel; class ``label`` always wins."""

    def __init__(self, label, classes=4, ahead=2.0):
        super().__init__()
        logits = torch.zeros(classes)
        logits[label] = ahead
        self.register_buffer("logits", logits)

    def forward(self, pixels):
        return self.logits + 0 * pixels.sum((1, 2, 3))[:, None]
