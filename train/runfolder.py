"""What a run leaves: one folder with everything to understand, load and continue it."""

from __future__ import annotations

import errno
import io
import json
import os
import platform
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout

from ..defective.errors import UserError
from ..defective.serialization import atomic_path, check_seal, runs_in, save_tensors, seal
from ..defective.spec import ModelSpec
from .config import PictureFormat, TrainConfig
from .plots import save_as

if TYPE_CHECKING:
    from matplotlib.figure import Figure


CONFIG, STATE, SUMMARY = "config.yaml", "resume.pt", "summary.json"
WEIGHTS = "last.safetensors"
METRICS = "metrics.jsonl"
_RESULTS = (STATE, SUMMARY, "summary-before.json", WEIGHTS, "best.safetensors", METRICS, "curves.*")
LOCK = ".lock"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RunFolder:
    """``runs/<name>/``.

    =====================  =========================================================
    config.yaml            every setting, resolved
    metrics.jsonl          one line an epoch
    curves.png             training and test curves (the paper's Figure 14); or .pdf, .svg
    tensorboard/           the same, as TensorBoard events
    last.safetensors       weights and masks after the last epoch: the reported model
    best.safetensors       those of the best epoch
    resume.pt              everything needed to continue
    summary.json           the result, written at the end
    =====================  =========================================================

    Files are replaced whole, so that none is ever half-written; metrics.jsonl and the TensorBoard
    events grow. ``.lock`` is there while a training is, and is what a killed one leaves.
    """

    def __init__(self, path: Path):
        self.path = path
        self._events = None
        self._appends = False
        self._held = ExitStack()

    def hold(self) -> None:
        """Make the folder if it is not there, and keep other trainings out until :meth:`close`.

        Raises:
            UserError: a training is running there, or the folder cannot be made or written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot create {self.path}: {error.strerror}; choose another --out"
            ) from None
        self._held.enter_context(alone_in(self.path, "a training"))
        for name in (CONFIG, *_RESULTS):  # what a killed process was writing: ``atomic_path``'s
            for path in self.path.glob(f".{name}.*.tmp"):
                path.unlink(missing_ok=True)

    def create(self, config: TrainConfig) -> None:
        """Write a new run's settings, in place of all that another one left there.

        Raises:
            UserError: the folder holds something that is no run, or cannot be written to.
        """
        if not (self.path / CONFIG).is_file() and _holds_something(self.path):
            raise UserError(
                f"{self.path} is not empty, and holds no run to continue ({CONFIG} is "
                "missing); put that back, move away what is there, or choose another --name"
            )
        with self._saving(CONFIG):
            for name in _RESULTS:
                for path in self.path.glob(name):
                    path.unlink()
            if (self.path / "tensorboard").is_dir():
                shutil.rmtree(self.path / "tensorboard")
        self.write_config(config)  # last: until then the old settings say what was there

    def write_config(self, config: TrainConfig) -> None:
        self._replace(CONFIG, config.save)

    def check_run(self) -> None:
        """Check that there is a run to continue. Raises UserError if there is none."""
        if not (self.path / CONFIG).is_file():
            raise UserError(
                f"{self.path}: no run to resume here ({CONFIG} is missing){runs_in(self.path)}"
            )

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
            with zipfile.ZipFile(path) as archive:
                if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                    raise ValueError  # torch.save compresses nothing: it may be of any size
            state = torch.load(path, map_location="cpu", weights_only=True)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); {kept}") from None
        except Exception:  # of many types, some of which advise to execute what is in the file
            raise UserError(f"{path}: damaged, or not a state that scotoma wrote; {kept}") from None
        if isinstance(state, Mapping):
            check_seal(state, path, kept)
        return state

    def save_model(self, file: str, spec: ModelSpec, tensors, details: Mapping[str, Any]) -> None:
        with self._saving(file):
            save_tensors(spec, tensors, self.path / file, dict(details))

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """One line more; at first all epochs so far, so that a resumed run replaces what it repeats
        and what a killed one half wrote."""
        lines = [json.dumps(record) + "\n" for record in history[-1 if self._appends else 0 :]]
        if self._appends:
            with self._saving(METRICS), (self.path / METRICS).open("a") as file:
                file.writelines(lines)
        else:
            self._replace(METRICS, lambda path: path.write_text("".join(lines)))
            self._appends = True

    def write_curves(self, figure: Figure, picture_format: PictureFormat) -> None:
        with self._saving(f"curves.{picture_format}"):
            save_as(figure, self.path / "curves", picture_format)

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
        """Let others in."""
        if self._events is not None:
            self._events.close()
        self._held.close()

    def _replace(self, file: str, write) -> None:
        with self._saving(file), atomic_path(self.path / file) as temporary:
            write(temporary)

    @contextmanager
    def _saving(self, file: str):
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            if not self.path.is_dir():
                reason = "the folder was removed, renamed or unmounted while the training ran"
                fix = "If it still is somewhere, continue with: scotoma train --resume FOLDER"
            else:
                free = "Free some space" if error.errno in _FULL else "Mend that"
                fix = (
                    f"What was saved before is whole. {free}, then continue with: scotoma train "
                    f"--resume {self.path}"
                )
            raise UserError(f"could not save {self.path / file}: {reason}. {fix}") from error


@contextmanager
def alone_in(folder: Path, work: str, wait: bool = False) -> Iterator[None]:
    """Alone among processes with a folder, by a lock that goes with a process that dies.

    Where the file system knows no locks it is as if nobody else were there.

    Args:
        work: what else may be going on in the folder, for the message. wait: for its end.

    Raises:
        UserError: it is going on there, or the folder cannot be written to.
    """
    file = folder / LOCK
    lock = FileLock(file, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        holder = ""
        with suppress(OSError, ValueError):
            process, machine = file.read_text().split()[:2]
            holder = f" (process {process} on {machine})"
        raise UserError(
            f"{folder}: {work} is running there{holder}; wait for its end, or stop it first"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise UserError(f"{folder}: cannot be written to ({error.strerror})") from None
    try:
        if type(lock) is FileLock:  # elsewhere the library writes down the process itself
            with suppress(OSError):  # a full disk
                file.write_text(f"{os.getpid()} {platform.node()}\n")
        yield
    finally:
        with suppress(OSError):
            file.unlink()
        lock.release()


def _holds_something(folder: Path) -> bool:
    return any(path.name != LOCK for path in folder.iterdir())


def free_name(out: Path, name: str) -> str:
    """``name``, or ``name-2``, ``name-3``, ...: the first that no folder has."""
    number, candidate = 1, name
    while (out / candidate).exists() and _holds_something(out / candidate):
        number += 1
        candidate = f"{name}-{number}"
    return candidate
