"""Adversarial sets: made batch by batch, each batch kept, so that a stopped command goes on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ...defective.attacks import FGSM, MIFGSM, PGD, Attack, AttackResult, Oracle
from ...defective.errors import UserError
from ...defective.robustness import AdversarialSet, load_set, save_set
from ...defective.robustness.adversarial_set import joined, to_uint8
from ...defective.robustness.sanity import sanity_flags
from ...defective.serialization import atomic_path
from ..distributed import device_name
from ..runfolder import LOCK, alone_in
from ..store import slug, versions
from .images import TestImages
from .models import PRECISIONS, NamedModel, full_precision, memory_advice
from .tables import flat, written

Pixels = Literal["float", "uint8"]

REQUEST_FORMAT = 1
"""Raised when attacks of equal settings make other images than before: old sets are not reused."""
_REQUEST = "request.json"


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

    def attacked(
        self, attack: Attack, pixels: Tensor, labels: Tensor, keys: Tensor
    ) -> AttackResult:
        """A batch. Raises UserError that names model and attack."""
        try:
            return attack(self.oracle(attack), pixels, labels, keys=keys)
        except UserError as error:
            raise UserError(f"{self.model.name}, {attack.name}: {error}") from None


def keeps_batch(attack: Attack) -> bool:
    """Whether all images of a batch stay to the end, so that its shape can be prepared for."""
    if isinstance(attack, PGD):
        return not attack.stop_when_fooled and attack.restarts == 1
    return isinstance(attack, (FGSM, MIFGSM))


@dataclass(frozen=True)
class SetRequest:
    """One adversarial set, before and while it is made.

    Until all are there, finished batches are in the folder ``<path>.parts/``: adversarial sets of
    some of the images each, and request.json, which says what was asked for.
    """

    model: NamedModel
    attack: Attack
    images: TestImages
    indices: Tensor
    path: Path
    pixels: Pixels = "float"
    precision: str = "float32"

    def __post_init__(self):
        if self.pixels not in get_args(Pixels):
            raise UserError(f"--pixels is {self.pixels!r}; expected float or uint8")

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that determines the set, as plain values: no paths, no display names."""
        found = {
            "format": REQUEST_FORMAT,
            "attack": self.attack.parameters(),
            "source": self.model.digest,
            "data": {
                "name": self.images.data.name,
                "number of images": len(self.indices),
                "indices": hashlib.sha256(self.indices.numpy().tobytes()).hexdigest()[:32],
                "fingerprint": self.images.fingerprint(self.indices),
            },
            "pixels": self.pixels,
            "precision": self.precision,
        }
        return json.loads(json.dumps(found))

    @property
    def folder(self) -> Path:
        return self.path.with_name(f"{self.path.name}.parts")

    def finished(self) -> AdversarialSet | None:
        """The set, if it is there. Raises UserError if the file is of another request."""
        if not self.path.exists():
            return None
        found = load_set(self.path)
        there = found.details.get("request")
        if there != self.identity:
            raise UserError(
                f"{self.path} is another set ({differing(there, self.identity)}); give another "
                "--out, or remove the file"
            )
        return found

    def check(self) -> None:
        """Raises UserError if what is at the path, or half made beside it, is of another one."""
        file = self.folder / _REQUEST
        if self.finished() is not None or not (file.exists() or list(self.folder.glob("part-*"))):
            return
        there = None
        with suppress(OSError, ValueError, RecursionError):
            there = json.loads(file.read_text())
        if there != self.identity:
            raise UserError(
                f"{self.folder} holds batches of another request "
                f"({differing(there, self.identity)}); finish that one, remove the folder, or give "
                "another --out"
            )

    @contextmanager
    def begin(self) -> Iterator[None]:
        """Make the folder of parts, if it is not there, and keep other processes out of it.

        Raises UserError as :meth:`check`, or if an attack is running there; or OSError.
        """
        text = json.dumps(self.identity, indent=1) + "\n"
        self.check()
        self.folder.mkdir(parents=True, exist_ok=True)
        with alone_in(self.folder, "the same attack"):
            if not (self.folder / _REQUEST).is_file():
                with atomic_path(self.folder / _REQUEST) as temporary:
                    temporary.write_text(text)
            yield

    def parts(self, say: Callable[[str], None]) -> list[AdversarialSet]:
        """The parts without a repeated image. Damaged files are told of and removed."""
        found: list[AdversarialSet] = []
        seen = torch.zeros(0, dtype=torch.int64)
        for file in sorted(self.folder.glob("part-*.safetensors")):
            try:
                part = load_set(file)
            except UserError:
                say(f"warning: {file} was damaged; its images are attacked again")
                file.unlink()
                continue
            part = part.subset(~torch.isin(part.indices, seen))
            if len(part):
                seen = torch.cat([seen, part.indices])
                found.append(part)
        return found

    def remove_parts(self) -> None:
        """Remove the folder, and nothing that is not its own."""
        for pattern in ("part-*.safetensors", ".*.tmp", _REQUEST, LOCK):
            for file in self.folder.glob(pattern):
                file.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()


