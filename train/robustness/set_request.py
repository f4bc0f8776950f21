"""What determines an adversarial set, and what its file is called."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ...defective.attacks import Attack
from ...defective.errors import UserError
from ...defective.robustness import AdversarialSet, load_set
from ..store import slug
from .arithmetic import check_precision
from .images import TestImages
from .models import NamedModel
from .parts import Parts, differing

Pixels = Literal["float", "uint8"]

REQUEST_FORMAT = 1
"""Raised when attacks of equal settings make other images than before: old sets are not reused."""


@dataclass(frozen=True)
class SetRequest:
    """One adversarial set, before it is made. Arguments as those of :func:`make_set`."""

    model: NamedModel
    attack: Attack
    images: TestImages
    indices: Tensor
    path: Path
    pixels: Pixels = "float"
    precision: str = "float32"

    def __post_init__(self):
        if self.pixels not in ("float", "uint8"):
            raise UserError(f"--pixels is {self.pixels!r}; expected float or uint8")
        check_precision(self.precision, self.images.device)
        if not len(self.indices):
            raise UserError("no images to attack")
        if len(self.indices.unique()) < len(self.indices):
            raise UserError("indices: an image is asked for twice")

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that determines the set, as plain values: no paths, no display names."""
        order = hashlib.sha256(self.indices.numpy().tobytes()).hexdigest()[:32]
        found = {
            "format": REQUEST_FORMAT,
            "attack": self.attack.parameters(),
            "source": self.model.digest,
            "data": {
                "name": self.images.data.name,
                "number of images": len(self.indices),
                "indices": order,
                "fingerprint": self.images.fingerprint(self.indices),
            },
            "pixels": self.pixels,
            "precision": self.precision,
        }
        return json.loads(json.dumps(found))

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
        if self.finished() is None:
            Parts(self.path, self.identity).check()


def told_settings(attack: Attack) -> str:
    """The settings that are not the defaults, and eps: ``eps=8/255,steps=20``."""
    written = dict(item.split("=", 1) for item in str(attack).partition(":")[2].split(",") if item)
    usual = {item.name: item.default for item in fields(attack)}
    return ",".join(
        f"{key}={value}"
        for key, value in written.items()
        if key == "eps" or getattr(attack, key) != usual[key]
    )


def set_name(model: NamedModel, attack: Attack, pixels: Pixels = "float") -> str:
    """A file's name: ``standard--pgd-eps=8_255,steps=20.safetensors``."""
    told = "-".join(filter(None, [attack.name, told_settings(attack)]))
    rounded = "-uint8" if pixels == "uint8" else ""
    return f"{slug(model.name)}--{slug(told)}{rounded}.safetensors"
