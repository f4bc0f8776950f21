"""Results of evaluations beside adversarial sets: distances, noise, patches, styles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ....defective.attacks import parse_attack
from ....train.robustness.protocols.boundary import evaluate_boundary
from ....train.robustness.protocols.noise import evaluate_noise
from ....train.robustness.protocols.shuffle import evaluate_shuffle
from ....train.robustness.protocols.stylized import evaluate_stylized
from .artefact import Artefact
from .attacking import Sample
from .context import Context
from .results import OfTarget, Result
from .training import Model


@dataclass(frozen=True)
class BoundaryScore(OfTarget):
    """``score_median``: the squared distance that a decision-based attack ends at."""

    target: Model
    attack: str
    sample: Sample

    @property
    def label(self) -> str:
        return f"{self.target.label}-{parse_attack(self.attack).name}"

    def settings(self) -> dict[str, Any]:
        parameters = parse_attack(self.attack).parameters()
        return {"protocol": "boundary", "attack": parameters, "members": len(self.target.members)}

    def inputs(self) -> tuple[Artefact, ...]:
        return (*self.target.members, self.sample, *self.sample.data.inputs())

    def compute(self, context: Context) -> list[dict[str, Any]]:
        indices, _ = self.sample.read(context.store)
        return evaluate_boundary(
            [self.target.load(context)],
            context.images(self.sample.data),
            indices,
            context.cells,
            attack=parse_attack(self.attack),
            batch_size=context.batch_size,
            progress=context.progress,
        )


@dataclass(frozen=True)
class Noise(OfTarget):
    """``accuracy`` under Gaussian noise of each epsilon (twice the standard deviation)."""

    target: Model
    sample: Sample
    epsilons: tuple[float, ...]
    draws: int = 3

    @property
    def label(self) -> str:
        return f"{self.target.label}-noise"

    def settings(self) -> dict[str, Any]:
        return {
            "protocol": "noise",
            "epsilons": list(self.epsilons),
            "draws": self.draws,
            "members": len(self.target.members),
        }

    def inputs(self) -> tuple[Artefact, ...]:
        return (*self.target.members, self.sample, *self.sample.data.inputs())

    def compute(self, context: Context) -> list[dict[str, Any]]:
        indices, _ = self.sample.read(context.store)
        return evaluate_noise(
            [self.target.load(context)],
            context.images(self.sample.data),
            indices,
            context.cells,
            epsilons=self.epsilons,
            draws=self.draws,
            batch_size=context.batch_size,
            progress=context.progress,
        )


@dataclass(frozen=True)
class Shuffled(OfTarget):
    """``accuracy`` on images whose patches were shuffled, for each grid."""

    target: Model
    sample: Sample
    grids: tuple[int, ...]
    seed: int = 0

    @property
    def label(self) -> str:
        return f"{self.target.label}-shuffled"

    def settings(self) -> dict[str, Any]:
        return {
            "protocol": "shuffle",
            "grids": list(self.grids),
            "seed": self.seed,
            "members": len(self.target.members),
        }

    def inputs(self) -> tuple[Artefact, ...]:
        return (*self.target.members, self.sample, *self.sample.data.inputs())

    def compute(self, context: Context) -> list[dict[str, Any]]:
        indices, _ = self.sample.read(context.store)
        return evaluate_shuffle(
            [self.target.load(context)],
            context.images(self.sample.data),
            indices,
            context.cells,
            grids=self.grids,
            seed=self.seed,
            batch_size=context.batch_size,
            progress=context.progress,
        )


@dataclass(frozen=True)
class Stylized(Result):
    """``accuracy`` on stylised images whose originals all ``targets`` classify right.

    A cell for each of them, in their order.
    """

    targets: tuple[Model, ...]

    @property
    def label(self) -> str:
        return f"{'+'.join(target.label for target in self.targets)}-stylized"

    def settings(self) -> dict[str, Any]:
        data = self.targets[0].data
        return {
            "protocol": "stylized",
            "folder": data.stylized_content,
            "members": [len(target.members) for target in self.targets],
        }

    def inputs(self) -> tuple[Artefact, ...]:
        members = [member for target in self.targets for member in target.members]
        return (*members, *self.targets[0].data.inputs())

    @property
    def affinity(self) -> str:
        return f"evaluate {self.targets[0].key}"

    def compute(self, context: Context) -> list[dict[str, Any]]:
        data = self.targets[0].data
        return evaluate_stylized(
            [target.load(context) for target in self.targets],
            context.images(data),
            data.stylized_folder(context.store),
            context.cells,
            clean=context.clean(data),
            batch_size=context.batch_size,
            progress=context.progress,
        )
