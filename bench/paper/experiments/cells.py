"""What tables of transfer attacks share: measures of cells, and what is said of them."""

from __future__ import annotations

from collections.abc import Mapping

from ..artefacts import AdversarialImages, Model, Result
from ..experiment import Measure
from ..setup import Setup


def accuracy(target: Model) -> Measure:
    """On the whole test split."""
    return Measure(Result.clean(target), "accuracy")


def defence(target: Model, images: AdversarialImages) -> Measure:
    """The success defence rate (P1)."""
    return Measure(Result.transfer(target, images), "defence")


def defence_over_all(target: Model, images: AdversarialImages) -> Measure:
    """P2: without a filter."""
    return Measure(Result.transfer(target, images), "defence_all")


def attack_lines(setup: Setup, attacks: Mapping[str, str]) -> tuple[str, ...]:
    """A line for each attack, {its name in the table: text}, as this budget runs it."""
    return tuple(f"{name}: {setup.budget.attack(text)}" for name, text in attacks.items())


P1 = (
    "Success defence rate (P1): of the images that the target classifies right and whose "
    "adversarial image fools its source, the share that the target still classifies right."
)


def transfer_settings(setup: Setup, attacks: Mapping[str, str]) -> tuple[str, ...]:
    """How the numbers of a table of success defence rates (P1) came about."""
    by = "all five sources classify" if setup.images == "common" else "their source classifies"
    return (
        P1,
        f"Attacked are {setup.budget.samples:,} test images that {by} right.",
        *attack_lines(setup, attacks),
    )
