"""Seconds an image, of each network and kind of pass: measured once on a device, and kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import torch

from ....defective.serialization import atomic_path
from ....train.runfolder import SUMMARY
from ....train.summary import device_name
from ..graph.store import Store
from ..graph.training import Training
from .work import Network, What, network_of

Speeds = dict[tuple[Network, What], float]


def known_speeds(trainings: Iterable[Training], store: Store, device: torch.device) -> Speeds:
    """What was measured on this device before, and what finished trainings took on it."""
    return _stored(store, device) | _finished(trainings, store, device)


def keep(speeds: Speeds, store: Store, device: torch.device) -> None:
    """Write speeds, beside those of other devices. Raises OSError."""
    path = _path(store)
    content = _read(path)
    content[_machine(device)] = {_name(*key): value for key, value in speeds.items()}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def _stored(store: Store, device: torch.device) -> Speeds:
    found: Speeds = {}
    for name, value in _read(_path(store)).get(_machine(device), {}).items():
        try:
            values, what = json.loads(name)
            found[Network(**values), what] = float(value)
        except (ValueError, TypeError):
            continue  # of another version: it is measured again
    return found


def _finished(trainings: Iterable[Training], store: Store, device: torch.device) -> Speeds:
    """Seconds a training image, evaluation after each epoch and all that the loop does included."""
    found: Speeds = {}
    for training in trainings:
        if training.config.adversarial_eps:
            continue  # most of its time is the attack's
        try:
            summary = json.loads((training.path(store) / SUMMARY).read_text())
            if summary["device"] != device_name(device):
                continue
            images = int(summary["train_images"]) * int(summary["epochs"])
            speed = float(summary["train_s"]) / images
        except (OSError, ValueError, TypeError, KeyError, ZeroDivisionError):
            continue
        found[network_of(training, store), "train"] = speed
    return found


def _read(path: Path) -> dict:
    """A damaged file is a lost cache, no more."""
    try:
        content = json.loads(path.read_text())
        return {k: v for k, v in content.items() if isinstance(v, dict)}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def _path(store: Store) -> Path:
    return store.folder / "speeds.json"


def _machine(device: torch.device) -> str:
    return f"{device_name(device)}, torch {torch.__version__}"


def _name(network: Network, what: What) -> str:
    return json.dumps([asdict(network), what], sort_keys=True)


def measured(
    needed: Iterable[tuple[Network, What]],
    known: Speeds,
    device: torch.device,
    say: Callable[[str], None],
) -> Speeds:
    """``known``, and what it lacks of ``needed`` measured now."""
    from .measure import seconds_an_image

    found = dict(known)
    missing = [key for key in dict.fromkeys(needed) if key not in known]
    for number, (network, what) in enumerate(missing, 1):
        say(
            f"timing [{number}/{len(missing)}] {network.arch} {network.defects}, {what}, "
            f"{network.side} pixels"
        )
        found[network, what] = seconds_an_image(network, what, device)
    return found
