"""A network of your own in a measurement: ``--model package:factory``.

``bench step`` and ``profile`` both take it. :func:`add_model_options` adds the options, and
:func:`chosen_model` gives a :class:`Model` that has been built and run once, so that whatever is
wrong with it is said before anything is measured. :meth:`Model.build` makes the network as it is,
:func:`fused` the same one with the fused operators where they fit.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import operator
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..defective.errors import UserError, nearest
from ..defective.layers import BNMaskReLU, MaskSite
from .options import positive

IMAGE_SIZE = 224
"""Side of the images that a network of one's own gets by default, in pixels."""


@dataclass(frozen=True)
class Model:
    """A network of somebody else.

    Attributes:
        name: package:factory. factory: makes it.
        image_size: side of its RGB images in pixels. classes: of its logits.
        fusible: how many batch norms can be fused with what follows them.
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
        return model if backend == "eager" else fused(model, self.image_size)[0]


def add_model_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    text = "a network of your own: a callable, such as torchvision.models:resnet50, that gives one"
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
    return Model(name, factory, size, logits.shape[1], *fused(model, size)[1:])


def _factory(name: str, classes: int | None) -> Callable[[], nn.Module]:
    """What a name stands for, called with ``num_classes`` if they are given."""
    found = re.fullmatch(r"([\w.]+):(\w+)", name)
    if not found:
        raise UserError(
            f"model is {name!r}; expected package:factory, a callable that gives a network, such "
            "as torchvision.models:resnet50"
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


# Fusing: what torch.fx calls them, as a module, a method, a function.
RELUS = (nn.ReLU, "relu", "relu_", F.relu, F.relu_, torch.relu, torch.relu_)
ADDITIONS = ("add", "add_", operator.add, operator.iadd, torch.add)


def fused(model: nn.Module, image_size: int) -> tuple[nn.Module, int, str]:
    """The network with ``relu(BN(x))`` and ``relu(BN(x) + y)`` as one operator each.

    Where ``y`` is a batch norm's output too, as at a projection, it is a part of that operator. All
    else stays as it is: batch norms that another function follows, and whatever torch.fx cannot
    see. Parameters and buffers are those of ``model``, in whose mode (training or not) it is seen.

    Returns:
        The network, how many of its batch norms were fused, and that in words.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    sites = sum(isinstance(module, MaskSite) for module in norms)
    if sites:
        return model, sites, f"fused: its {sites} layers of scotoma's; all else stays eager"
    try:
        traced = fx.symbolic_trace(model)
        shapes = _shapes(traced, image_size)
    except Exception as error:
        return model, 0, f"nothing can be fused: torch.fx cannot trace it ({_line(error)})"
    places = dict(traced.named_modules())
    count = 0
    for relu in list(traced.graph.nodes):
        before = next(iter(relu.all_input_nodes), None)
        found = _branches(before, places, shapes) if _is(relu, RELUS, places) else None
        if found is None:
            continue
        own, other, residual = found
        layers = [places[node.target] for node in (own, other) if node is not None]
        name = f"fused_{count}"
        traced.add_submodule(name, FusedNorm(*layers))
        with traced.graph.inserting_before(relu):
            second = residual if other is None else other.args[0]
            call = traced.graph.call_module(name, (own.args[0], second))
        shapes[call] = shapes.get(relu)
        relu.replace_all_uses_with(call)
        for node in dict.fromkeys((relu, before, own, other)):
            if node is not None:
                traced.graph.erase_node(node)
        count += len(layers)
    traced.delete_all_unused_submodules()
    traced.recompile()
    if not count:
        return model, 0, "nothing can be fused: no batch norm has a ReLU behind it"
    left = len(norms) - count
    rest = f"the other {left} and all else stay eager" if left else "all else stays eager"
    return traced, count, f"fused: {count} of {len(norms)} batch norms, each with its ReLU; {rest}"


class FusedNorm(nn.Module):
    """``relu(norm(x) + y)``, or ``relu(norm(x) + other(y))``; y may be None."""

    def __init__(self, norm: nn.BatchNorm2d, other: nn.BatchNorm2d | None = None):
        super().__init__()
        self.norm = _as_ours(norm)
        self.other = None if other is None else _as_ours(other)

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        if self.other is None:
            return self.norm(x, y)
        return self.norm(x, projection=(y, self.other))


def _as_ours(norm: nn.BatchNorm2d) -> BNMaskReLU:
    """The same parameters and buffers, in our layer."""
    ours = BNMaskReLU(norm.num_features, eps=norm.eps, momentum=norm.momentum)
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        setattr(ours, name, getattr(norm, name))
    return ours.train(norm.training)


def _shapes(traced: fx.GraphModule, size: int) -> dict[fx.Node, torch.Size]:
    """The shapes of all tensors between its operators, for two images."""
    from torch.fx.passes.shape_prop import ShapeProp

    training = traced.training
    with torch.no_grad():
        ShapeProp(traced.eval()).propagate(torch.zeros(2, 3, size, size))
    traced.train(training)
    found = {node: node.meta.get("tensor_meta") for node in traced.graph.nodes}
    return {node: meta.shape for node, meta in found.items() if hasattr(meta, "shape")}


def _branches(node, places, shapes) -> tuple[fx.Node, fx.Node | None, fx.Node | None] | None:
    """Of what a ReLU is called on: its batch norm, a second one, or a residual; None for others."""
    if not isinstance(node, fx.Node) or len(node.users) > 1:
        return None
    if _is_norm(node, places):
        return node, None, None
    pair = len(node.args) == 2 and all(isinstance(value, fx.Node) for value in node.args)
    if not _is(node, ADDITIONS, places) or not pair or node.kwargs:
        return None
    own, other = node.args
    if shapes.get(own) is None or shapes.get(own) != shapes.get(other) or own is other:
        return None
    if not _is_norm(own, places):
        if node.target in (operator.iadd, "add_") and len(own.users) > 1:
            return None  # whoever else uses it wants the sum
        own, other = other, own
    if not _is_norm(own, places):
        return None
    if _is_norm(other, places):
        first, second = places[own.target], places[other.target]
        if (first.eps, first.momentum) == (second.eps, second.momentum):
            return own, other, None
    return own, None, other


def _is_norm(node: fx.Node, places: dict[str, nn.Module]) -> bool:
    if not _is(node, (nn.BatchNorm2d,), places) or len(node.users) > 1 or len(node.args) != 1:
        return False
    norm = places[node.target]
    alone = sum(n.target == node.target for n in node.graph.nodes) == 1
    return alone and norm.affine and norm.track_running_stats


def _is(node: fx.Node, what: tuple, places: dict[str, nn.Module]) -> bool:
    """Whether a node calls one of some classes of modules, methods or functions.

    What is fused already is no module of the original.
    """
    if node.op == "call_module":
        return type(places.get(node.target)) in what
    return node.op in ("call_method", "call_function") and node.target in what
