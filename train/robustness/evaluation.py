"""All protocols of one evaluation, one after the other, each result kept as a cell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...defective.attacks import Attack
from ...defective.errors import UserError, counted
from ...defective.robustness import load_set
from ...defective.robustness.sanity import sanity_flags
from ..screen import Progress
from ..store import Store
from .arithmetic import full_precision
from .asked import Asked
from .attacking import Source
from .images import TestImages
from .models import NamedModel
from .pictures import example_samples, shuffled_samples
from .predictions import CleanPredictions, evaluate_clean, shown_target
from .sampling import choose_images
from .transfer import content_digest, evaluate_transfer
from .whitebox import PRECISION, evaluate_white_box, sample_of_all

SANITY_IMAGES = 32


class Evaluation:
    """What :meth:`run` has found, and what its protocols share.

    Args:
        targets: distinct networks. screen: gets lines and progress for people.
        batch_size: images at once. seed: of the choice of images, and of shuffled patches.

    Attributes:
        results: the cells, in the order in which they were made.
        failures: messages of results that could not be made; they end no long run.
    """

    def __init__(
        self,
        targets: list[NamedModel],
        images: TestImages,
        cells: Store,
        screen: Progress,
        batch_size: int,
        seed: int,
    ):
        self.targets, self.images, self.cells, self.screen = targets, images, cells, screen
        self.batch_size, self.seed = batch_size, seed
        self.clean = CleanPredictions(images, batch_size)
        self.results: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self._sets: tuple[Path, ...] = ()
        self._right = torch.zeros(0, dtype=torch.int64)
        self._told = ""

    def prepare(self, asked: Asked, grids: list[int]) -> None:
        """Warn of targets that attacks cannot get hold of, and choose images.

        Raises:
            UserError: no test image is classified right by all targets, and some protocol needs
                one.
        """
        few = sample_of_all(self.images, SANITY_IMAGES, self.seed)
        with full_precision():
            _, pixels, labels = next(self.images.batches(few, len(few)))
            for target in self.targets:
                for flag in sanity_flags(target.model, pixels, labels):
                    self.screen.line(f"warning: {target.name}: {flag}")
        if asked.epsilons or grids or asked.boundary:
            self.screen.begin("choosing images")
            most = asked.samples if asked.epsilons or grids else asked.boundary_samples
            sample = choose_images(
                self.targets,
                self.images,
                most,
                self.seed,
                self.batch_size,
                self.screen.advance,
            )
            self._right = sample.indices
            self.screen.line(
                f"{counted(len(sample), 'test image')} that every target classifies right (first "
                f"of a shuffle, seed {sample.seed}): noise, shuffled patches and scores are of "
                "these, and with another target of others"
            )

    def run(self, asked: Asked, grids: list[int]) -> None:
        """Every protocol that is asked for. Finished cells are read, not made again."""
        self._sets = asked.sets
        self._clean()
        for path in asked.sets:
            self._transfer(path)
        indices = sample_of_all(self.images, asked.samples, self.seed)
        for target in self.targets if asked.attacks else ():
            source = Source(target, PRECISION, cuda_graph=True)
            for attack in asked.attacks:
                self._white_box(source, attack, indices)
        common = (self.targets, self.images, self._right, self.cells)
        options = {"batch_size": self.batch_size, "progress": self._progress}
        if asked.epsilons:
            from .protocols.noise import evaluate_noise

            epsilons = list(asked.epsilons)
            self._several("noise", lambda: evaluate_noise(*common, epsilons=epsilons, **options))
        if grids:
            from .protocols.shuffle import evaluate_shuffle

            self._several(
                "shuffled patches",
                lambda: evaluate_shuffle(*common, grids=grids, seed=self.seed, **options),
            )
        if asked.stylized:
            from .protocols.stylized import evaluate_stylized

            folder = asked.stylized
            self._several(
                "stylised images",
                lambda: evaluate_stylized(
                    self.targets, self.images, folder, self.cells, clean=self.clean, **options
                ),
            )
        if asked.boundary:
            from .protocols.boundary import evaluate_boundary

            few = self._right[: asked.boundary_samples]
            self._several(
                "decision-based score",
                lambda: evaluate_boundary(
                    self.targets, self.images, few, self.cells, attack=asked.boundary, **options
                ),
            )

    def everything(self) -> list[dict[str, Any]]:
        """The cells of the folder, those of earlier commands too, under the names of today.

        Raises:
            UserError: a file that is no cell.
        """
        today = {json.dumps([c["kind"], c["identity"]], sort_keys=True): c for c in self.results}
        names = {target.digest: shown_target(target) for target in self.targets}
        found = self.cells.all()
        for number, cell in enumerate(found):
            key = json.dumps([cell["kind"], cell["identity"]], sort_keys=True)
            shown = cell["results"].get("shown", {})
            shown |= names.get(cell["identity"].get("target"), {})
            found[number] = today.get(key, cell)
        return found

    def picture_samples(self, grids: list[int]) -> dict[str, Any]:
        """What :func:`scotoma.train.robustness.pictures.draw_all` takes as samples."""
        samples: dict[str, Any] = {}
        for number, path in enumerate(self._sets, 1):
            samples = example_samples(load_set(path), self.images, self.targets, self.clean)
            if samples:
                samples["set"] = number, len(self._sets)
                break
        if grids:
            # The same images in both pictures, for they share their labels.
            indices = samples.get("indices", self._right)
            samples |= shuffled_samples(self.images, indices, grids, self.seed)
        return samples

    def _clean(self) -> None:
        fingerprint = self.images.fingerprint(torch.arange(len(self.images)))
        for target in self.targets:
            self._one(
                f"{target.name}, clean images",
                lambda t=target: evaluate_clean(
                    t,
                    self.images,
                    self.cells,
                    clean=self.clean,
                    fingerprint=fingerprint,
                    advance=self.screen.advance,
                ),
            )

    def _transfer(self, path: Path) -> None:
        found = load_set(path)
        content = content_digest(found)
        common = self.targets if len(self.targets) > 1 else ()
        for target in self.targets:
            cell = self._one(
                f"{target.name} against {path.name}",
                lambda t=target: evaluate_transfer(
                    t,
                    found,
                    self.images,
                    self.cells,
                    batch_size=self.batch_size,
                    clean=self.clean,
                    common=common,
                    content=content,
                    advance=self.screen.advance,
                ),
            )
            for warning in cell["results"].get("warnings", ()) if cell else ():
                self.screen.line(f"warning: {target.name} against {path.name}: {warning}")

    def _white_box(self, source: Source, attack: Attack, indices: Tensor) -> None:
        self._one(
            f"{source.model.name}, white-box {attack.name}",
            lambda: evaluate_white_box(
                source,
                attack,
                self.images,
                indices,
                self.cells,
                batch_size=self.batch_size,
                advance=self.screen.advance,
            ),
        )

    def _one(self, text: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """The cell, or None if it could not be made."""
        made = self._several(text, lambda: [make()])
        return made[0] if made else None

    def _several(self, text: str, make: Callable[[], list[dict[str, Any]]]) -> list[dict]:
        self.screen.begin(text)
        try:
            made = make()
        except UserError as error:
            self.failures.append(str(error))
            self.screen.line(f"failed: {text}: {error}")
            return []
        self.results += made
        return made

    def _progress(self, done: int, total: int, text: str) -> None:
        """As protocols of several targets tell it."""
        if text != self._told:
            self._told = text
            self.screen.begin(text)
        self.screen.advance(done, total)
