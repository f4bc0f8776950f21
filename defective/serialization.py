"""Models in files: safetensors with the specification inside, so that a file is all one needs."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

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

    What was at ``path`` stays whole until then: a crash or a full disk leaves it untouched, and
    leaves no temporary file behind.
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
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save_model(model: Network, path: str | os.PathLike, *, details: dict | None = None) -> None:
    """Write weights, statistics, masks and the specification to one safetensors file, atomically.

    Args:
        model: a network from :func:`scotoma.defective.create_model`, on any device.
        path: file to write; its folder must exist.
        details: further JSON values to keep in the file's metadata (accuracy, recipe, ...).

    Raises:
        OSError: the file cannot be written; what was at ``path`` is then untouched.
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    record = {"format": _FORMAT, "spec": model.spec.as_dict(), "details": details or {}}
    with atomic_path(path) as temporary:
        temporary.write_bytes(safetensors_bytes(tensors, metadata={_KEY: json.dumps(record)}))


def load_model(path: str | os.PathLike, device: str | torch.device = "cpu") -> Network:
    """The network in a file that :func:`save_model` wrote, in evaluation mode.

    Nothing in the file is executed.

    Raises:
        UserError: no such file, not a scotoma checkpoint, truncated, or inconsistent.
    """
    record, tensors = _read(path, with_tensors=True)
    model = build(_spec(record, path))
    expected = {k: (v.shape, v.dtype) for k, v in model.state_dict().items()}
    found = {k: (v.shape, v.dtype) for k, v in tensors.items()}
    if expected != found:
        wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
        raise UserError(
            f"{path}: {len(wrong)} tensors do not fit the specification in the file "
            f"({model.spec.name}, {model.spec.defects}), first {wrong[0]!r}: the file is of "
            "another model or was edited"
        )
    model.load_state_dict(tensors)
    return model.to(device).eval()


def read_details(path: str | os.PathLike) -> tuple[ModelSpec, dict]:
    """Specification and details of a checkpoint, without its weights. Raises UserError."""
    record, _ = _read(path, with_tensors=False)
    return _spec(record, path), record.get("details", {})


def _read(path, with_tensors: bool):
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    with path.open("rb") as file:
        head = file.read(4)
    # torch.save writes a zip archive or, before 1.6, a bare pickle.
    if head[:2] == b"PK" or head[:1] == b"\x80":
        raise UserError(
            f"{path}: this is a torch.save (pickle) file, which can run code when loaded; scotoma "
            "reads its own .safetensors checkpoints only"
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()} if with_tensors else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: truncated or damaged, or not a safetensors file ({error})"
        ) from error
    try:
        record = json.loads(metadata[_KEY])
        if record["format"] != _FORMAT:
            raise UserError(
                f"{path}: checkpoint format {record['format']!r}; this version reads {_FORMAT}"
            )
        return record, tensors
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path}: a safetensors file without scotoma's model specification; only files "
            "written by scotoma.defective.save_model can be loaded"
        ) from error


def _spec(record: dict, path) -> ModelSpec:
    try:
        return ModelSpec.from_dict(record["spec"])
    except (UserError, KeyError, TypeError) as error:
        raise UserError(f"{path}: {error}") from error
