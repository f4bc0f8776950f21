"""What a run leaves: one folder with everything to understand, load and continue it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..defective.errors import UserError
from ..defective.serialization import atomic_path, check_seal, save_tensors, seal
from ..defective.spec import ModelSpec
from .config import TrainConfig
from .curves import draw_curves

CONFIG, STATE, SUMMARY = "config.yaml", "resume.pt", "summary.json"
WEIGHTS = "last.safetensors"


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

    def create(self, config: TrainConfig) -> None:
        """Make the folder of a new run and write its settings.

        Raises:
            UserError: the folder holds something already, or cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._clear_leftovers()
            if (self.path / CONFIG).is_file():
                raise UserError(
                    f"{self.path} holds another run; choose another --name, or continue it with "
                    f"--resume {self.path}"
                )
            if any(self.path.iterdir()):
                raise UserError(
                    f"{self.path} is not empty, and holds no run to continue ({CONFIG} is "
                    "missing); put that back, move away what is there, or choose another --name"
                )
            self._write_config(config)
        except OSError as error:
            raise UserError(
                f"cannot create {self.path}: {error.strerror}; choose another --out"
            ) from None

    def _write_config(self, config: TrainConfig) -> None:
        with atomic_path(self.path / CONFIG) as temporary:
            config.save(temporary)

    def change_config(self, config: TrainConfig) -> None:
        """Write the settings with which a run goes on."""
        with self._saving(CONFIG):
            self._write_config(config)

    def reopen(self) -> None:
        """Check that there is a run to continue. Raises UserError if there is none."""
        if not (self.path / CONFIG).is_file():
            raise UserError(f"{self.path}: no run to resume here ({CONFIG} is missing)")
        self._clear_leftovers()

    def _clear_leftovers(self) -> None:
        """Remove what a killed process was just writing; the names are ``atomic_path``'s."""
        for path in self.path.glob(".*.tmp"):
            path.unlink(missing_ok=True)

    def save_state(self, state: dict[str, Any]) -> None:
        """Write what :meth:`load_state` returns.

        Raises:
            UserError: the disk is full or the folder not writable; the state saved before is whole.
        """
        content = io.BytesIO()  # torch.save to a file reports a full disk in words of its own
        torch.save(seal(state), content)
        self._replace(STATE, lambda path: path.write_bytes(content.getbuffer()))

    def load_state(self) -> dict[str, Any] | None:
        """The saved state, or None if the run was stopped before it saved one.

        Nothing in the file is executed: tensors and plain values only.

        Raises:
            UserError: the file is damaged or holds anything else.
        """
        path = self.path / STATE
        if not path.is_file():
            return None
        kept = f"the last finished epoch's weights are in {self.path / WEIGHTS}"
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises many types for damaged files
            raise UserError(
                f"{path}: damaged, or not a state that scotoma wrote ({_first_line(error)}); {kept}"
            ) from None
        if isinstance(state, Mapping):
            check_seal(state, path, kept)
        return state

    def save_model(self, file: str, spec: ModelSpec, tensors, details: Mapping[str, Any]) -> None:
        with self._saving(file):
            save_tensors(spec, tensors, self.path / file, dict(details))

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """All epochs so far, so that a resumed run replaces what it repeats."""
        lines = "".join(json.dumps(record) + "\n" for record in history)
        self._replace("metrics.jsonl", lambda path: path.write_text(lines))

    def write_curves(self, history: list[dict[str, Any]], title: str) -> None:
        self._replace("curves.png", lambda path: draw_curves(history, path, title))

    def write_events(self, record: Mapping[str, Any]) -> None:
        """One epoch to TensorBoard; a resumed run overwrites the epochs it repeats."""
        with self._saving("tensorboard"):
            if self._events is None:
                from torch.utils.tensorboard import SummaryWriter

                self._events = SummaryWriter(self.path / "tensorboard", purge_step=record["epoch"])
            for key, value in record.items():
                if key != "epoch":
                    self._events.add_scalar(key, value, record["epoch"])
            self._events.flush()

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        text = json.dumps(summary, indent=2) + "\n"
        self._replace(SUMMARY, lambda path: path.write_text(text))

    def withdraw_summary(self) -> None:
        """A run that is not finished has no summary; an old one is kept under another name."""
        path = self.path / SUMMARY
        if path.is_file():
            with self._saving(SUMMARY):
                path.replace(path.with_name("summary-before.json"))

    def close(self) -> None:
        if self._events is not None:
            self._events.close()

    def _replace(self, file: str, write) -> None:
        with self._saving(file), atomic_path(self.path / file) as temporary:
            write(temporary)

    @contextmanager
    def _saving(self, file: str):
        try:
            yield
        except OSError as error:
            raise UserError(
                f"could not save {self.path / file}: {error.strerror or error}; what was saved "
                "before is whole. Free some space, then continue with: scotoma train --resume "
                f"{self.path}"
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
