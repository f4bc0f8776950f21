"""What the files of a page's artefacts tell: devices, versions, seconds, numbers of images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ....defective.errors import UserError
from ....train.runfolder import SUMMARY
from ..experiment import Made
from ..graph.artefact import Artefact, closure
from ..graph.attacking import AdversarialImages, Sample
from ..graph.results import Result
from ..graph.training import Training


@dataclass(frozen=True)
class Facts:
    """Of everything that a page stands on, also what was made for another page.

    Attributes:
        artefacts: all of them, inputs first. told: what each one's file says of its making, by
            key; only of those that are there. seconds: measured, over all files.
        devices, versions, warnings: each once, in the order of the artefacts.
    """

    artefacts: tuple[Artefact, ...]
    told: Mapping[str, Mapping[str, Any]]
    seconds: float = 0.0
    devices: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def of(self, kind: type) -> list:
        """Artefacts of a kind."""
        return [artefact for artefact in self.artefacts if isinstance(artefact, kind)]


@dataclass
class _Found:
    seconds: float = 0.0
    devices: dict[str, None] = field(default_factory=dict)
    versions: dict[str, None] = field(default_factory=dict)
    warnings: dict[str, None] = field(default_factory=dict)

    def add(self, seconds: Any, versions: Any, device: Any = None, warnings: Any = ()) -> None:
        self.seconds += float(seconds or 0)
        if versions:
            self.versions[", ".join(f"{name} {number}" for name, number in versions.items())] = None
        if device:
            self.devices[str(device)] = None
        self.warnings |= {str(each): None for each in warnings or ()}


def read_facts(made: Made) -> Facts:
    """Raises UserError on a damaged file, which it names."""
    store = made.context.store
    artefacts = tuple(closure(made.experiment.wanted()))
    told: dict[str, Mapping[str, Any]] = {}
    found = _Found()
    for artefact in artefacts:
        if not artefact.is_done(store):
            continue
        path = artefact.path(store)
        try:
            told[artefact.key] = _read(artefact, path, made, found)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            if isinstance(error, UserError):
                raise
            reason = " ".join(str(error).split())
            raise UserError(f"{path}: damaged ({reason}); remove it to make it again") from None
        except SafetensorError as error:
            raise UserError(f"{path}: damaged ({error}); remove it to make it again") from None
    return Facts(
        artefacts,
        told,
        found.seconds,
        tuple(found.devices),
        tuple(found.versions),
        tuple(found.warnings),
    )


def _read(artefact: Artefact, path: Path, made: Made, found: _Found) -> Mapping[str, Any]:
    """What one file says; seconds, versions and devices are added to ``found``."""
    if isinstance(artefact, Training):
        summary = json.loads((path / SUMMARY).read_text())
        found.add(summary.get("train_s"), summary.get("versions"), summary.get("device"))
        return dict(summary)
    if isinstance(artefact, AdversarialImages):
        details = _set_details(path)
        found.add(*(details.get(key) for key in ("seconds", "versions", "device", "warnings")))
        return details
    if isinstance(artefact, Sample):
        return artefact.read(made.context.store)[1]
    if isinstance(artefact, Result):
        for cell in json.loads(path.read_text())["cells"]:
            by = dict(cell.get("made") or {})
            seconds = by.pop("seconds", 0)
            found.add(seconds, by, None, cell["results"].get("warnings"))
    return {}


def _set_details(path: Path) -> dict[str, Any]:
    """The details of an adversarial set, without its images."""
    with safe_open(str(path), framework="pt") as file:
        records = list((file.metadata() or {}).values())
    if len(records) != 1:
        raise ValueError("no adversarial set")
    return dict(json.loads(records[0])["details"])
