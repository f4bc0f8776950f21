"""Evaluations beside attacks by gradients, each a function from targets to cells."""

from .boundary import evaluate_boundary
from .noise import PAPER_EPSILONS, evaluate_noise
from .shuffle import evaluate_shuffle
from .stylized import evaluate_stylized

__all__ = [
    "PAPER_EPSILONS",
    "evaluate_boundary",
    "evaluate_noise",
    "evaluate_shuffle",
    "evaluate_stylized",
]
