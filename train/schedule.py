"""The learning rate as a function of the step: nothing to save, nothing to resume."""

from __future__ import annotations

import math

from .config import TrainConfig


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The learning rate of one step.

    - "step": ``lr`` divided by 10 after each of ``milestones`` completed epochs (paper,
      appendix D).
    - "one-cycle": linear from 0 up to ``lr`` in the share ``warmup`` of the run, then linear
      down to 0 (Smith and Topin, 2018, without the momentum cycle).
    - "cosine": half a cosine from ``lr`` to 0.
    - "constant": ``lr``.

    Args:
        step: counted from 0 over the whole run. steps_per_epoch: of the run.
    """
    total = config.epochs * steps_per_epoch
    if config.schedule == "step":
        passed = sum(step // steps_per_epoch >= m for m in config.milestones)
        return config.lr * 0.1**passed
    if config.schedule == "one-cycle":
        peak = config.warmup * total
        # The middle of the step stands for it, so that neither end is a step of length zero.
        now = step + 0.5
        return config.lr * (now / peak if now < peak else (total - now) / (total - peak))
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * step / total))
    return config.lr
