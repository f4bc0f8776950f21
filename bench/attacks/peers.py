"""The same attacks in other libraries, which are imported when they are asked for."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor, nn

from ...defective.attacks import Attack
from ...defective.errors import UserError

INSTALL = "pip install 'scotoma[crosscheck]'"


def available(name: str) -> bool:
    """Whether a library can be imported; it is not."""
    return importlib.util.find_spec(name) is not None


def library(name: str) -> ModuleType:
    """Raises UserError if it is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the peer's own imports
            return importlib.import_module(name)
    except ImportError as error:
        problem = f"{name}, to be measured beside, cannot be imported ({error}): {INSTALL}"
        raise UserError(problem) from error


def foolbox_attack(
    name: str,
    attack: Attack,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    starts: Tensor | None = None,
) -> Callable[[], Tensor]:
    """foolbox's attack with the settings of ours. It judges its results no more than ours does.

    Args:
        starts: adversarial images for the boundary attack to start from.
    """
    foolbox = library("foolbox")
    # Its own choice would be the first GPU, wherever the model is.
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
    criterion = foolbox.criteria.Misclassification(labels)
    theirs = _foolbox(foolbox.attacks, name, attack)
    options = {"epsilon": attack.eps} if hasattr(attack, "eps") else {}
    if starts is not None:
        options = {"starting_points": starts}

    def run() -> Tensor:
        with _seeded(images.device):
            found = theirs.run(wrapped, images, criterion, **options)
        if name.startswith("cw-l2"):  # it returns black where it found nothing
            nothing = (found == 0).flatten(1).all(1)
            found = torch.where(nothing[:, None, None, None], images, found)
        return found.detach()

    return run


def _foolbox(attacks: ModuleType, name: str, attack: Attack):
    if name == "fgsm":
        return attacks.LinfFastGradientAttack()
    if name == "pgd20":
        return attacks.LinfProjectedGradientDescentAttack(
            abs_stepsize=attack.step, steps=attack.steps, random_start=False
        )
    if name.startswith("cw-l2"):
        return attacks.L2CarliniWagnerAttack(
            binary_search_steps=attack.search_steps,
            steps=attack.steps,
            stepsize=attack.lr,
            confidence=attack.confidence,
            initial_const=attack.initial_const,
            abort_early=attack.stop_early,
        )
    return attacks.BoundaryAttack(
        steps=attack.steps,
        spherical_step=attack.spherical_step,
        source_step=attack.source_step,
        source_step_convergance=attack.convergence,
        step_adaptation=attack.step_adaptation,
        update_stats_every_k=attack.update_every,
    )


def torchattacks_attack(
    attack: Attack, model: nn.Module, images: Tensor, labels: Tensor
) -> Callable[[], Tensor]:
    """torchattacks' MI-FGSM with the settings of ours."""
    theirs = library("torchattacks").MIFGSM(
        model, eps=attack.eps, alpha=attack.step, steps=attack.steps, decay=attack.decay
    )
    return lambda: theirs(images, labels).detach()


@contextmanager
def _seeded(device: torch.device) -> Iterator[None]:
    """The same random numbers in every run, and the generators as they were afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield
