"""Networks that a command names: how they compute, their data, and how two of them are related."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...defective import Ensemble, mask_sites
from ...defective.errors import UserError
from ...defective.serialization import checkpoint_path, load_network, read_details
from ...defective.spec import ModelSpec
from ...kernels.backends import tf32_allowed
from ..data import DataSet
from ..datasets import DATASETS, load_dataset
from ..image_folder import TEST_SHARE
from ..runfolder import CONFIG

RELATIONS = ("white-box", "gray-box", "DIF", "transfer")
"""What an attacker may know of a target, the most first."""

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Names of precisions, and the autocast that each means."""


@dataclass(frozen=True)
class Member:
    """One network: where it came from, what it is, and hashes of its weights and masks."""

    path: str
    spec: ModelSpec
    digest: str
    mask_digest: str


@dataclass(frozen=True)
class NamedModel:
    """A network or an ensemble, in evaluation mode on its device.

    Attributes:
        name: unique among the models of a command. model: pixels in [0,1] -> logits.
        members: the networks that it consists of; several are an ensemble.
    """

    name: str
    model: nn.Module
    members: tuple[Member, ...]

    @property
    def digest(self) -> str:
        """A hash of all weights and masks."""
        return hashlib.sha256("".join(m.digest for m in self.members).encode()).hexdigest()[:32]

    def describe(self) -> dict[str, Any]:
        """Plain values for files: name, digest, members."""
        return {
            "name": self.name,
            "digest": self.digest,
            "members": [asdict(m) | {"spec": m.spec.as_dict()} for m in self.members],
        }


def load_named(
    paths: list[str], ensembles: list[list[str]] | None, device: torch.device
) -> list[NamedModel]:
    """Networks from run folders or checkpoints, then ensembles (logit means) of such.

    A network of half precision is widened to float32: verdicts are never in less.

    Raises:
        UserError: no models, one given twice, a file that is no checkpoint, an ensemble of fewer
            than two, or members that do not fit together.
    """
    groups = [[path] for path in paths] + (ensembles or [])
    if not groups:
        raise UserError("no models; give run folders or checkpoints")
    for group in groups[len(paths) :]:
        if len(group) < 2:
            raise UserError(f"an ensemble of {', '.join(group) or 'nothing'}; expected two or more")
    names, found = _unique_names(groups), []
    load = cache(partial(_load, device=device))
    for name, group in zip(names, groups, strict=True):
        for given in group:
            if not Path(given).exists():
                raise UserError(f"{given}: no such run folder or checkpoint")
        models, members = zip(*(load(checkpoint_path(given)) for given in group), strict=True)
        model = models[0] if len(models) == 1 else Ensemble(list(models))
        found.append(NamedModel(name, model, members))
    return found


def load_common_data(
    models: list[NamedModel],
    dataset: str | None = None,
    data_root: str | None = None,
    download: bool = False,
) -> DataSet:
    """The data set that the models were trained on, or the one that is asked for.

    Of an image folder without test images the ones are taken that none of them was trained on.

    Raises:
        UserError: unknown or differing data sets, or one that does not fit a model, be it by the
            names of its classes.
    """
    members = [member for model in models for member in model.members]
    if dataset is None:
        dataset, root = _data_of(Path(members[0].path))
        data_root = data_root or root
        for member in members[1:]:
            if (name := _data_of(Path(member.path))[0]) != dataset:
                raise UserError(
                    f"{members[0].path} was trained on {dataset} and {member.path} on {name}; name "
                    "one with --dataset"
                )
    details = [read_details(Path(member.path))[1] for member in members]
    # What a network was tested on: the smallest share is a part of all others.
    shares = [s for s in (d.get("test_share") for d in details) if isinstance(s, float) and s > 0]
    share = min(shares, default=TEST_SHARE)
    size = members[0].spec.image_size
    data = load_dataset(dataset, data_root, download, size, share)
    for member, detail in zip(members, details, strict=True):
        for field, of_data in (
            ("num_classes", len(data.classes)),
            ("in_channels", data.in_channels),
            ("image_size", data.image_size),
        ):
            own = getattr(member.spec, field)
            if own != of_data:
                raise UserError(
                    f"{member.path} has {field} = {own}, but {data.name} has {of_data}; name the "
                    "data set that it was trained on with --dataset"
                )
        data.check_names(detail.get("classes"), member.path)
    return data


