"""Choices of test images, and adversarial images of them, as artefacts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....defective.attacks import parse_attack
from ....defective.errors import UserError
from ....defective.serialization import atomic_path
from ....train.robustness.attacking import Source, make_set
from ....train.robustness.sampling import choose_images
from ....train.robustness.set_request import told_settings
from ....train.robustness.whitebox import sample_of_all
from .artefact import Artefact
from .context import Context
from .data import Data
from .store import Store
from .training import Model

_MOST = 1 << 31
"""More than any number of test images; larger ones would be no int64."""


@dataclass(frozen=True)
class Sample(Artefact):
    """Which test images: the first of a seeded shuffle that all ``models`` classify right.

    Without models, the first of the shuffle. docs/paper.md says why images are common to all
    sources.
    """

    kind = "sample"
    suffix = ".json"

    data: Data
    models: tuple[Model, ...]
    count: int
    seed: int = 0

    @property
    def label(self) -> str:
        names = f"-right-for-{len(self.models)}" if self.models else ""
        return f"{self.data.label}-{self.count}{names}-s{self.seed}"

    def settings(self) -> dict[str, Any]:
        return {"count": self.count, "seed": self.seed, "data": self.data.settings()} | (
            {"ensembles": [len(m.members) for m in self.models]}
        )

    def inputs(self) -> tuple[Artefact, ...]:
        return (*self.data.inputs(), *(m for model in self.models for m in model.members))

    def make(self, context: Context) -> None:
        images = context.images(self.data)
        if self.models:
            models = [model.load(context) for model in self.models]
            found = choose_images(
                models, images, self.count, self.seed, context.batch_size, context.progress
            )
            indices, details = found.indices, found.describe()
        else:
            indices = sample_of_all(images, self.count, self.seed)
            details = {"asked": self.count, "found": len(indices), "seed": self.seed}
        content = {"indices": indices.tolist(), "details": details}
        path = self.path(context.store)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(content) + "\n")

    def read(self, store: Store) -> tuple[Tensor, dict[str, Any]]:
        """(int64 [N], how they were chosen). Raises UserError if the file is damaged."""
        path = self.path(store)
        try:
            content = json.loads(path.read_text())
            indices, details = content["indices"], content["details"]
            if not all(type(i) is int and 0 <= i < _MOST for i in indices):
                raise ValueError("indices are no numbers of images")
            details = dict(details)
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(f"{path}: no choice of images ({error}); remove it") from None
        return torch.tensor(indices, dtype=torch.int64), details


@dataclass(frozen=True)
class AdversarialImages(Artefact):
    """Adversarial images of one source, by one attack, on one sample.

    Attributes:
        attack: as :func:`scotoma.defective.attacks.parse_attack` reads it. most: only so many of
            the sample's images; None for all. pixels: "uint8" rounds as an image file would, which
            is how the release evaluated.
    """

    kind = "set"
    suffix = ".safetensors"

    source: Model
    attack: str
    sample: Sample
    most: int | None = None
    pixels: str = "uint8"

    @property
    def label(self) -> str:
        attack = parse_attack(self.attack)
        return f"{self.source.label}-{attack.name}-{told_settings(attack)}"

    def settings(self) -> dict[str, Any]:
        return {
            "attack": parse_attack(self.attack).parameters(),
            "most": self.most,
            "pixels": self.pixels,
            "members": len(self.source.members),
        }

    def inputs(self) -> tuple[Artefact, ...]:
        return (*self.source.members, self.sample, *self.sample.data.inputs())

    @property
    def affinity(self) -> str:
        return f"attack {self.source.key}"

    def make(self, context: Context) -> None:
        indices, details = self.sample.read(context.store)
        path = self.path(context.store)
        path.parent.mkdir(parents=True, exist_ok=True)
        make_set(
            Source(self.source.load(context), "float32", cuda_graph=True),
            parse_attack(self.attack),
            context.images(self.sample.data),
            indices[: self.most],
            path,
            batch_size=context.batch_size,
            pixels=self.pixels,
            sampling=details,
            say=lambda text: context.screen.line(f"    {text}"),
            advance=context.progress,
        )
