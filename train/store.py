"""Results in files: each is found again by what determines it, and made once."""

from __future__ import annotations

import errno
import hashlib
import json
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from .. import __version__
from ..defective.errors import UserError
from ..defective.robustness.rates import check_results, mean_over_draws
from ..defective.serialization import atomic_path, check_seal, seal

FORMAT = 1
"""Raised when equal settings come to mean another result: then nothing old is reused."""

_AGAIN = "remove it, and it is made again"


def key_of(*parts: Any) -> str:
    """16 hexadecimal digits, a hash of plain values."""
    text = json.dumps([FORMAT, *parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def slug(text: str, most: int = 90) -> str:
    """Text for a file's name; what is too long ends in a hash of it all."""
    plain = re.sub(r"[^A-Za-z0-9.,=+_-]+", "-", text.replace("/", "_"))
    if len(plain) <= most:
        return plain
    return f"{plain[: most - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def write_record(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Write plain values to a JSON file, whole or not at all, and return them with their digest.
    Raises OSError."""
    sealed = seal(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(sealed, indent=1) + "\n")
    return sealed


def read_record(path: Path, what: str, *keys: str, fix: str = _AGAIN) -> dict[str, Any]:
    """What :func:`write_record` wrote, with its digest (which older versions did not write).

    Args:
        what: the file is expected to be, for messages. keys: that the record must have.
        fix: what to do about another digest.

    Raises UserError if it cannot be read, is no such record, or was damaged or edited.
    """
    try:
        record = json.loads(path.read_text())
        if not isinstance(record, dict) or not set(keys) <= set(record):
            raise ValueError("keys are missing")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: no {what} ({error}); remove it") from None
    check_seal(record, path, fix)
    return record


def writable(out: Path, inside: str = "") -> Path:
    """``out``, with a folder ``inside`` of it, made and tried out. Raises UserError."""
    try:
        (out / inside).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out / inside):
            return out
    except OSError as error:
        reason = error.strerror or error
        if out.is_symlink() and not out.exists():
            reason = f"a link to {out.readlink()}, which is not there"
        raise UserError(f"--out {out}: cannot be written to ({reason}); give another") from None


@contextmanager
def disk_advice(out: Path, kept: str) -> Iterator[None]:
    """Errors of writing to ``out`` as UserErrors that say what is left of the work: ``kept``."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "space" in reason
        if not out.is_dir():
            text = f"{out} was removed meanwhile, with all it held; the same command begins anew"
        elif error.errno == errno.ENOENT and str(error.filename).startswith(str(out)):
            text = f"a folder in {out} was removed meanwhile; {kept}"
        elif full or error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            fix = "free some space" if full else "make it writable"
            text = f"{out} cannot be written to ({reason}): {fix}; {kept}"
        else:
            raise
        raise UserError(text) from None


def versions() -> dict[str, str]:
    """With what a result was made."""
    return {
        "scotoma": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


class Store:
    """A folder of results, which several processes and machines may use at the same time.

    A result of an evaluation, a *cell*, is a mapping with the keys ``kind`` (transfer, white-box,
    noise, ...), ``identity`` (everything that determines it, plain values), ``results`` (the
    numbers) and ``made`` (versions, seconds). Its file's name holds a hash of kind and identity, so
    that it is computed once, and an interrupted evaluation goes on where it stopped.

    Attributes:
        reused, computed: how many cells :meth:`get` found, and how many it made.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.reused = self.computed = 0

    @contextmanager
    def alone(self, key: str, wait: bool = True) -> Iterator[bool]:
        """Whether this process is the one that may make a thing; others wait, or hear False.

        The lock is the operating system's, and goes with a process that dies. Where the file system
        knows no locks it is as if nobody else were there.
        """
        path = self.folder / "locks" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            try:
                held.enter_context(FileLock(path, timeout=-1 if wait else 0))
            except Timeout:
                yield False
                return
            except OSError as error:
                if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                    raise
            yield True

    def path(self, kind: str, label: str, identity: Mapping[str, Any]) -> Path:
        """The file of a cell, whether it is there or not. The label is for people: a cell that
        was made under another one is found all the same."""
        key = key_of(kind, identity)
        short = re.sub(r"[^A-Za-z0-9.,+-]+", "-", label).strip("-")[:80]
        usual = self.folder / f"{kind}-{short}-{key}.json"
        return min(self.folder.glob(f"{kind}-*-{key}.json"), default=usual)

    def get(
        self,
        kind: str,
        label: str,
        identity: Mapping[str, Any],
        compute: Callable[[], Mapping[str, Any]],
        *,
        shown: Mapping[str, Any] | None = None,
    ) -> tuple[dict[str, Any], bool]:
        """(cell, whether it was there already); computed and written if it was not.

        Args:
            label: for people, goes into the file's name and into the cell.
            identity: plain values. compute: returns ``results``, plain values.
            shown: names for people, as ``results["shown"]``. Of a cell that was there these are
                the names of today, whatever things were called when it was made.

        Raises:
            UserError: the file that was there is no cell, or of something else than asked.
            OSError: it cannot be written.
        """
        path = self.path(kind, label, identity)
        if path.is_file():
            cell = self.read(path)
            if [cell["kind"], cell["identity"]] != json.loads(json.dumps([kind, identity])):
                raise UserError(
                    f"{path}: its content is of another result than its name; remove it, and it "
                    "is made again"
                )
            self.reused += 1
            if shown is not None:
                cell["results"]["shown"] = shown
            return cell, True
        start = time.perf_counter()
        results = compute()
        if shown is not None:
            results = {**results, "shown": shown}
        seconds = round(time.perf_counter() - start, 3)
        cell = {"format": FORMAT, "kind": kind, "label": label, "identity": identity}
        cell |= {"results": results, "made": {"seconds": seconds, **versions()}}
        cell = write_record(path, cell)
        self.computed += 1
        return cell, False

    def all(self) -> list[dict[str, Any]]:
        """Every cell of this format, in the order of the files' names; other files are left out.

        Raises UserError as :meth:`read`.
        """
        files = sorted(self.folder.glob(f"*-*-{'[0-9a-f]' * 16}.json"))
        cells = [self.read(path) for path in files]
        return [cell for cell in cells if cell["format"] == FORMAT]

    def read(self, path: Path) -> dict[str, Any]:
        """A cell whose numbers can be. Raises UserError if the file is none."""
        keys, what = ("format", "kind", "label", "identity", "results"), "result of an evaluation"
        cell = read_record(path, what, *keys)
        results = cell["results"]
        if not isinstance(results, dict) or not isinstance(cell["identity"], dict):
            raise UserError(f"{path}: no {what} (identity or results are no mapping); remove it")
        try:
            check_results(results)
            if cell["kind"] == "noise" and "per_draw" in results:
                # Version 0.1.0 counted every draw of an image as an image at first.
                results["accuracy"] = mean_over_draws(results["per_draw"])
        except (UserError, TypeError, KeyError, IndexError) as error:
            raise UserError(f"{path}: {error}; {_AGAIN}") from None
        return cell
