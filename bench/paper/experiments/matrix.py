"""Transfer between architectures: Tables 4, 8, 9 and 11."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..artefacts import Model
from ..experiment import Definition, Experiment, Measure, Place
from ..setup import ARCHITECTURES, Setup, pgd
from . import notes
from .asides import Beside, apart, fooled, of_source
from .cells import accuracy, defence, transfer_settings

KEEP = (0.5, 0.3)
ACCURACY = "Test Accuracy"
GRAY = ("resnet18", "densenet121")
MNIST_PGD = "pgd:eps=0.3,step=0.01,steps=40"
"""The paper's step 0.01 x 255 and scale 0.3 x 255 (section A.5)."""

Sources = Callable[[Setup, str, int], dict[str, Model]]

_FUSED = (
    "Not comparable: a source of four networks is attacked through the mean of their logits. The "
    "paper does not say how it fuses them, and the release has no such attack.",
)
_DIGITS = (
    "Training flips digits, as the paper's does. VGG-19 has no fifth pooling layer here, and "
    "DenseNet-121 averages over 3x3 positions at the end, as in the release.",
)
_PART = ("The same networks and attacks as in Table 4.",)


def single(setup: Setup, role: str, seed: int) -> dict[str, Model]:
    """{column: source}: the five networks."""
    return {model.name: model for model in setup.sources(seed=seed, role=role).values()}


def leave_one_out(setup: Setup, role: str, seed: int) -> dict[str, Model]:
    """{column: source}: ensembles of all five but the one that the column is named after."""
    networks = single(setup, role, seed)
    return {
        left: Model(f"all but {left}", tuple(m.members[0] for m in networks.values() if m != one))
        for left, one in networks.items()
    }


def build_matrix(
    setup: Setup, role: str, attack: str, sources: Sources, more_notes: tuple[str, ...]
) -> Experiment:
    """Sources against five architectures, standard and with two keep probabilities."""

    def of_seed(seed: int) -> dict[Place | Beside, Measure]:
        sets, found = {}, {}
        targets = _targets(setup, role, seed)
        for column, source in sources(setup, role, seed).items():
            sample = setup.attacked_sample(source, seed=seed, role=role)
            sets[column] = setup.adversarial(source, attack, sample)
            found |= fooled(column, targets[0], sets[column]) | of_source(column, source)
        for target in targets:
            for column, images in sets.items():
                found[target.name, column] = defence(target, images)
            found[target.name, ACCURACY] = accuracy(target)
        return found

    cells, asides = apart(setup.each_seed(of_seed))
    return Experiment(
        rows=tuple(target.name for target in _targets(setup, role, setup.seeds[0])),
        columns=(*ARCHITECTURES.values(), ACCURACY),
        axes=("target", "source"),
        cells=cells,
        asides=asides,
        settings=transfer_settings(setup, {"PGD": attack}),
        notes=(*notes.transfer(setup), *more_notes),
    )


def build_gray(setup: Setup, attack: str) -> Experiment:
    """Standard networks of two architectures against each other, and against themselves."""

    def of_seed(seed: int) -> dict[Place | Beside, Measure]:
        found = {}
        for target_arch in GRAY:
            target = setup.target(ARCHITECTURES[target_arch], target_arch, seed=seed)
            for arch in GRAY:
                source = setup.source(arch, seed=seed)
                sample = setup.attacked_sample(source, seed=seed)
                images = setup.adversarial(source, attack, sample)
                found[target.name, source.name] = defence(target, images)
                found = fooled(source.name, target, images) | found  # the first row's
                found |= of_source(source.name, source)
        return found

    names = tuple(ARCHITECTURES[arch] for arch in GRAY)
    cells, asides = apart(setup.each_seed(of_seed))
    return Experiment(
        rows=names,
        columns=names,
        axes=("target", "source"),
        cells=cells,
        asides=asides,
        settings=transfer_settings(setup, {"PGD": attack}),
        notes=(*notes.transfer(setup), *_PART),
    )


def _targets(setup: Setup, role: str, seed: int) -> list[Model]:
    found = []
    for arch, name in ARCHITECTURES.items():
        found.append(setup.target(name, arch, seed=seed, role=role))
        for keep in KEEP:
            defects = f"{keep}-Bottom"
            found.append(setup.target(f"{name} {defects}", arch, defects, seed=seed, role=role))
    return found


_CIFAR_PGD = pgd(1, 20, 16)

DEFINITIONS = [
    Definition(
        "table4",
        "transfer between five architectures on CIFAR-10",
        "4.1.2",
        ("cifar10",),
        "5 sources and 15 targets; PGD (1, 20, 16)",
        partial(
            build_matrix,
            role="cifar10",
            attack=_CIFAR_PGD,
            sources=single,
            more_notes=(notes.SITES,),
        ),
        of_table=4,
    ),
    Definition(
        "table8",
        "transfer from ensembles of four architectures on CIFAR-10",
        "A.4",
        ("cifar10",),
        "the 5 sources and 15 targets of Table 4; PGD (2, 7, 8)",
        partial(
            build_matrix,
            role="cifar10",
            attack=pgd(2, 7, 8),
            sources=leave_one_out,
            more_notes=(notes.SITES, *_FUSED),
        ),
        of_table=8,
    ),
    Definition(
        "table9",
        "transfer between five architectures on MNIST",
        "A.5",
        ("mnist",),
        "5 sources and 15 targets; PGD (2.55, 40, 76.5)",
        partial(
            build_matrix,
            role="mnist",
            attack=MNIST_PGD,
            sources=single,
            more_notes=(notes.SITES, *_DIGITS),
        ),
        of_table=9,
    ),
    Definition(
        "table11",
        "gray-box attacks between standard networks on CIFAR-10",
        "A.6",
        ("cifar10",),
        "2 sources and 2 targets of Table 4; PGD (1, 20, 16)",
        partial(build_gray, attack=_CIFAR_PGD),
        of_table=11,
    ),
]
