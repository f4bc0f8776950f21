"""How many passes of which networks an artefact takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Literal

from ....defective import Defects
from ....defective.attacks import Attack, parse_attack
from ....defective.attacks.boundary import Boundary
from ....defective.attacks.carlini_wagner import CWL2
from ....defective.attacks.fgsm import FGSM
from ....defective.attacks.pgd import PGD
from ..graph.artefact import Artefact
from ..graph.attacking import AdversarialImages, Sample
from ..graph.protocol_results import BoundaryScore, Noise, Shuffled, Stylized
from ..graph.results import Clean, Transfer, WhiteBox
from ..graph.store import Store
from ..graph.training import Model, Training
from .facts import facts_of

What = Literal["train", "gradient", "forward"]


@dataclass(frozen=True)
class Network:
    """What the speed of a network depends on.

    ``defects`` has one keep probability for all masks of neurons: they cost the same.
    """

    arch: str
    defects: str
    width: int | None
    side: int
    channels: int
    classes: int
    regularizer: str
    thermometer: int
    batch_size: int
    precision: str


@dataclass(frozen=True)
class Work:
    """Passes of one network.

    Attributes:
        what: "train", forward, backward and update; "gradient", forward, and backward to the image;
            "forward". images: how many pass, an image that passes again included.
        at_most: whether the number is a bound, because images leave early.
    """

    network: Network
    what: What
    images: float
    at_most: bool = False


def network_of(training: Training, store: Store) -> Network:
    """Raises UserError as :func:`facts_of`."""
    config, facts = training.config, facts_of(training.data, store)
    defects = Defects.parse(config.defects)
    terms = [
        replace(t, keep_probability=0.5) if t.kind in ("neuron", "SM") else t for t in defects.terms
    ]
    return Network(
        config.arch,
        str(replace(defects, terms=tuple(terms))),
        config.width,
        facts.side,
        facts.channels,
        facts.classes,
        config.regularizer,
        getattr(config, "thermometer", 0),
        config.batch_size,
        config.precision,
    )


def attack_passes(attack: Attack) -> tuple[float, float, bool]:
    """(gradients, forwards, whether they are bounds) of one image."""
    match attack:
        case FGSM():
            return 1, 2, False
        case CWL2():
            return attack.search_steps * attack.steps, 2, True
        case PGD():
            return attack.steps * attack.restarts, 2, attack.stop_when_fooled
        case Boundary():
            steps = attack.steps * (1 + 1 / attack.update_every)
            most = steps + attack.start_draws + attack.start_steps
            return 0, min(most, attack.max_queries or most), True
    return getattr(attack, "steps", 1), 2, True


@singledispatch
def work_of(artefact: Artefact, store: Store) -> list[Work]:
    """The passes that making it takes; none for what costs next to nothing.

    Raises:
        UserError: data that is no data set.
    """
    return []


@work_of.register
def _(artefact: Training, store: Store) -> list[Work]:
    config, facts = artefact.config, facts_of(artefact.data, store)
    network = network_of(artefact, store)
    epochs = artefact.epochs_left(store)
    images = epochs * facts.train
    both = 2 if getattr(config, "logit_pairing", 0) else 1
    found = [
        Work(network, "train", images * both),
        Work(network, "forward", epochs * facts.test),
    ]
    if config.adversarial_eps:
        tested = min(config.adversarial_test_images, facts.test) * epochs
        found.append(Work(network, "gradient", (images + tested) * config.adversarial_steps))
    return found


@work_of.register
def _(artefact: Sample, store: Store) -> list[Work]:
    test = facts_of(artefact.data, store).test
    return [w for model in artefact.models for w in _passes(model, "forward", test, store, True)]


@work_of.register
def _(artefact: AdversarialImages, store: Store) -> list[Work]:
    count = _count(artefact.sample, store, artefact.most)
    return _attack(artefact.source, artefact.attack, count, store)


@work_of.register
def _(artefact: Clean, store: Store) -> list[Work]:
    test = facts_of(artefact.target.data, store).test
    return _passes(artefact.target, "forward", test, store)


@work_of.register
def _(artefact: Transfer, store: Store) -> list[Work]:
    images = artefact.images
    count = _count(images.sample, store, images.most)
    return _passes(artefact.target, "forward", 2 * count, store)


@work_of.register(WhiteBox)
@work_of.register(BoundaryScore)
def _(artefact: WhiteBox | BoundaryScore, store: Store) -> list[Work]:
    return _attack(artefact.target, artefact.attack, _count(artefact.sample, store), store)


@work_of.register
def _(artefact: Noise, store: Store) -> list[Work]:
    images = _count(artefact.sample, store) * artefact.draws * len(artefact.epsilons)
    return _passes(artefact.target, "forward", images, store)


@work_of.register
def _(artefact: Shuffled, store: Store) -> list[Work]:
    images = _count(artefact.sample, store) * len(artefact.grids)
    return _passes(artefact.target, "forward", images, store)


@work_of.register
def _(artefact: Stylized, store: Store) -> list[Work]:
    test = facts_of(artefact.targets[0].data, store).test
    return [w for t in artefact.targets for w in _passes(t, "forward", 2 * test, store, True)]


def _count(sample: Sample, store: Store, most: int | None = None) -> int:
    """Images, at most: a small test set has fewer than are asked for."""
    count = min(sample.count, facts_of(sample.data, store).test)
    return count if most is None else min(count, most)


def _attack(model: Model, text: str, count: int, store: Store) -> list[Work]:
    gradients, forwards, at_most = attack_passes(parse_attack(text))
    found = _passes(model, "forward", count * forwards, store, at_most and not gradients)
    if gradients:
        found += _passes(model, "gradient", count * gradients, store, at_most)
    return found


def _passes(
    model: Model, what: What, images: float, store: Store, at_most: bool = False
) -> list[Work]:
    """Of every member of an ensemble."""
    return [Work(network_of(m, store), what, images, at_most) for m in model.members]
