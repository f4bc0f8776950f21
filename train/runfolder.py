"""What a run leaves: one folder with everything to understand, load and continue it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..defective import save_model
from ..defective.errors import UserError
from ..defective.models.base import Network
from ..defective.serialization import atomic_path
from .config import TrainConfig
from .curves import draw_curves

CONFIG, STATE, SUMMARY = "config.yaml", "resume.pt", "summary.json"


class RunFolder:
    """``runs/<name>/``.

    =====================  =========================================================
    config.yaml            every setting, resolved
    metrics.jsonl          one line an epoch
    curves.png             training and test curves (the paper's Figure 14)
    tensorboard/           the same, as TensorBoard events
    last.safetensors       weights and masks after the last epoch: the reported model
    best.safetensors       those of the best epoch
    resume.pt              everything needed to continue
    summary.json           the result, written at the end
    =====================  =========================================================

    Every file but the TensorBoard events is replaced whole, so that none is ever half-written.
    """

    def __init__(self, path: Path):
        self.path = path
        self._events = None

    @classmethod
    def create(cls, config: TrainConfig) -> RunFolder:
        """Make the folder of a new run and write its settings.

        Raises:
            UserError: the folder holds something already, or cannot be made.
        """
        path = Path(config.out) / config.name
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise UserError(
                    f"{path} holds another run; choose another --name, or continue it with "
                    f"--resume {path}"
                )
            folder = cls(path)
            with atomic_path(path / CONFIG) as temporary:
                config.save(temporary)
        except OSError as error:
            raise UserError(
                f"cannot create {path}: {error.strerror}; choose another --out"
            ) from None
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run's folder. Raises UserError if there is none."""
        if not (path / CONFIG).is_file():
            raise UserError(f"{path}: no run to resume here ({CONFIG} is missing)")
        return cls(path)

    def save_state(self, state: dict[str, Any]) -> None:
        """Write what :meth:`load_state` returns.

        Raises:
            UserError: the disk is full or the folder not writable; the state saved before is whole.
        """
        self._write(STATE, lambda path: torch.save(state, path))

    def load_state(self) -> dict[str, Any] | None:
        """The saved state, or None if the run was stopped before it saved one.

        Nothing in the file is executed: tensors and plain values only.

        Raises:
            UserError: the file is damaged or holds anything else.
        """
        path = self.path / STATE
        if not path.is_file():
            return None
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises many types for damaged files
            raise UserError(
                f"{path}: damaged, or not a state that scotoma wrote ({_first_line(error)}); the "
                f"last finished epoch's weights are in {self.path / 'last.safetensors'}"
            ) from None

    def save_model(self, file: str, model: Network, details: Mapping[str, Any]) -> None:
        self._write(file, lambda path: save_model(model, path, details=dict(details)), atomic=True)

    def write_history(self, history: list[dict[str, Any]], title: str) -> None:
        """metrics.jsonl and curves.png, from all epochs so far."""
        lines = "".join(json.dumps(record) + "\n" for record in history)
        self._write("metrics.jsonl", lambda path: path.write_text(lines))
        if history:
            self._write("curves.png", lambda path: draw_curves(history, path, title))

    def write_events(self, record: Mapping[str, Any]) -> None:
        """One epoch to TensorBoard; a resumed run overwrites the epochs it repeats."""
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(self.path / "tensorboard", purge_step=record["epoch"])
        for key, value in record.items():
            if key != "epoch":
                self._events.add_scalar(key, value, record["epoch"])
        self._events.flush()

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        text = json.dumps(summary, indent=2) + "\n"
        self._write(SUMMARY, lambda path: path.write_text(text))

    def close(self) -> None:
        if self._events is not None:
            self._events.close()

    def _write(self, file: str, write, atomic: bool = False) -> None:
        target = self.path / file
        try:
            if atomic:
                write(target)
            else:
                with atomic_path(target) as temporary:
                    write(temporary)
        except (OSError, RuntimeError) as error:  # torch.save turns a full disk into RuntimeError
            reason = getattr(error, "strerror", None) or _first_line(error)
            raise UserError(
                f"could not save {target}: {reason}; what was saved before is whole. Free some "
                f"space, then continue with: scotoma train --resume {self.path}"
            ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def free_name(out: Path, name: str) -> str:
    """``name``, or ``name-2``, ``name-3``, ...: the first that no folder has."""
    number, candidate = 1, name
    while (out / candidate).exists() and any((out / candidate).iterdir()):
        number += 1
        candidate = f"{name}-{number}"
    return candidate
