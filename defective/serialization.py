"""Models in files: safetensors with the specification inside, so that a file is all one needs.

What every file of scotoma's has in common is here too: it is replaced whole (:func:`atomic_path`)
and holds a digest of its content (:func:`seal`), which is checked when it is read.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import nn

from .conversion import convert, logits_of, wrapped
from .errors import UserError
from .masks import check_masks, mask_sites, spec_of_masks
from .models import build
from .models.base import Network
from .models.foreign import Foreign, is_foreign, make
from .spec import Conversion, ModelSpec

_KEY, _FORMAT = "scotoma", 1
_LARGEST_IMAGE = 2**26


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


def save_model(model: nn.Module, path: str | os.PathLike, *, details: dict | None = None) -> None:
    """Write weights, statistics, masks and the specification to one safetensors file, atomically.

    If the masks are not those of the specification's ``mask_seed``, the file says None there.

    Args:
        model: a network from :func:`scotoma.defective.create_model` or
            :func:`scotoma.defective.convert`, on any device; compiled, or in a ``DataParallel``,
            ``DistributedDataParallel`` or ``AveragedModel``, it is the network inside that is
            saved.
        path: file to write; its folder must exist.
        details: further JSON values to keep in the file's metadata (accuracy, recipe, ...).

    Raises:
        UserError: another module, tensors that do not fit the network's specification, and that
            :func:`load_model` would refuse, or no such folder.
        OSError: the file cannot be written; what was at ``path`` is then untouched.
    """
    network = model
    while (inner := wrapped(network)) is not None:
        network = inner
    if not isinstance(getattr(network, "spec", None), (ModelSpec, Conversion)):
        raise UserError(
            f"model is a {type(network).__name__}; only networks of create_model and convert "
            "can be saved as a checkpoint"
        )
    if not Path(path).parent.is_dir():
        raise UserError(f"{path}: the folder {Path(path).parent} does not exist; make it first")
    spec = network.spec
    if isinstance(spec, Conversion):  # its last layer may have been replaced meanwhile
        spec = replace(spec, num_classes=logits_of(network, torch.zeros(1, *spec.input_shape)))
    save_tensors(spec, network.state_dict(), path, details or {}, network)


def save_tensors(
    spec: ModelSpec | Conversion,
    state: Mapping[str, torch.Tensor],
    path: str | os.PathLike,
    details: dict,
    network: nn.Module | None = None,
) -> None:
    """:func:`save_model` of a network that exists as a state dict only.

    network: a converted one, which only its own module can describe.
    """
    other = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if other:
        raise UserError(f"{path} is not written: {other[0]} is no tensor, and files hold no others")
    # The format refuses tensors that share memory, and blocks may be compiled each for itself.
    tensors = {
        k.replace("_orig_mod.", ""): v.detach().cpu().clone(memory_format=torch.contiguous_format)
        for k, v in state.items()
    }
    try:
        if isinstance(spec, ModelSpec) or is_foreign(spec.name):
            network = _skeleton(spec)
        _check_fit(network, tensors, spec)
        masks = {site: tensors[f"{site}.mask"] for site in mask_sites(network)}
        spec = spec_of_masks(network, masks)
        if spec.mask_seed is None:
            check_masks(network, masks)
    except UserError as error:
        advice = ""
        if isinstance(spec, Conversion) and is_foreign(spec.name):
            advice = "; convert without a name, and load_model takes a new network as module="
        raise UserError(f"{path} is not written: {error}{advice}") from None
    record = seal({"format": _FORMAT, "spec": spec.as_dict(), "details": details}, tensors)
    with atomic_path(path) as temporary:
        temporary.write_bytes(safetensors_bytes(tensors, metadata={_KEY: json.dumps(record)}))


def load_model(
    path: str | os.PathLike, device: str | torch.device = "cpu", module: nn.Module | None = None
) -> nn.Module:
    """The network in a file that :func:`save_model` wrote, in evaluation mode.

    Of a run folder it is the one after the last epoch. Masks that are not those of the seed in the
    file are kept, and ``mask_seed`` of the network's specification is then None.

    Nothing in the file is executed, and no memory is taken for more than the file holds.

    Args:
        path: file or run folder. device: where the network will be.
        module: for a network of :func:`scotoma.defective.convert` that names no factory of
            torchvision or timm: a module of the same class and sizes, not converted. It becomes the
            network, in place.

    Another library's network of :func:`create_model` is fused as it was; one of :func:`convert` is
    not: call :func:`scotoma.kernels.fuse`.

    Raises:
        UserError: no such file, not a scotoma checkpoint, truncated, edited, or inconsistent; or
            ``module`` is missing, or not of this network.
    """
    path = checkpoint_path(path)
    record, tensors = _read(path, with_tensors=True)
    spec = _spec(record, path)
    if module is not None and isinstance(spec, ModelSpec):
        raise UserError(f"{path}: holds a {spec.name}, which needs no module; leave module out")
    if module is not None and (not isinstance(module, nn.Module) or mask_sites(module)):
        what = (
            "converted already" if isinstance(module, nn.Module) else f"a {type(module).__name__}"
        )
        raise UserError(f"{path}: module is {what}; expected a new network, such as Network()")
    try:
        if module is not None:
            example = _tried(spec, module, tensors)
        elif isinstance(spec, Conversion):
            model = _converted(spec, tensors)
        else:
            # On the meta device a specification costs nothing, however large a network it claims.
            with torch.device("meta"):
                model = build(spec)
            _check_fit(model, tensors, spec)
            if isinstance(model, Foreign):  # some of which is in no state dict
                with torch.random.fork_rng(devices=[]):
                    model = build(spec.with_mask_seed(spec.mask_seed or 0))
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise UserError(f"{path}: {_one_line(error)}") from None
    check_seal(record, path, "take a copy of the file, or train again", tensors)
    if module is not None:  # changed only now
        model = _convert(spec, module, example)
    state = model.state_dict()  # which knows the versions of its modules, as some ask
    if any(tensor.is_meta for tensor in state.values()):
        # In memory of their own: where a file's tensors begin at odd addresses, a CPU's matrix
        # products sum in another order than those of the network that was saved.
        state.update({k: t.clone() for k, t in tensors.items()})
        model.load_state_dict(state, assign=True)
    else:  # parameters that modules share stay shared
        model.to(_other_dtype(model, tensors))
        state.update(tensors)
        model.load_state_dict(state)
    if model.spec.mask_seed is None:
        try:
            check_masks(model, mask_sites(model))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    return model.to(device).eval()


def load_network(path: str | os.PathLike, device: str | torch.device = "cpu") -> Network:
    """:func:`load_model` for those who need pixels in [0,1] to be normalised inside.

    Raises:
        UserError: as :func:`load_model`; or the file is of a network of :func:`convert`, which
            takes images as its library does.
    """
    spec, _ = read_details(path)
    if isinstance(spec, Conversion):
        raise UserError(
            f"{checkpoint_path(path)}: holds a network of convert ({spec.name}), which has no "
            f"normalisation of pixels inside; give its weights to the .network of "
            f"create_model('torchvision:NAME' or 'timm:NAME', {spec.defects!r}, ...), and save that"
        )
    return load_model(path, device)


def _tried(spec: Conversion, module: nn.Module, tensors) -> str:
    """The device of an example on which a module becomes the network of a file.

    Raises UserError if it does not. Only a copy of the module is changed.
    """
    own = module.state_dict()
    weights = {k: v for k, v in tensors.items() if k in own or not k.endswith(".mask")}
    _check_fit(module, weights, spec)
    device = "meta"
    try:
        tried = _convert(spec, copy.deepcopy(module).to(device))
    except UserError:  # it may do what needs values
        if math.prod(spec.input_shape) > _LARGEST_IMAGE:
            raise
        device = "cpu"
        tried = _convert(spec, copy.deepcopy(module), device)
    _check_fit(tried, tensors, spec)
    return device


def _converted(spec: Conversion, tensors) -> nn.Module:
    """What :func:`load_model` fills, for a network of :func:`convert`. Raises UserError."""
    if not is_foreign(spec.name):
        raise UserError(
            f"holds a converted {spec.name}, which no factory is named for: give load_model a "
            "new one in Python, as module="
        )
    _check_fit(_skeleton(spec), tensors, spec)
    with torch.random.fork_rng(devices=[]):
        return _convert(spec, _made(spec))


def _made(spec: Conversion) -> nn.Module:
    classes = {} if spec.num_classes is None else {"num_classes": spec.num_classes}
    return make(spec.name, **classes)


def _convert(spec: Conversion, module: nn.Module, device: str = "meta") -> nn.Module:
    """device: of the image that is run; on the meta device it costs nothing, however large."""
    return convert(
        module,
        torch.zeros(1, *spec.input_shape, device=device),
        spec.defects,
        spec.where,
        mask_seed=spec.mask_seed or 0,
        exact_masks=spec.exact_masks,
        name=spec.name,
        verbose=False,
    )


@lru_cache(maxsize=4)
def _skeleton(spec: ModelSpec | Conversion) -> nn.Module:
    """On the meta device; not to be changed."""
    with torch.device("meta"):
        return _convert(spec, _made(spec)) if isinstance(spec, Conversion) else build(spec)


def _check_fit(
    model: nn.Module, tensors: Mapping[str, torch.Tensor], spec: ModelSpec | Conversion
) -> None:
    """Raises UserError if tensors are not those of a model, which may be on the meta device."""
    other = _other_dtype(model, tensors)
    expected = {
        name: (v.shape, other if other and v.is_floating_point() else v.dtype)
        for name, v in _state(model).items()
    }
    found = {k: (v.shape, v.dtype) for k, v in tensors.items()}
    if expected != found:
        wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
        raise UserError(
            f"{len(wrong)} tensors do not fit the specification ({spec.name}, {spec.defects}), "
            f"first {wrong[0]!r}: {_told(found.get(wrong[0]))}, expected "
            f"{_told(expected.get(wrong[0]))}; they are of another model, or were changed"
        )


def _other_dtype(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> torch.dtype | None:
    """Of a network that was saved after ``.half()`` or ``.double()``, which is for all of it."""
    for name, value in _state(model).items():
        if value.is_floating_point():
            given = tensors[name].dtype if name in tensors else value.dtype
            return given if given != value.dtype and given.is_floating_point else None
    return None


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    """By the names before ``torch.compile``, which may have compiled blocks each for itself."""
    return {name.replace("_orig_mod.", ""): v for name, v in model.state_dict().items()}


def _told(tensor: tuple[torch.Size, torch.dtype] | None) -> str:
    return "none" if tensor is None else f"{list(tensor[0])} {tensor[1]}"


def checkpoint_path(given: str | os.PathLike) -> Path:
    """A checkpoint file; of a run folder, its last.safetensors."""
    path = Path(given)
    return path / "last.safetensors" if path.is_dir() else path


def read_details(path: str | os.PathLike) -> tuple[ModelSpec | Conversion, dict]:
    """Specification and details of a checkpoint, without its weights. Raises UserError."""
    path = checkpoint_path(path)
    record, _ = _read(path, with_tensors=False)
    details = record.get("details", {})
    return _spec(record, path), details if isinstance(details, dict) else {}


def runs_in(folder: Path) -> str:
    """What to say of a folder of run folders where one run was meant; of any other, nothing."""
    runs = sorted(str(path.parent) for path in folder.glob("*/config.yaml"))
    more = f" and {len(runs) - 5} more" if len(runs) > 5 else ""
    return f"; {folder} holds runs, name one: {', '.join(runs[:5])}{more}" if runs else ""


def _read(path: Path, with_tensors: bool) -> tuple[dict, dict[str, torch.Tensor]]:
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file{runs_in(path.parent)}")
    origin = "only files written by scotoma.defective.save_model can be loaded"
    return read_record(path, _KEY, _FORMAT, "model specification", origin, with_tensors)


def read_record(
    path: Path, key: str, version: int, kind: str, origin: str, with_tensors: bool = True
) -> tuple[dict, dict[str, torch.Tensor]]:
    """Record and tensors of a safetensors file of scotoma's. Nothing in it is executed.

    Args:
        key: of the record in the file's metadata. version: its format. kind, origin: what the file
            should be and where such files come from, for messages.

    Raises:
        UserError: another file, a damaged one, or one of another format.
    """
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
                f"{path}: this is a torch.save (pickle) file and not a safetensors file: it can "
                f"run code when loaded; {origin}"
            ) from None
        raise UserError(
            f"{path}: truncated or damaged, or not a safetensors file ({_one_line(error)}); "
            f"{origin}"
        ) from None
    try:
        record = json.loads(metadata[key])
        found = record["format"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise UserError(
            f"{path}: a safetensors file, but no {kind} of scotoma's; {origin}"
        ) from None
    if found != version:
        raise UserError(f"{path}: {kind} of format {found!r}; this version reads {version}")
    return record, tensors


def _spec(record: dict, path) -> ModelSpec | Conversion:
    try:
        kind = Conversion if "input_shape" in record["spec"] else ModelSpec
        return kind.from_dict(record["spec"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        reason = _one_line(error)
        raise UserError(f"{path}: bad model specification in the file: {reason}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
