"""The finished batches of an adversarial set that is being made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...defective.errors import UserError
from ...defective.robustness import AdversarialSet, load_set, save_set
from ...defective.robustness.adversarial_set import joined
from ...defective.serialization import atomic_path
from ..runfolder import LOCK, alone_in

REQUEST = "request.json"


class Parts:
    """The folder ``<file>.parts/`` beside an adversarial set's file, while it is being made.

    Each part is an adversarial set of some of the images, and request.json says what was asked
    for: a later command with the same request goes on with the images that are missing.

    Args:
        path: of the set. request: everything that determines it, plain values.
    """

    def __init__(self, path: Path, request: dict[str, Any]):
        self.folder = path.with_name(f"{path.name}.parts")
        self.request = request

    def check(self) -> None:
        """Raises UserError if the folder holds batches of another request, or is none."""
        if not self.folder.exists():
            return
        file = self.folder / REQUEST
        try:
            found = json.loads(file.read_text())
        except FileNotFoundError:
            if not list(self.folder.glob("part-*")):
                return  # stopped before it began
            found = None
        except (OSError, ValueError, RecursionError):
            found = None
        if found != self.request:
            raise UserError(
                f"{self.folder} holds batches of another request ({differing(found, self.request)})"
                "; finish that one, remove the folder, or give another --out"
            )

    @contextmanager
    def begin(self) -> Iterator[None]:
        """Make the folder, if it is not there, and keep other processes out of it.

        Raises UserError as :meth:`check`, or if an attack is running there; or OSError.
        """
        self.check()
        self.folder.mkdir(parents=True, exist_ok=True)
        with alone_in(self.folder, "the same attack"):
            if not (self.folder / REQUEST).is_file():
                with atomic_path(self.folder / REQUEST) as temporary:
                    temporary.write_text(json.dumps(self.request, indent=1) + "\n")
            yield

    def load(self) -> tuple[list[AdversarialSet], list[str]]:
        """The parts without a repeated image, and the damaged files' names; those are removed."""
        found: list[AdversarialSet] = []
        damaged = []
        seen = torch.zeros(0, dtype=torch.int64)
        for file in sorted(self.folder.glob("part-*.safetensors")):
            try:
                part = load_set(file)
            except UserError:
                damaged.append(file.name)
                file.unlink()
                continue
            part = part.subset(~torch.isin(part.indices, seen))
            if len(part):
                seen = torch.cat([seen, part.indices])
                found.append(part)
        return found, damaged

    def add(self, part: AdversarialSet) -> None:
        """Keep a finished batch. Raises OSError."""
        save_set(part, self.folder / f"part-{int(part.indices[0]):08}.safetensors")

    def remove(self) -> None:
        """Remove the folder, and nothing that is not its own."""
        for pattern in ("part-*.safetensors", ".*.tmp", REQUEST, LOCK):
            for file in self.folder.glob(pattern):
                file.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()


def in_order(parts: list[AdversarialSet], indices: Tensor) -> AdversarialSet:
    """The parts as one set, its images in the order of ``indices``; all have to be there."""
    whole = joined(parts)
    place = {index: row for row, index in enumerate(whole.indices.tolist())}
    return whole.subset(torch.tensor([place[index] for index in indices.tolist()]))


def differing(found: Any, wanted: dict[str, Any]) -> str:
    """In which values two requests differ, for people."""
    if not isinstance(found, dict):
        return "which cannot be read"
    lines = []
    for key in wanted:
        old, new = found.get(key), wanted[key]
        if isinstance(old, dict) and isinstance(new, dict):
            for inner in dict.fromkeys([*old, *new]):
                lines += _difference(f"{key} {inner}", old.get(inner), new.get(inner))
        else:
            lines += _difference(key, old, new)
    return "; ".join(lines[:3]) or "which has further settings"


def _difference(name: str, old: Any, new: Any) -> list[str]:
    if old == new:
        return []
    if name in ("source", "data indices", "data fingerprint"):  # hashes tell nobody anything
        return [f"another {name}"]
    return [f"{name}: {old} there, {new} here"]
