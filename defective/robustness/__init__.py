"""Protocols of robustness: adversarial sets, rates and their intervals, checks of an evaluation."""

from .adversarial_set import AdversarialSet, joined, load_set, save_set, to_uint8
from .rates import defence_rate_over_all, proportion, success_defence_rate
from .sanity import sanity_flags
from .shuffle import shuffle_patches

__all__ = [
    "AdversarialSet",
    "defence_rate_over_all",
    "joined",
    "load_set",
    "proportion",
    "sanity_flags",
    "save_set",
    "shuffle_patches",
    "success_defence_rate",
    "to_uint8",
]
