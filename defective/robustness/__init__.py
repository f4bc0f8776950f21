"""Protocols of robustness: adversarial sets, rates and their intervals, checks of an evaluation."""

from .adversarial_set import AdversarialSet, load_set, save_set

__all__ = ["AdversarialSet", "load_set", "save_set"]
