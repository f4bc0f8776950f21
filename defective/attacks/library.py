"""Attacks of the library torchattacks, on our models: what they spend is counted image by image.

The library chooses for itself which images of a batch it goes on with. It begins each round with a
copy of those images as they were, by which they are recognised here; so every pass is put down to
the images that it was made for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .draws import content_keys
from .norms import lengths
from .oracle import Oracle, check_gradient

RELATIVE, ABSOLUTE = 1e-5, 1e-6
"""How far outside of its ball a result may lie: float32's rounding of pixels and lengths."""
_VERSION = "its version does not do what is known of it: install torchattacks 3.5.1"
_ROUNDS = ("attack_single_run", "attack_single_run_targeted")


def load_library() -> ModuleType:
    """torchattacks. Raises UserError, with the command that installs it, if it is not there."""
    try:
        import torchattacks
    except ImportError as error:
        raise UserError(
            f"the attacks apgd and autoattack come from the library torchattacks, which cannot be "
            f"imported ({error}): pip install 'scotoma[autoattack]'"
        ) from error
    return torchattacks


def hand_over(
    build: Callable[[ModuleType, nn.Module, int], Any],
    oracle: Oracle,
    images: Tensor,
    labels: Tensor,
    eps: float,
    norm: str,
    classes: int,
) -> Tensor:
    """The library's adversarial images; where the model is wrong already, the image itself.

    Torch's global random state is afterwards what it was before.

    Args:
        build: makes the attack of (torchattacks, model, number of classes).
        classes: the least number that the attack's losses are defined for.

    Raises:
        UserError: the library is missing; images, precision or model do not suit it; its result is
            not in the ball and in [0,1].
    """
    library = load_library()
    if images.dtype != torch.float32:
        raise UserError(f"images is {images.dtype}; torchattacks takes float32: use images.float()")
    if oracle.scale != 1:
        raise UserError(
            "the oracle's dtype is float16, in which the gradients of torchattacks' losses "
            "underflow; use bfloat16 or None"
        )
    logits = oracle(images)
    if logits.shape[1] < classes:
        raise UserError(
            f"the model has {logits.shape[1]} classes; the difference of logits ratio of this "
            f"attack needs at least {classes}: use apgd with loss=ce, or pgd"
        )
    rows = (logits.argmax(1) == labels).nonzero().flatten()
    if not len(rows):
        return images.clone()
    model = _Counted(oracle, images, rows)
    # The library seeds the generators of all devices.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        attack = build(library, model, logits.shape[1])
        for part in getattr(attack, "attacks", [attack]):
            _follow(part, model)
        found = attack(images[rows], labels[rows]).detach()
    _check(found, images[rows], eps, norm)
    result = images.clone()
    result[rows] = found
    return result


class _Counted(nn.Module):
    """A model for the library: an oracle that is told which images a pass is for."""

    def __init__(self, oracle: Oracle, images: Tensor, rows: Tensor):
        super().__init__()
        self.oracle, self.rows = oracle, rows
        self.keys = content_keys(images[rows]).tolist()
        self.first = rows.tolist()
        # The library asks a parameter for the device.
        self.place = nn.Parameter(images.new_empty(0), requires_grad=False)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        pixels, rows = pixels.view_as(pixels), self.rows
        logits = self.oracle(pixels, rows)
        if pixels.requires_grad:
            check_gradient(logits.requires_grad)
            pixels.register_hook(partial(self._passed_back, rows))
        return logits

    def _passed_back(self, rows: Tensor, gradient: Tensor) -> None:
        self.oracle._count(self.oracle.backwards, rows)
        if len(gradient) == len(rows):
            self.oracle._watch(gradient, rows)
        else:
            self.oracle._watch(gradient.flatten().expand(len(rows), -1), rows)

    def recognise(self, images: Tensor) -> Tensor:
        """Which images of the batch these are, all of them unchanged and in its order."""
        rows, place = [], 0
        for key in content_keys(images).tolist():
            if key not in self.keys[place:]:
                raise UserError(f"torchattacks began with images that it was not given: {_VERSION}")
            place = self.keys.index(key, place) + 1
            rows.append(self.first[place - 1])
        return torch.tensor(rows, device=images.device)


def _follow(attack: Any, model: _Counted) -> None:
    """Keep ``model.rows`` at the images that ``attack`` is at work on.

    What follows the attack, or one of its rounds, is a pass for the results of the same images, so
    rows stay there. Square drops images inside of a round too, and says what each one took.
    """
    run = attack.forward
    silent = type(attack).__name__ == "Square"

    def forward(images: Tensor, labels: Tensor) -> Tensor:
        rows = model.rows = model.recognise(images)
        found = run(images, labels)
        model.rows = rows
        return found

    def a_round(call: Callable, images: Tensor, labels: Tensor, **options):
        rows = model.recognise(images)
        model.rows = rows[:0] if silent else rows
        found = call(images, labels, **options)
        if silent:
            model.oracle.forwards[rows] += found[0].to(torch.int64)
        model.rows = rows
        return found

    attack.forward = forward
    for name in _ROUNDS:
        if hasattr(attack, name):
            setattr(attack, name, partial(a_round, getattr(attack, name)))


def _check(found: Tensor, images: Tensor, eps: float, norm: str) -> None:
    """Raises UserError if the library's result is not what it promises."""
    delta = found - images
    size = lengths(delta).max() if norm == "l2" else delta.abs().max()
    inside = size <= eps * (1 + RELATIVE) + ABSOLUTE
    if not bool(inside & (found >= 0).all() & (found <= 1).all()):
        raise UserError(
            f"torchattacks returned images at a distance of up to {float(size):.6g} for an eps of "
            f"{eps:.6g}, with pixels from {float(found.min()):.6g} to {float(found.max()):.6g}: "
            f"{_VERSION}"
        )
