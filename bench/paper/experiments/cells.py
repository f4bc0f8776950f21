"""What tables of transfer attacks share: measures of cells, and what is said of them."""

from __future__ import annotations

from collections.abc import Mapping

from ..experiment import Measure
from ..graph.attacking import AdversarialImages
from ..graph.results import Clean, Transfer
from ..graph.training import Model
from ..setup import Setup


def accuracy(target: Model) -> Measure:
    """On the whole test split."""
    return Measure(Clean(target), "accuracy")


def defence(target: Model, images: AdversarialImages) -> Measure:
    """The success defence rate (P1)."""
    return Measure(Transfer(target, images), "defence")


def defence_over_all(target: Model, images: AdversarialImages) -> Measure:
    """P2: without a filter."""
    return Measure(Transfer(target, images), "defence_all")


def attack_lines(setup: Setup, attacks: Mapping[str, str]) -> tuple[str, ...]:
    """A line for each attack, {its name in the table: text}, as this budget runs it."""
    return tuple(f"{name}: {setup.budget.attack(text)}" for name, text in attacks.items())


def transfer_settings(setup: Setup, attacks: Mapping[str, str]) -> tuple[str, ...]:
    """How the numbers of a table of success defence rates (P1) came about."""
    by = "all five sources classify" if setup.images == "common" else "their source classifies"
    return (
        "Success defence rate (P1): of the images that the target classifies right and whose "
        "adversarial image fools its source, the share that the target still classifies right.",
        f"Attacked are {setup.budget.samples:,} test images that {by} right.",
        *attack_lines(setup, attacks),
    )


NETWORK_NOTES = (
    "Networks are those of the last epoch; the release takes the best epoch on the test images.",
    "Masks have an exact share of zeros, as in the release; the paper's text draws each neuron.",
    "A network's masks come from its seed and architecture: variants of one seed are nested, what "
    "0.3-Bottom keeps, 0.5-Bottom keeps too. The release draws them apart, but some of its "
    "architectures share files of masks.",
)
"""On how all networks are trained."""
ROUNDING_NOTE = (
    "Adversarial images are rounded to 8 bits before anything is judged; the release rounds "
    "between the verdicts of source and target."
)


def transfer_notes(setup: Setup) -> tuple[str, ...]:
    """Where tables of success defence rates differ from the paper."""
    common = (
        "The paper attacks images that the source of the attack classifies right; ours are common "
        "to the five sources, so that columns differ by attacks alone (--images source: the "
        "paper's way).",
    )
    return (*NETWORK_NOTES, ROUNDING_NOTE, *(common if setup.images == "common" else ()))
