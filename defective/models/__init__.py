"""The six architectures and the registry that finds them; and networks of other libraries.

A new architecture is one file here that defines a subclass of ``Network`` with a ``name``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence

import torch

from ..errors import UserError, nearest
from ..masks import mask_sites, place_masks, scaled_widths, terms_by_block
from ..notation import Defects
from ..spec import LARGE_IMAGE, ModelSpec, Regularizer, Sites, Stem, check_integer
from .base import Network
from .foreign import Foreign, is_foreign

# The order of the paper's tables; architectures added later follow it.
_PAPER_ORDER = ("resnet18", "resnet50", "densenet121", "senet18", "vgg19", "wrn32_4")

CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
MNIST_STATISTICS = ((0.1307,), (0.3081,))
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _find_architectures() -> dict[str, type[Network]]:
    found = {}
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f".{module_info.name}", __name__)
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Network) and "name" in vars(value):
                found[value.name] = value
    known = [name for name in _PAPER_ORDER if name in found]
    return {name: found[name] for name in known + sorted(set(found) - set(known))}


ARCHITECTURES = _find_architectures()


def model_names() -> list[str]:
    """Names that :func:`create_model` accepts, but for those of other libraries."""
    return list(ARCHITECTURES)


def create_model(
    name: str,
    defects: str | Defects = "standard",
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: int = 32,
    width: int | None = None,
    mask_seed: int = 0,
    sites: Sites = "release",
    *,
    exact_masks: bool = True,
    regularizer: Regularizer = "none",
    stem: Stem = "3x3",
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    thermometer: int = 0,
    where: Sequence[str] | None = None,
) -> Network:
    """Build one of the paper's networks, with its masks drawn and its weights initialised.

    Args:
        name: one of :func:`model_names`; or ``torchvision:NAME`` or ``timm:NAME``, another
            library's network with masks as :func:`convert` puts them, to which the options width,
            sites, regularizer, stem and thermometer do not apply
            (:class:`scotoma.defective.models.foreign.Foreign`). Its weights are random.
        defects: the paper's notation, see :mod:`scotoma.defective.notation`.
        num_classes, in_channels, image_size: of the data; images are square. Masks fit this
            size only; a network without masks takes larger images, too.
        width: base width; None for the paper's (64; 16 for wrn32_4; growth 32 for densenet121).
        mask_seed: seed of the masks, apart from the weights, which follow torch's global
            generator. Each site's mask depends on (mask_seed, name, site).
        sites: where masks go: "release" (the authors' code) or "paper" (its text), which differ
            for densenet121 and senet18. A placement written in ``defects`` goes first.
        exact_masks: exact count per mask (True) or Bernoulli (False).
        regularizer: "none", "spatial-dropout" or "dropblock" (resnet18, resnet50, wrn32_4).
        stem: "3x3", or "7x7" for images of 128 pixels and more.
        mean, std: per-channel normalisation inside the model, in units of pixels in [0,1]; None
            for MNIST's (one channel), CIFAR-10's, or ImageNet's (128 pixels and more).
        thermometer: levels of the code that takes the pixels' place
            (:mod:`scotoma.defective.thermometer`), 2 or more; 0 for the pixels themselves.
        where: with another library's network: names of the modules whose sites are defective, in
            place of the region in ``defects``.

    Returns:
        A network from pixels in [0,1] [N,C,H,W] to logits [N,num_classes].

    Raises:
        UserError: an argument is unknown, out of range, or not available in this network.
    """
    default_width = None if is_foreign(name) else _architecture(name).default_width
    usual_mean, usual_std = default_statistics(in_channels, image_size)
    spec = ModelSpec(
        name=name,
        defects=str(Defects.parse(defects)),
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        width=default_width if width is None else width,
        mask_seed=mask_seed,
        sites=Defects.parse(defects).sites or sites,
        exact_masks=exact_masks,
        regularizer=regularizer,
        stem=stem,
        mean=usual_mean if mean is None else mean,
        std=usual_std if std is None else std,
        thermometer=thermometer,
        where=where,
    )
    return build(spec)


def build(spec: ModelSpec) -> Network:
    """The network that a specification describes. Raises UserError as :func:`create_model`."""
    if is_foreign(spec.name):
        return Foreign(spec)
    architecture = _architecture(spec.name)
    if spec.where is not None:
        raise UserError(
            f"where is {list(spec.where)!r}, which is for networks of other libraries; write "
            f"blocks of {spec.name} in defects, such as 0.3-{{0,1}}"
        )
    if spec.width is None:
        raise UserError(f"width is None; {spec.name} has one")
    if spec.regularizer != "none" and not architecture.regularized_blocks:
        usable = [n for n, a in ARCHITECTURES.items() if a.regularized_blocks]
        raise UserError(
            f"regularizer is {spec.regularizer!r}: {spec.name} has none in the paper; "
            f"it is available in {', '.join(usable)}"
        )
    terms = terms_by_block(architecture, Defects.parse(spec.defects), spec.sites)
    widths = scaled_widths(architecture.block_widths(spec.width), terms)
    model = architecture(spec, widths)
    place_masks(model)
    model.count_for_all()
    return model


def reset_weights(model: Network, seed: int) -> None:
    """Initialise all weights and statistics anew and keep the masks: the other half of DIF.

    In place, on any device; torch's global generator is left as it was. The weights are those
    that ``torch.manual_seed(seed)`` and then :func:`create_model` would give.

    Raises:
        UserError: the network is not of :func:`create_model`.
    """
    if not isinstance(model, Network):
        raise UserError(
            f"model is a {type(model).__name__}; only networks of create_model are made anew here"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone
        fresh = build(model.spec.with_mask_seed(0)).state_dict()  # of any seed: none is taken
    masks = {f"{site}.mask" for site in mask_sites(model)}
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name not in masks:
                value.copy_(fresh[name])


def default_statistics(
    in_channels: int, image_size: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of the data set that such images most likely come from.

    Raises:
        UserError: a number of channels or a size that no network can be made for.
    """
    check_integer("in_channels", in_channels, least=1)
    check_integer("image_size", image_size, least=8)
    if in_channels == 1:
        return MNIST_STATISTICS
    if in_channels == 3:
        return IMAGENET_STATISTICS if image_size >= LARGE_IMAGE else CIFAR10_STATISTICS
    return (0.5,) * in_channels, (0.25,) * in_channels


def _architecture(name: str) -> type[Network]:
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise UserError(
            f"architecture {name!r} is unknown; expected torchvision:NAME, timm:NAME or one of "
            f"{', '.join(ARCHITECTURES)}.{nearest(str(name), ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]