def relation(source: dict[str, Any] | NamedModel, target: dict[str, Any] | NamedModel) -> str:
    """What the attacker knew of the target, from two descriptions.

    "white-box": the same weights; "gray-box": the same network and masks, trained again; "DIF": the
    same but for masks drawn anew (the paper's Table 10); "transfer": anything else. Of ensembles
    the nearest two members count: who attacked a mean over some network has had its gradients.

    Raises:
        UserError: a description that :meth:`NamedModel.describe` did not write.
    """
    pair = [m.describe() if isinstance(m, NamedModel) else m for m in (source, target)]
    try:
        ours, theirs = (model["members"] for model in pair)
        return min((_relation(a, b) for a in ours for b in theirs), key=RELATIONS.index)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(
            "the description of a source is damaged; make its adversarial set again with: "
            "scotoma attack"
        ) from None


def _relation(a: dict[str, Any], b: dict[str, Any]) -> str:
    if a["digest"] == b["digest"]:
        return "white-box"
    one, other = ({k: v for k, v in m["spec"].items() if k != "mask_seed"} for m in (a, b))
    # As text, since lists from a file are tuples here.
    if json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True):
        return "transfer"
    return "gray-box" if a["mask_digest"] == b["mask_digest"] else "DIF"


def _load(path: Path, device: torch.device) -> tuple[nn.Module, Member]:
    model = load_network(path, device)
    if model.mean.dtype in (torch.float16, torch.bfloat16):
        model.float()
    masks = {f"{site}.mask" for site in mask_sites(model)}
    weights, drawn = hashlib.sha256(), hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        content = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        for digest in (weights, drawn) if name in masks else (weights,):
            digest.update(name.encode())
            digest.update(content)
    spec = json.dumps(model.spec.as_dict(), sort_keys=True)
    weights.update(spec.encode())
    return model, Member(str(path), model.spec, weights.hexdigest()[:32], drawn.hexdigest()[:32])


def _data_of(path: Path) -> tuple[str, str | None]:
    """(data set, data root) that a checkpoint was trained on."""
    if (config := path.parent / CONFIG).is_file():
        from ..settings import load_resolved  # imports jsonargparse

        settings = load_resolved(config)
        return settings.dataset, settings.data_root
    _, details = read_details(path)
    name = details.get("dataset")
    if not isinstance(name, str):
        raise UserError(f"{path} does not say what it was trained on; name it with --dataset")
    if name not in DATASETS:
        raise UserError(f"{path} does not say where its data set {name!r} is; give --dataset PATH")
    return name, None


def _unique_names(groups: list[list[str]]) -> list[str]:
    """Short names; those that clash get more of their paths, repetitions are refused."""
    files = [tuple(checkpoint_path(given).resolve() for given in group) for group in groups]
    for group, own in zip(groups, files, strict=True):
        if files.count(own) > 1 or len(set(own)) < len(own):
            raise UserError(f"{' '.join(group)}: a model is given twice")
    for depth in range(1, 20):
        names = ["+".join(_name(Path(p), depth) for p in group) for group in groups]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"models cannot be told apart by their paths: {', '.join(names)}")


def _name(path: Path, depth: int) -> str:
    """A run folder's name; of a checkpoint beside settings, the folder's and the file's."""
    path = path.resolve()
    if path.is_file():
        inside = (path.parent / CONFIG).is_file()
        path, depth = path.with_suffix(""), depth + inside
    return "/".join(path.parts[-depth:])


@contextmanager
def full_precision(benchmark: bool = False) -> Iterator[None]:
    """Float32 without TF32 for a while: TF32's ten bits flip the signs of small gradients.

    ``benchmark`` lets cuDNN try its algorithms on each new shape; of use where shapes stay.
    """
    cudnn = torch.backends.cudnn
    before, cudnn.benchmark = cudnn.benchmark, benchmark
    try:
        with tf32_allowed(convolutions=False, products=False):
            yield
    finally:
        cudnn.benchmark = before


@contextmanager
def memory_advice(device: torch.device, batch_size: int, kept: str = "") -> Iterator[None]:
    """Turn "out of memory" into a UserError that names --batch-size and what is ``kept``."""
    try:
        yield
    except RuntimeError as error:
        # The CPU's allocator has no exception of its own.
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise UserError(
            f"{device} is out of memory; try a --batch-size below {batch_size}{kept}"
        ) from None


def check_precision(precision: str, device: torch.device) -> None:
    """Raises UserError if there is no such precision, or the device does not have it."""
    if precision not in PRECISIONS:
        raise UserError(f"--precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if precision == "bfloat16" and device.type == "cuda":
        with torch.cuda.device(device):
            if not torch.cuda.is_bf16_supported(False):
                name = torch.cuda.get_device_name(device)
                raise UserError(
                    f"--precision bfloat16: {name} does not compute in it; use float32 or float16"
                )