def make_set(
    source: Source,
    attack: Attack,
    images: TestImages,
    indices: Tensor,
    path: Path,
    *,
    batch_size: int = 250,
    pixels: Pixels = "float",
    sampling: dict[str, Any] | None = None,
    say: Callable[[str], None] = lambda line: None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> AdversarialSet:
    """Attack test images, and leave the result in a file.

    The same call goes on where an earlier one was stopped (see :class:`SetRequest`), and returns a
    finished file of the same request as it is. An image's key in the attack is its number in the
    test split: its random numbers, and so its result, depend neither on the batch nor on the choice
    of the other images.

    Args:
        indices: int64 [N], numbers in the test split, each once. path: of the file.
        pixels: "uint8" rounds to the nearest of 256 levels, and the source is asked again.
        sampling: how the images were chosen, plain values for the file.
        say: gets lines for people. advance: gets (finished images, all) after each batch.

    Raises:
        UserError: bad arguments, a file of another request, a model that cannot be attacked, no
            memory. What was finished before is kept.
        OSError: a file cannot be written.
    """
    request = SetRequest(source.model, attack, images, indices, path, pixels, source.precision)
    found = request.finished()
    if found is not None:
        version = found.details.get("versions", {}).get("scotoma", "?")
        say(f"{path} holds this set already (made by scotoma {version}): it is reused")
        request.remove_parts()  # left over if the end came between the file and this
        return found
    with request.begin():
        _finish_parts(request, source, batch_size, say, advance)
        parts = request.parts(say)
        whole = joined(parts)
        place = {index: row for row, index in enumerate(whole.indices.tolist())}
        ordered = whole.subset(torch.tensor([place[index] for index in indices.tolist()]))
        found = replace(ordered, details=_details(request, parts, sampling or {}))
        save_set(found, path)
        request.remove_parts()
    return found


def _finish_parts(request: SetRequest, source: Source, batch_size, say, advance) -> None:
    """Attack the images that no part has."""
    total, left = len(request.indices), request.indices
    if finished := [part.indices for part in request.parts(say)]:
        left = left[~torch.isin(left, torch.cat(finished))]
        say(f"going on: {total - len(left):,} of {total:,} images were finished before")
    kept = "; finished batches are kept, and the same command goes on with the others"
    steady = keeps_batch(request.attack)
    with memory_advice(request.images.device, batch_size, kept), full_precision(steady):
        for indices, pixels, labels in request.images.batches(left, batch_size):
            if source.warnings is None:
                source.warnings = sanity_flags(source.model.model, pixels, labels)
                for warning in source.warnings:
                    say(f"warning: {source.model.name}: {warning}")
            part = _attacked(request, source, indices, pixels, labels)
            save_set(part, request.folder / f"part-{int(indices[0]):08}.safetensors")
            left = left[len(indices) :]
            advance(total - len(left), total)


def _attacked(request: SetRequest, source: Source, indices, pixels, labels) -> AdversarialSet:
    """One batch."""
    start = time.perf_counter()
    result = source.attacked(request.attack, pixels, labels, indices)
    found, predictions = result.images.float(), result.predictions
    if request.pixels == "uint8":
        found = to_uint8(found)
        predictions = source.oracle(request.attack).verdict(found.float() / 255)
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
        "versions": versions(),
        "device": " and ".join(dict.fromkeys(m.get("device", "?") for m in made)),
        "seconds": sum(m.get("seconds", 0.0) for m in made),
        "warnings": list(dict.fromkeys(w for m in made for w in m.get("warnings", []))),
        "request": request.identity,
    }


def differing(found: Any, wanted: dict[str, Any]) -> str:
    """In which values two requests differ, for people."""
    if not isinstance(found, dict):
        return "which cannot be read"
    lines, there, here = [], flat(found), flat(wanted)
    for key in {**here, **there}:
        old, new, name = there.get(key, "none"), here.get(key, "none"), key.replace(".", " ")
        if key in ("source", "data.indices", "data.fingerprint"):  # hashes tell nobody anything
            lines += [f"another {name}"] * (old != new)
        elif old != new:
            lines.append(f"{name}: {old} there, {new} here")
    return "; ".join(lines[:3])


def told_settings(attack: Attack) -> str:
    """The settings that are not the defaults, and eps: ``eps=8/255,steps=20``."""
    usual = {item.name: item.default for item in fields(attack)}
    return ",".join(
        f"{key}={value}"
        for key, value in written(str(attack))[1].items()
        if key == "eps" or getattr(attack, key) != usual[key]
    )


def set_name(model: NamedModel, attack: Attack, pixels: Pixels = "float") -> str:
    """A file's name: ``standard--pgd-eps=8_255,steps=20.safetensors``."""
    told = "-".join(filter(None, [attack.name, told_settings(attack)]))
    rounded = "-uint8" if pixels == "uint8" else ""
    return f"{slug(model.name)}--{slug(told)}{rounded}.safetensors"
