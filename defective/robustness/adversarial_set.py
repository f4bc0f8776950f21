"""Adversarial images in a file: made once, used against every target."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..attacks.base import Status
from ..errors import UserError
from ..serialization import atomic_path, check_seal, read_record, seal

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

    Raises:
        UserError: tensors of wrong types, lengths or ranges, an image that is there twice, or
            pixels outside [0,1].
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
        shape, dtype = tuple(self.images.shape), self.images.dtype
        if len(shape) != 4 or 0 in shape[1:] or dtype not in (torch.float32, torch.uint8):
            raise UserError(
                f"adversarial set: images are {shape} {dtype}; expected float32 or uint8 [N,C,H,W]"
            )
        for name in tensor_fields()[1:]:
            value, dtype = getattr(self, name), torch.uint8 if name == "status" else torch.int64
            if value.dtype != dtype or value.shape != (len(self.images),):
                raise UserError(
                    f"adversarial set: {name} is {tuple(value.shape)} {value.dtype}; expected "
                    f"{dtype} with one entry for each of {len(self.images)} images"
                )
            if len(value) and int(value.min()) < 0:
                raise UserError(f"adversarial set: {name} has {int(value.min())}, below 0")
        if len(self.indices.unique()) != len(self.indices):
            raise UserError("adversarial set: an image of the data set is there twice")
        if not len(self):
            return
        if int(self.status.max()) > max(Status):
            raise UserError(f"adversarial set: status {int(self.status.max())} is unknown")
        least, most = (float(v) for v in self.images.aminmax())
        if self.images.is_floating_point() and not (least >= 0 and most <= 1):
            raise UserError(f"adversarial set: pixels from {least:.4g} to {most:.4g}, not in [0,1]")

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def fooled(self) -> Tensor:
        """bool [N]: the source is right on the original, and wrong on the image as it is here."""
        return (self.clean_predictions == self.labels) & (self.predictions != self.labels)

    def pixels(self, rows: slice | Tensor = slice(None)) -> Tensor:
        """Images as float32 [n,C,H,W] in [0,1]."""
        part = self.images[rows]
        return part.float() / 255 if part.dtype == torch.uint8 else part

    def subset(self, rows: Tensor) -> AdversarialSet:
        """Some of the images, by their places here: int64 or bool."""
        return replace(self, **{name: getattr(self, name)[rows] for name in tensor_fields()})


def tensor_fields() -> list[str]:
    """Names of the tensors of a set, each with one entry an image; the images come first."""
    return [item.name for item in fields(AdversarialSet) if item.name != "details"]


def to_uint8(images: Tensor) -> Tensor:
    """Pixels in [0,1] rounded to the nearest of 256 levels (never truncated): uint8."""
    return (images * 255).round().to(torch.uint8)


def joined(parts: Sequence[AdversarialSet]) -> AdversarialSet:
    """Several sets as one, with the first one's details.

    Raises:
        UserError: no sets, images of different shapes or types, or an image that is in two.
    """
    if not parts:
        raise UserError("adversarial set: no parts to join")
    kinds = {(tuple(part.images.shape[1:]), part.images.dtype) for part in parts}
    if len(kinds) > 1:
        raise UserError(f"adversarial set: parts differ: {sorted(map(str, kinds))}")
    tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in tensor_fields()}
    return AdversarialSet(**tensors, details=parts[0].details)


def save_set(found: AdversarialSet, path: str | os.PathLike) -> None:
    """Write a set to one safetensors file, atomically. Raises OSError."""
    tensors: dict[str, Tensor] = {}
    for name in tensor_fields():
        value = getattr(found, name).detach().cpu().contiguous()
        # The format refuses tensors that share memory, as classes before and after no rounding may.
        shared = {each.untyped_storage().data_ptr() for each in tensors.values()}
        tensors[name] = value.clone() if value.untyped_storage().data_ptr() in shared else value
    record = json.dumps(seal({"format": _FORMAT, "details": found.details}, tensors))
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, str(temporary), metadata={_KEY: record})
        except SafetensorError as error:  # a full disk, for example
            raise OSError(f"{path}: cannot be written ({error})") from None


def load_set(path: str | os.PathLike) -> AdversarialSet:
    """The set in a file that :func:`save_set` wrote. Nothing in the file is executed.

    Raises:
        UserError: no such file, damaged or edited, no adversarial set, or tensors that do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such adversarial set; make it with: scotoma attack")
    fix = "remove it and make the set again with: scotoma attack"
    record, tensors = read_record(path, _KEY, _FORMAT, "adversarial set", fix)
    details = record.get("details")
    if set(tensors) != set(tensor_fields()) or not isinstance(details, dict):
        raise UserError(f"{path}: an adversarial set with missing or unknown content")
    try:
        found = AdversarialSet(**tensors, details=details)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    check_seal(record, path, fix, tensors)
    return found
