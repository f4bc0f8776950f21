"""Adversarial sets: made batch by batch, each batch kept, so that a stopped command goes on."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import __version__
from ...defective.attacks import FGSM, MIFGSM, PGD, Attack, Oracle
from ...defective.errors import UserError
from ...defective.robustness import AdversarialSet, save_set
from ...defective.robustness.adversarial_set import to_uint8
from ...defective.robustness.sanity import sanity_flags
from ..distributed import device_name
from .arithmetic import PRECISIONS, full_precision, memory_advice
from .images import TestImages
from .models import NamedModel
from .parts import Parts, in_order
from .set_request import Pixels, SetRequest


class Source:
    """A model to attack, and what is kept of it from batch to batch and from attack to attack.

    Args:
        model: the network or ensemble. precision: of autocast in attacks; verdicts are without.
        cuda_graph: on a GPU, launch a gradient at once in attacks that keep a batch together.
    """

    def __init__(self, model: NamedModel, precision: str = "float32", cuda_graph: bool = False):
        self.model, self.precision, self.cuda_graph = model, precision, cuda_graph
        self.warnings: list[str] | None = None
        self._oracles: dict[bool, Oracle] = {}

    def oracle(self, attack: Attack) -> Oracle:
        """One for all attacks, but for those whose batches shrink: each size would be captured."""
        graph = self.cuda_graph and keeps_batch(attack)
        if graph not in self._oracles:
            self._oracles[graph] = Oracle(self.model.model, PRECISIONS[self.precision], graph)
        return self._oracles[graph]


def make_set(
    source: NamedModel | Source,
    attack: Attack,
    images: TestImages,
    indices: Tensor,
    path: Path,
    *,
    batch_size: int = 250,
    pixels: Pixels = "float",
    precision: str = "float32",
    sampling: dict[str, Any] | None = None,
    say: Callable[[str], None] = lambda line: None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> AdversarialSet:
    """Attack test images, and leave the result in a file.

    Finished batches are kept in ``<path>.parts/`` until all are there, so that the same call goes
    on where an earlier one was stopped. A finished file of the same request is returned as it is.
    An image's key in the attack is its number in the test split: its random numbers, and so its
    result, depend neither on the batch nor on the choice of the other images.

    Args:
        source: the model; a :class:`Source` to keep what it holds over several calls (its
            precision has to be ``precision``).
        indices: int64 [N], numbers in the test split, each once. path: of the file.
        pixels: "uint8" rounds to the nearest of 256 levels, and the source is asked again.
        sampling: how the images were chosen, plain values for the file.
        say: gets lines for people. advance: gets (finished images, all) after each batch.

    Raises:
        UserError: bad arguments, a file of another request, a model that cannot be attacked, no
            memory. What was finished before is kept.
        OSError: a file cannot be written.
    """
    if isinstance(source, NamedModel):
        source = Source(source, precision)
    if source.precision != precision:
        raise UserError(f"precision is {precision!r}; the source is of {source.precision!r}")
    if batch_size < 1:
        raise UserError(f"--batch-size is {batch_size}; expected at least 1")
    request = SetRequest(source.model, attack, images, indices, path, pixels, precision)
    parts = Parts(path, request.identity)
    found = request.finished()
    if found is not None:
        version = found.details.get("versions", {}).get("scotoma", "?")
        say(f"{path} holds this set already (made by scotoma {version}): it is reused")
        parts.remove()  # left over if the end came between the file and this
        return found
    with parts.begin():
        _finish_parts(request, source, parts, batch_size, say, advance)
        finished, _ = parts.load()
        found = replace(
            in_order(finished, indices), details=_details(request, finished, sampling or {})
        )
        save_set(found, path)
        parts.remove()
    return found


def _finish_parts(request: SetRequest, source: Source, parts: Parts, batch_size, say, advance):
    """Attack the images that no part has."""
    finished, damaged = parts.load()
    for name in damaged:
        say(f"warning: {parts.folder / name} was damaged; its images are attacked again")
    total, left = len(request.indices), request.indices
    if finished:
        left = left[~torch.isin(left, torch.cat([part.indices for part in finished]))]
        say(f"going on: {total - len(left):,} of {total:,} images were finished before")
    del finished
    kept = "; finished batches are kept, and the same command goes on with the others"
    steady = keeps_batch(request.attack)
    with memory_advice(request.images.device, batch_size, kept), full_precision(steady):
        for indices, pixels, labels in request.images.batches(left, batch_size):
            if source.warnings is None:
                source.warnings = sanity_flags(source.model.model, pixels, labels)
                for warning in source.warnings:
                    say(f"warning: {source.model.name}: {warning}")
            parts.add(_attacked(request, source, indices, pixels, labels))
            left = left[len(indices) :]
            advance(total - len(left), total)


def _attacked(request: SetRequest, source: Source, indices, pixels, labels) -> AdversarialSet:
    """One batch."""
    start = time.perf_counter()
    try:
        oracle = source.oracle(request.attack)
        result = request.attack(oracle, pixels, labels, keys=indices)
    except UserError as error:
        raise UserError(f"{source.model.name}, {request.attack.name}: {error}") from None
    found, predictions = result.images.float(), result.predictions
    if request.pixels == "uint8":
        found = to_uint8(found)
        predictions = oracle.verdict(found.float() / 255)
    tensors = {
        "images": found,
        "indices": indices,
        "labels": labels,
        "clean_predictions": result.clean_predictions,
        "predictions": predictions,
        "unrounded_predictions": result.predictions,
        "status": result.status,
        "forwards": result.forwards,
        "backwards": result.backwards,
    }
    on_cpu = {name: tensor.cpu() for name, tensor in tensors.items()}  # waits for the device
    details = {
        "seconds": time.perf_counter() - start,
        "device": device_name(request.images.device),
        "warnings": source.warnings or [],
    }
    return AdversarialSet(**on_cpu, details=details)


def _details(request: SetRequest, parts: list[AdversarialSet], sampling: dict) -> dict[str, Any]:
    made = [part.details for part in parts]
    data = request.identity["data"]
    return {
        "attack": request.attack.parameters(),
        "attack_text": str(request.attack),
        "source": request.model.describe(),
        "data": {
            "name": data["name"],
            "split": "test",
            "fingerprint": data["fingerprint"],
            "images": len(request.images),
        },
        "pixels": request.pixels,
        "precision": request.precision,
        "sampling": sampling,
        "versions": {
            "scotoma": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "device": " and ".join(dict.fromkeys(m.get("device", "?") for m in made)),
        "seconds": sum(m.get("seconds", 0.0) for m in made),
        "warnings": list(dict.fromkeys(w for m in made for w in m.get("warnings", []))),
        "request": request.identity,
    }


def keeps_batch(attack: Attack) -> bool:
    """Whether all images of a batch stay to the end, so that its shape can be prepared for."""
    if isinstance(attack, PGD):
        return not attack.stop_when_fooled and attack.restarts == 1
    return isinstance(attack, (FGSM, MIFGSM))
