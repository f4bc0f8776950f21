"""A network of your own in a measurement: ``--model package:factory``, or ``torchvision:resnet50``.

``bench step`` and ``profile`` both take it. :func:`add_model_options` adds the options, and
:func:`chosen_model` gives a :class:`Model` that has been built and run once, so that whatever is
wrong with it is said before anything is measured. :meth:`Model.build` makes it, fused or as it is.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..defective.errors import UserError, nearest
from ..defective.layers import MaskSite
from ..defective.models import foreign
from ..kernels import fuse
from .options import positive

IMAGE_SIZE = 224
"""Side of the images that a network of one's own gets by default, in pixels."""


@dataclass(frozen=True)
class Model:
    """A network of somebody else.

    Attributes:
        name: package:factory. factory: makes it.
        image_size: side of its RGB images in pixels. classes: of its logits.
        fusible: how many batch norms can run as fused operators.
        text: the same in words, with the reason where it is not all.
    """

    name: str
    factory: Callable[[], nn.Module]
    image_size: int
    classes: int
    fusible: int
    text: str

    def build(self, backend: str = "eager", training: bool = True) -> nn.Module:
        """The network, the same weights each time; fused unless ``backend`` is "eager"."""
        torch.manual_seed(0)
        model = self.factory().train(training)
        if backend != "eager":
            fused(model)
        return model


def add_model_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    text = (
        "another library's network, as torchvision:resnet50 or timm:regnety_016; or one of your "
        "own: a callable, such as package.module:factory, that gives it"
    )
    add("--model", metavar="PACKAGE:FACTORY", help=text)
    text = "with --model: its classes, as num_classes (as many as it has)"
    add("--classes", type=positive, metavar="N", help=text)


def refuse_ours(options: argparse.Namespace, *names: str) -> None:
    """Refuse options of scotoma's networks beside ``--model``. Raises UserError."""
    for name in names:
        if getattr(options, name) is not None:
            raise UserError(f"{name} is for scotoma's networks; leave it out with --model")


def chosen_model(options: argparse.Namespace) -> Model | None:
    """The network of ``--model``, which has been run once, or None if there is none.

    Reads ``options.model``, ``classes`` and ``image_size`` (None for 224 pixels). Packages are
    found in the current folder too. Raises UserError.
    """
    name, size = options.model, options.image_size or IMAGE_SIZE
    if name is None:
        if options.classes is not None:
            raise UserError("classes is for --model; scotoma's networks have 10 here")
        return None
    factory = _factory(name, options.classes)
    try:
        model = factory()
    except Exception as error:
        text = "; name a callable that needs no arguments"
        raise _refusal(name, f"whose call fails: {_line(error)}{text}") from None
    if not isinstance(model, nn.Module):
        raise _refusal(name, f"which gives {type(model).__name__}, no nn.Module")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise _refusal(name, "which has no parameters to train")
    images = torch.zeros(2, 3, size, size)
    for mode in ("training", "evaluation"):
        try:
            with torch.no_grad():
                logits = model.train(mode == "training")(images)
        except Exception as error:
            shape, text = tuple(images.shape), "; give the --image-size that it takes"
            problem = f"which fails on images of shape {shape}: {_line(error)}{text}"
            raise _refusal(name, problem) from None
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 2:
            text = "expected logits of shape (images, classes)"
            raise _refusal(name, f"which gives {shape} in {mode}; {text}")
    return Model(name, factory, size, logits.shape[1], *fused(model))


def _factory(name: str, classes: int | None) -> Callable[[], nn.Module]:
    """What a name stands for, called with ``num_classes`` if they are given."""
    if name.partition(":")[0] in foreign.LIBRARIES:
        options = {} if classes is None else {"num_classes": classes}
        return partial(foreign.factory(name), **options)
    found = re.fullmatch(r"([\w.]+):(\w+)", name)
    if not found:
        raise UserError(
            f"model is {name!r}; expected package:factory, a callable that gives a network, such "
            "as package.module:factory, or torchvision:NAME or timm:NAME"
        )
    if "" not in sys.path:
        sys.path.insert(0, "")  # where a script of one's own lies
    try:
        package = importlib.import_module(found[1])
    except ModuleNotFoundError as error:
        if f"{found[1]}.".startswith(f"{error.name}."):
            where = "install it, or run this in the folder where it lies"
            raise _refusal(name, f"but there is no package {error.name!r}; {where}") from None
        problem = f"but {found[1]} needs {error.name}, which is not installed"
        raise _refusal(name, problem) from None
    except Exception as error:
        raise _refusal(name, f"but importing {found[1]} fails: {error!r}") from None
    factory = getattr(package, found[2], None)
    if not callable(factory):
        what = "nothing called" if factory is None else "no callable"
        known = [key for key, value in vars(package).items() if callable(value)]
        advice = nearest(found[2], known)
        raise _refusal(name, f"but {found[1]} has {what} {found[2]!r}.{advice}")
    if classes is None:
        return factory
    taken = inspect.signature(factory).parameters
    if "num_classes" not in taken and not any(p.kind == p.VAR_KEYWORD for p in taken.values()):
        raise UserError(
            f"classes is {classes}, but {name} takes no argument num_classes; leave it out"
        )
    return lambda: factory(num_classes=classes)


def _refusal(name: str, problem: str) -> UserError:
    return UserError(f"model is {name!r}, {problem}")


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def fused(model: nn.Module) -> tuple[int, str]:
    """Let a network's batch norms run as fused operators, in place (:func:`scotoma.kernels.fuse`).

    Returns:
        How many of them do, and that in words.
    """
    sites = sum(isinstance(module, MaskSite) for module in model.modules())
    if sites:
        return sites, f"fused: its {sites} layers of scotoma's; all else stays eager"
    try:
        fusion = fuse(model)
    except ValueError as error:
        return 0, f"nothing can be fused: {error}"
    reasons = dict.fromkeys(site.reason for site in fusion.sites if site.operator is None)
    if not fusion.fused:
        return 0, f"nothing can be fused: {'; '.join(reasons)}"
    left = f"; left alone: {'; '.join(reasons)}" if reasons else ""
    return fusion.fused, f"fused: {fusion.fused} of {len(fusion.sites)} batch norms{left}"
