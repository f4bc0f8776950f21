"""Gray-box attacks between defective networks: Table 10."""

from __future__ import annotations

from ..artefacts import Model, Result
from ..experiment import Definition, Experiment, Measure, Place
from ..setup import MEMBER_SEED, SOURCE_SEED, Setup, pgd
from . import notes
from .asides import Beside, apart, fooled, of_source
from .cells import P1

KEEP = (0.5, 0.3)
ARCH, ATTACK = "resnet18", pgd(1, 20, 16)


def build_gray_box(setup: Setup) -> Experiment:
    """Two sources; of each kind a network with its masks, and one with others ("DIF")."""

    def of_seed(seed: int) -> dict[Place | Beside, Measure]:
        sources = [_source(setup, keep, seed) for keep in KEEP]
        cells = {}
        for source in sources:
            judges = tuple(sources) if setup.images == "common" else (source,)
            images = setup.adversarial(source, ATTACK, setup.sample("cifar10", judges))
            targets = _targets(setup, seed)
            cells |= fooled(source.name, targets[0], images) | of_source(source.name, source)
            for target in targets:
                cells[target.name, source.name] = Measure(
                    Result.transfer(target, images), "defence"
                )
        return cells

    cells, asides = apart(setup.each_seed(of_seed))
    return Experiment(
        rows=tuple(dict.fromkeys(row for row, _ in cells)),
        columns=tuple(dict.fromkeys(column for _, column in cells)),
        axes=("target", "source"),
        cells=cells,
        asides=asides,
        settings=(
            f"{P1} Against PGD (1, 20, 16); sources in columns, targets in rows.",
            "p-Bottom: the masks of the source of the same p, other initial weights. "
            "p-BottomDIF: other masks, and other initial weights too.",
            "Attacked are test images that "
            + ("both sources classify" if setup.images == "common" else "its source classifies")
            + " right.",
        ),
        notes=(
            *notes.transfer(setup),
            "Masks of two keep probabilities that are drawn from one seed are nested: what 0.3 "
            "keeps, 0.5 keeps too. So 0.3-Bottom and 0.5-Bottom share places with each other's "
            "source, which networks of the paper, drawn apart, do by chance only; the rows DIF "
            "show what independent masks give.",
        ),
    )


def _source(setup: Setup, keep: float, seed: int) -> Model:
    """Other weights than those of every row, and the masks of the row of the same name."""
    name = f"{keep}-Bottom"
    training = setup.training(ARCH, name, seed=SOURCE_SEED + seed, mask_seed=seed)
    return Model(name, (training,))


def _targets(setup: Setup, seed: int) -> list[Model]:
    found = []
    for keep in KEEP:
        name = f"{keep}-Bottom"
        found.append(setup.target(name, ARCH, name, seed=seed))
        # An ensemble's second member has masks and weights of its own, and is there for Table 14.
        found.append(setup.target(f"{name}DIF", ARCH, name, seed=seed + MEMBER_SEED))
    return found


DEFINITIONS = [
    Definition(
        "table10",
        "gray-box attacks on defective networks",
        "A.6",
        ("cifar10",),
        "2 sources and 4 targets, all defective ResNet-18; PGD (1, 20, 16)",
        build_gray_box,
        of_table=10,
    ),
]
