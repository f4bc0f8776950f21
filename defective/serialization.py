"""Models in files: safetensors with the specification inside, so that a file is all one needs.

What every file of scotoma's has in common is here too: it is replaced whole (:func:`atomic_path`)
and holds a digest of its content (:func:`seal`), which is checked when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes

from .errors import UserError
from .models import build
from .models.base import Network
from .spec import ModelSpec

_KEY, _FORMAT = "scotoma", 1


@contextmanager
def atomic_path(path: str | os.PathLike):
    """A temporary path beside ``path``, renamed over it if the block ends without an error.

    What was at ``path`` stays whole until then: a crash or a full disk leaves it untouched. An
    error leaves no temporary file; what a killed process leaves is named ``.NAME.*.tmp``.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes the file private; give it the mode that open() would have.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def _sync_folder(folder: Path) -> None:
    """Let a new name survive a power cut, where the file system can promise that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def seal(record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor] | None = None) -> dict:
    """``record`` with a ``digest`` (SHA-256) of itself and of ``tensors``, for a file.

    Args:
        record: nested mappings with keys of text or whole numbers, sequences, plain values and
            tensors. It may come back from JSON, safetensors or ``torch.save``: tuples as lists,
            keys as text.
        tensors: what the file holds beside the record.
    """
    return {**record, "digest": _digest(record, tensors)}


def check_seal(
    record: Mapping[str, Any],
    path: str | os.PathLike,
    fix: str,
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Raise UserError if the file's content is not what :func:`seal` saw; ``fix`` says what to do.

    This finds flipped bits and edits by hand, not a forger, who can write a digest too. A record
    without a digest is of a version that wrote none, and passes.
    """
    if "digest" in record and record["digest"] != _digest(record, tensors):
        raise UserError(
            f"{path}: damaged or edited: its content does not have the digest that was written "
            f"with it; {fix}"
        )


def _digest(record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor] | None) -> str:
    """The whole content but for the digest itself, every value preceded by its kind and length."""
    sha = hashlib.sha256()

    def update(value) -> None:
        if isinstance(value, Mapping):
            items = sorted(((str(k), v) for k, v in value.items()), key=lambda item: item[0])
            sha.update(b"{%d" % len(items))
            for key, each in items:
                update(key)
                update(each)
        elif isinstance(value, (list, tuple)):
            sha.update(b"[%d" % len(value))
            for each in value:
                update(each)
        elif isinstance(value, torch.Tensor):
            update([str(value.dtype), *value.shape])
            content = value.detach().cpu().contiguous().reshape(-1)
            sha.update(content.view(torch.uint8).numpy())
        else:
            text = json.dumps(value).encode()
            sha.update(b"%d:" % len(text) + text)

    update([{k: v for k, v in record.items() if k != "digest"}, tensors or {}])
    return sha.hexdigest()


def save_model(model: Network, path: str | os.PathLike, *, details: dict | None = None) -> None:
    """Write weights, statistics, masks and the specification to one safetensors file, atomically.

    Args:
        model: a network from :func:`scotoma.defective.create_model`, on any device.
        path: file to write; its folder must exist.
        details: further JSON values to keep in the file's metadata (accuracy, recipe, ...).

    Raises:
        OSError: the file cannot be written; what was at ``path`` is then untouched.
    """
    save_tensors(model.spec, model.state_dict(), path, details or {})


def save_tensors(
    spec: ModelSpec, state: Mapping[str, torch.Tensor], path: str | os.PathLike, details: dict
) -> None:
    """:func:`save_model` of a network that exists as a state dict only."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    record = seal({"format": _FORMAT, "spec": spec.as_dict(), "details": details}, tensors)
    with atomic_path(path) as temporary:
        temporary.write_bytes(safetensors_bytes(tensors, metadata={_KEY: json.dumps(record)}))


def load_model(path: str | os.PathLike, device: str | torch.device = "cpu") -> Network:
    """The network in a file that :func:`save_model` wrote, in evaluation mode.

    Nothing in the file is executed, and no memory is taken for more than the file holds.

    Raises:
        UserError: no such file, not a scotoma checkpoint, truncated, edited, or inconsistent.
    """
    record, tensors = _read(path, with_tensors=True)
    spec = _spec(record, path)
    try:
        # On the meta device a specification costs nothing, however large the network it claims.
        with torch.device("meta"):
            model = build(spec)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise UserError(f"{path}: {_one_line(error)}") from None
    # A network may have been saved after .half() or .double(): all of it, then.
    mean = tensors.get("mean")
    if mean is not None and mean.is_floating_point():
        model.to(mean.dtype)
    expected = {k: (v.shape, v.dtype) for k, v in model.state_dict().items()}
    found = {k: (v.shape, v.dtype) for k, v in tensors.items()}
    if expected != found:
        wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
        raise UserError(
            f"{path}: {len(wrong)} tensors do not fit the specification in the file "
            f"({spec.name}, {spec.defects}), first {wrong[0]!r}: the file is of another model or "
            "was edited"
        )
    check_seal(record, path, "take a copy of the file, or train again", tensors)
    # In memory of their own: where a file's tensors begin at odd addresses, a CPU's matrix products
    # sum in another order than those of the network that was saved.
    model.load_state_dict({k: t.clone() for k, t in tensors.items()}, assign=True)
    return model.to(device).eval()


def read_details(path: str | os.PathLike) -> tuple[ModelSpec, dict]:
    """Specification and details of a checkpoint, without its weights. Raises UserError."""
    record, _ = _read(path, with_tensors=False)
    details = record.get("details", {})
    return _spec(record, path), details if isinstance(details, dict) else {}


def _read(path, with_tensors: bool):
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()} if with_tensors else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        # torch.save writes a zip archive or, before 1.6, a bare pickle.
        with path.open("rb") as file:
            head = file.read(2)
        if head == b"PK" or head[:1] == b"\x80":
            raise UserError(
                f"{path}: this is a torch.save (pickle) file, which can run code when loaded; "
                "scotoma reads its own .safetensors checkpoints only"
            ) from None
        raise UserError(
            f"{path}: truncated or damaged, or not a safetensors file ({_one_line(error)})"
        ) from None
    try:
        record = json.loads(metadata[_KEY])
        if record["format"] != _FORMAT:
            raise UserError(
                f"{path}: checkpoint format {record['format']!r}; this version reads {_FORMAT}"
            )
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, RecursionError):
        raise UserError(
            f"{path}: a safetensors file without scotoma's model specification; only files "
            "written by scotoma.defective.save_model can be loaded"
        ) from None
    return record, tensors


def _spec(record: dict, path) -> ModelSpec:
    try:
        return ModelSpec.from_dict(record["spec"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        reason = _one_line(error)
        raise UserError(f"{path}: bad model specification in the file: {reason}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
