"""Networks of torchvision and timm, so that every verb takes them as it takes ours."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from ...kernels import fuse
from ...kernels.batch_norm import Masked
from ..conversion import (
    check_placement,
    choose,
    evaluation,
    find_sites,
    make_maskable,
    place,
    stages_of,
)
from ..errors import UserError, lacking, nearest
from ..spec import ModelSpec, thirds
from .base import Network

LIBRARIES = ("torchvision", "timm")
_WITHOUT_AUXILIARY_LOGITS = ("googlenet", "inception_v3")


def is_foreign(name) -> bool:
    """Whether a network's name is one of another library's: ``torchvision:NAME``, ``timm:NAME``."""
    return isinstance(name, str) and ":" in name


def factory(name: str) -> Callable[..., nn.Module]:
    """What makes a network of another library, with weights drawn at random: nothing is fetched.

    Args:
        name: ``torchvision:NAME``, a classifier of ``torchvision.models``, or ``timm:NAME``, of
            ``timm.list_models()``.

    Returns:
        A function of ``num_classes`` (and what else that library takes).

    Raises:
        UserError: there is no such library or network, or the library is not installed.
    """
    library, _, short = name.partition(":")
    if library not in LIBRARIES:
        raise UserError(
            f"network {name!r} is of library {library!r}; expected torchvision:NAME or timm:NAME "
            "(a network of your own goes through scotoma.defective.convert, in Python)."
            f"{nearest(library, LIBRARIES)}"
        )
    try:
        if library == "torchvision":
            from torchvision import models

            known, make = models.list_models(module=models), models.get_model
        else:
            import timm

            known, make = timm.list_models(), timm.create_model
    except ModuleNotFoundError as error:
        raise lacking(error) from None
    if (short.split(".")[0] if library == "timm" else short) not in known:
        raise UserError(
            f"network {name!r}: {library} has no classifier {short!r}.{nearest(short, known)}"
        )
    if library == "timm":
        return partial(make, short, pretrained=False)
    options = {"weights": None}
    if short in _WITHOUT_AUXILIARY_LOGITS:  # which are a second output in training
        options |= {"aux_logits": False, "init_weights": True}
    return partial(make, short, **options)


def make(name: str, **options) -> nn.Module:
    """A network of :func:`factory`, also on the meta device. Raises UserError."""
    found = factory(name)
    try:
        return found(**options)
    except NotImplementedError:  # torchvision's RegNet reads tensors, of which meta has no values
        if torch.get_default_device().type != "meta":
            raise
        with torch.device("cpu"):  # with one logit: however many a file claims, it takes no memory
            network = found(**options | {"num_classes": 1}).to("meta")
        network.fc = nn.Linear(network.fc.in_features, options.get("num_classes", 1000))
        return network
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"network {name!r} cannot be made: {_line(error)}") from error


class Foreign(Network):
    """A network of another library behind the normalisation that ours have inside.

    Its masks are where :func:`scotoma.defective.convert` puts them, and its batch norms run as
    fused operators where :func:`scotoma.kernels.fuse` finds them. Gray images go to all three
    channels of a network of torchvision.

    Attributes:
        network: the other library's module. stages, bottom, top: of its sites.
    """

    def __init__(self, spec: ModelSpec):
        super().__init__(spec)
        self.name = spec.name
        _check_options(spec)
        options = {"num_classes": spec.num_classes}
        self._expand = spec.in_channels == 1
        if spec.name.startswith("timm:") and not self._expand:
            options["in_chans"] = spec.in_channels
        elif spec.in_channels not in (1, 3):
            raise UserError(
                f"in_channels is {spec.in_channels}: {spec.name} takes 3 channels (or 1, repeated)"
            )
        self.network = make(spec.name, **options)
        channels = 3 if self._expand else spec.in_channels
        example = torch.empty(1, channels, *[spec.image_size] * 2, device="meta")
        ghost = copy.deepcopy(self.network).to("meta")  # which computes nothing
        self._try(ghost, example)
        self.stages, self.bottom, self.top = (), {spec.sites: ()}, ()
        if spec.defects != "standard" or spec.where is not None:
            sites, _, _ = find_sites(ghost, example)
            chosen = choose(ghost, sites, spec.defects, spec.where)
            self.stages = stages_of(sites)
            bottom, self.top = thirds(self.stages)
            self.bottom = {spec.sites: bottom}
            place(self, [replace(site, name=f"network.{site.name}") for site in chosen])
        for module in self.network.modules():
            make_maskable(module)  # so that it can be synchronised, too
        self._unfused: tuple[str, ...] = ()
        if not self.mean.is_meta:
            with contextlib.suppress(ValueError):  # without batch norm there is nothing to fuse
                sites = fuse(self.network).sites
                self._unfused = tuple(site.name for site in sites if site.operator is None)

    def _try(self, network: nn.Module, example: Tensor) -> None:
        """Raises UserError if the network does not classify images of this size."""
        spec, problem = self.spec, ""
        try:
            with evaluation(network), torch.no_grad():
                out = network(example)
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            problem = f"fails on such images ({_line(error)})"
        else:
            shape = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
            if shape != [1, spec.num_classes]:
                problem = f"gives {shape} and not logits [1, {spec.num_classes}]"
        if problem:
            raise UserError(
                f"image_size is {spec.image_size}: {spec.name} {problem}; take a network that "
                "classifies, and images of a size that it takes"
            )

    def synchronise_others(self, group) -> None:
        """Synchronise batch norms that only the fused operator can: timm's BatchNormAct2d.

        Raises UserError if there are some which are not fused.
        """
        for name, module in self.network.named_modules():
            plain = isinstance(module, nn.modules.batchnorm._BatchNorm)
            if plain and not isinstance(module, (Masked, nn.SyncBatchNorm)):
                if type(module).__name__ != "BatchNormAct2d" or name in self._unfused:
                    raise UserError(
                        f"{name} of {self.spec.name} is a {type(module).__name__}, which cannot be "
                        "synchronised over processes here: take --no-sync-stats"
                    )
                module.process_group = group

    def _classify(self, x: Tensor) -> Tensor:
        return self.network(x.expand(-1, 3, -1, -1) if self._expand else x)


def _check_options(spec: ModelSpec) -> None:
    """Refuse what only scotoma's own networks have. Raises UserError."""
    check_placement(spec.defects)
    own = {"width": None, "sites": "release", "regularizer": "none", "stem": "3x3"}
    for name, usual in (own | {"thermometer": 0}).items():
        if getattr(spec, name) != usual:
            raise UserError(
                f"{name} is {getattr(spec, name)!r}, which {spec.name} does not have: it is for "
                "scotoma's own networks; leave it out"
            )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
