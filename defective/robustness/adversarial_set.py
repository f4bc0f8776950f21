"""Adversarial images in a file: made once, used against every target."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from ..errors import UserError
from ..serialization import atomic_path

_KEY, _FORMAT = "scotoma-adversarial-set", 1


@dataclass(frozen=True)
class AdversarialSet:
    """What an attack made of images of a data set, image by image.

    Everything is keyed by ``indices``, the images' numbers in the data set's test split; nothing
    is ever matched by position with anything outside this object.

    Attributes:
        images: [N,C,H,W], pixels in [0,1] as float32, or uint8 levels.
        indices, labels: int64 [N], number in the test split and true class.
        clean_predictions: int64 [N], the source's classes for the original images.
        predictions: int64 [N], its classes for ``images`` as they are here, rounded if they are.
        unrounded_predictions: int64 [N], its classes before rounding.
        status: uint8 [N] of :class:`scotoma.defective.attacks.Status`, before rounding.
        forwards, backwards: int64 [N], passes spent on each image.
        details: plain values: attack, source, data, pixels, versions.
    """

    images: Tensor
    indices: Tensor
    labels: Tensor
    clean_predictions: Tensor
    predictions: Tensor
    unrounded_predictions: Tensor
    status: Tensor
    forwards: Tensor
    backwards: Tensor
    details: dict[str, Any]

    def __post_init__(self):
        for item in tensor_fields():
            value = getattr(self, item)
            if len(value) != len(self.indices):
                raise UserError(
                    f"adversarial set: {item} has {len(value)} entries for {len(self.indices)} "
                    "images"
                )
        if len(self.indices.unique()) != len(self.indices):
            raise UserError("adversarial set: an image of the data set is there twice")
        if self.images.dim() != 4 or self.images.dtype not in (torch.float32, torch.uint8):
            raise UserError(
                f"adversarial set: images are {tuple(self.images.shape)} {self.images.dtype}; "
                "expected float32 or uint8 [N,C,H,W]"
            )

    def __len__(self) -> int:
        return len(self.indices)

    def pixels(self, rows: slice | Tensor = slice(None)) -> Tensor:
        """Images as float32 [n,C,H,W] in [0,1]."""
        part = self.images[rows]
        return part.float() / 255 if part.dtype == torch.uint8 else part

    def subset(self, rows: Tensor) -> AdversarialSet:
        """Some of the images, by their places here: int64 or bool."""
        return replace(self, **{name: getattr(self, name)[rows] for name in tensor_fields()})


def tensor_fields() -> list[str]:
    """Names of the tensors of a set, each with one entry an image."""
    return [item.name for item in fields(AdversarialSet) if item.name != "details"]


def to_uint8(images: Tensor) -> Tensor:
    """Pixels in [0,1] rounded to the nearest of 256 levels (never truncated): uint8."""
    return (images * 255).round().to(torch.uint8)


def joined(parts: list[AdversarialSet]) -> AdversarialSet:
    """Several sets as one, with the first one's details."""
    tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in tensor_fields()}
    return AdversarialSet(**tensors, details=parts[0].details)


def save_set(found: AdversarialSet, path: str | os.PathLike) -> None:
    """Write a set to one safetensors file, atomically. Raises OSError."""
    tensors = {name: getattr(found, name).cpu().contiguous() for name in tensor_fields()}
    record = json.dumps({"format": _FORMAT, "details": found.details})
    with atomic_path(path) as temporary:
        temporary.write_bytes(safetensors_bytes(tensors, metadata={_KEY: record}))


def load_set(path: str | os.PathLike) -> AdversarialSet:
    """The set in a file that :func:`save_set` wrote. Nothing in the file is executed.

    Raises:
        UserError: no such file, damaged, no adversarial set, or tensors that do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such adversarial set; make it with: scotoma attack")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: truncated or damaged, or no safetensors file ({reason})"
        ) from None
    try:
        record = json.loads(metadata[_KEY])
        version, details = record["format"], record["details"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise UserError(
            f"{path}: a safetensors file, but no adversarial set of scotoma's"
        ) from None
    if version != _FORMAT:
        raise UserError(f"{path}: adversarial set of format {version!r}; this version reads 1")
    if set(tensors) != set(tensor_fields()) or not isinstance(details, dict):
        raise UserError(f"{path}: an adversarial set with missing or unknown tensors")
    for name, value in tensors.items():
        whole = name not in ("images", "status")
        if (name != "images" and value.dim() != 1) or (whole and value.dtype != torch.int64):
            raise UserError(f"{path}: {name} is {tuple(value.shape)} {value.dtype}; damaged")
    try:
        found = AdversarialSet(**tensors, details=details)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    least, most = found.images.aminmax() if len(found) else (0, 0)
    if found.images.dtype == torch.float32 and not (least >= 0 and most <= 1):
        raise UserError(f"{path}: pixels outside [0,1]")
    return found
