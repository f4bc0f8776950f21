"""Results as artefacts: what evaluations of networks found."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from ....defective.attacks import parse_attack
from ....defective.errors import UserError
from ....defective.robustness import load_set
from ....defective.robustness.rates import check_results
from ....defective.serialization import atomic_path, check_seal, seal
from ....train.robustness.predictions import evaluate_clean
from ....train.robustness.transfer import evaluate_transfer
from ....train.robustness.whitebox import evaluate_white_box
from .artefact import Artefact
from .attacking import AdversarialImages, Sample
from .context import Context
from .store import Store
from .training import Model


class Result(Artefact):
    """Cells of :mod:`scotoma.train.store`, in a file of the artefact's name."""

    kind: ClassVar[str] = "result"
    suffix: ClassVar[str] = ".json"

    def compute(self, context: Context) -> list[dict[str, Any]]:
        """The cells."""
        raise NotImplementedError

    def make(self, context: Context) -> None:
        cells = self.compute(context)
        path = self.path(context.store)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            record = seal({"key": self.key, "cells": cells})
            temporary.write_text(json.dumps(record, indent=1) + "\n")

    def read(self, store: Store) -> list[dict[str, Any]]:
        """The ``results`` of each cell. Raises UserError if the file is damaged."""
        path = self.path(store)
        try:
            record = json.loads(path.read_text())
            check_seal(record, path, "remove it, and it is made again")
            found = [dict(cell["results"]) for cell in record["cells"]]
            check_results(found)
            return found
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(f"{path}: no result of a reproduction ({error}); remove it") from None


class OfTarget(Result):
    """A result of one network, made beside the other results of that network."""

    target: Model

    @property
    def affinity(self) -> str:
        return f"evaluate {self.target.key}"


@dataclass(frozen=True)
class Clean(OfTarget):
    """``accuracy`` on the whole test split."""

    target: Model

    @property
    def label(self) -> str:
        return f"{self.target.label}-clean"

    def settings(self) -> dict[str, Any]:
        return {"protocol": "clean", "members": len(self.target.members)}

    def inputs(self) -> tuple[Artefact, ...]:
        return (*self.target.members, *self.target.data.inputs())

    def compute(self, context: Context) -> list[dict[str, Any]]:
        data = self.target.data
        return [
            evaluate_clean(
                self.target.load(context),
                context.images(data),
                context.cells,
                clean=context.clean(data),
                advance=context.progress,
            )
        ]


@dataclass(frozen=True)
class Transfer(OfTarget):
    """``defence`` (P1), ``defence_all`` (P2) and more of one network on one adversarial set."""

    target: Model
    images: AdversarialImages

    @property
    def label(self) -> str:
        return f"{self.target.label}-against-{self.images.label}"

    def settings(self) -> dict[str, Any]:
        return {"protocol": "transfer", "members": len(self.target.members)}

    def inputs(self) -> tuple[Artefact, ...]:
        return (*self.target.members, self.images, *self.images.sample.data.inputs())

    def compute(self, context: Context) -> list[dict[str, Any]]:
        data = self.images.sample.data
        return [
            evaluate_transfer(
                self.target.load(context),
                load_set(self.images.path(context.store)),
                context.images(data),
                context.cells,
                batch_size=context.batch_size,
                clean=context.clean(data),
                advance=context.progress,
            )
        ]


@dataclass(frozen=True)
class WhiteBox(OfTarget):
    """``defence``: of the images that are right before an attack on the network, those after it."""

    target: Model
    attack: str
    sample: Sample

    @property
    def label(self) -> str:
        return f"{self.target.label}-white-box-{parse_attack(self.attack).name}"

    def settings(self) -> dict[str, Any]:
        parameters = parse_attack(self.attack).parameters()
        return {
            "protocol": "white-box",
            "attack": parameters,
            "members": len(self.target.members),
        }

    def inputs(self) -> tuple[Artefact, ...]:
        return (*self.target.members, self.sample, *self.sample.data.inputs())

    def compute(self, context: Context) -> list[dict[str, Any]]:
        indices, _ = self.sample.read(context.store)
        return [
            evaluate_white_box(
                self.target.load(context),
                parse_attack(self.attack),
                context.images(self.sample.data),
                indices,
                context.cells,
                batch_size=context.batch_size,
                advance=context.progress,
            )
        ]
