"""Where masks go: from a defect specification to the mask buffers of a network."""

from __future__ import annotations

import copy
import math
from fractions import Fraction

import torch
from torch import Tensor, nn

from .errors import UserError
from .layers import MaskSite, ProjectionShortcut
from .masks import MaskKind, sample_mask, site_generator
from .notation import Defects, Term

_MASK_KIND: dict[str, MaskKind] = {"neuron": "neuron", "SM": "shared", "CM": "channel"}


def terms_by_block(architecture, defects: Defects, sites: str) -> dict[int, Term]:
    """The term that governs each block of an architecture.

    Raises:
        UserError: a block that the network does not have, or that two terms name, or a variant
            (DC, xN) that the network does not have.
    """
    bottom, top = architecture.bottom[sites], architecture.top
    chosen: dict[int, Term] = {}
    for term in defects.terms:
        blocks = {"Bottom": bottom, "Top": top}.get(term.region, term.region)
        if not architecture.has_width_variants and (term.kind == "DC" or term.width_factor > 1):
            variant = "DC" if term.kind == "DC" else f"x{term.width_factor}"
            raise UserError(
                f"defects {str(defects)!r}: {architecture.name} has no {variant} variant "
                "(only resnet18 has); use CM to mask whole channels of any network"
            )
        for block in blocks:
            if block not in bottom + top:
                raise UserError(
                    f"defects {str(defects)!r}: {architecture.name} has no maskable block {block} "
                    f"with sites={sites!r}; its blocks are {sorted(bottom + top)}"
                )
            if block in chosen:
                raise UserError(
                    f"defects {str(defects)!r}: block {block} is in both "
                    f"'{chosen[block]}' and '{term}'"
                )
            chosen[block] = term
    return chosen


def scaled_widths(widths: dict[int, int], terms: dict[int, Term]) -> dict[int, int]:
    """Channels of each block after DC (ceil(p C) remain) and xN (N C)."""
    scaled = dict(widths)
    for block, term in terms.items():
        scaled[block] *= term.width_factor
        if term.kind == "DC":
            scaled[block] = math.ceil(scaled[block] * Fraction(repr(term.keep_probability)))
    return scaled


def place_masks(model: nn.Module) -> None:
    """Draw a mask for every site that the model's specification makes defective.

    A site is named by its module path. Its shape is that of the module's output, read off a run
    of a copy on the meta device, which computes nothing.
    """
    terms = model_terms(model)
    sites = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, MaskSite)
        and module.block in terms
        and terms[module.block].kind != "DC"
    }
    if not sites:
        return
    shapes = _output_shapes(model, set(sites))
    for name, site in sites.items():
        if model.mean.is_meta:  # a skeleton, to be filled from a checkpoint
            site.mask = torch.empty(shapes[name], dtype=torch.bool, device="meta")
        else:
            site.mask = _draw(model.spec, name, shapes[name], terms[site.block])


def mask_sites(model: nn.Module) -> dict[str, Tensor]:
    """Name of each masked site, in forward order, and its mask (bool [C,H,W]).

    The tensors are the model's own buffers, not copies.
    """
    return {
        name: module.mask
        for name, module in model.named_modules()
        if isinstance(module, MaskSite) and module.mask is not None
    }


def resample_masks(model: nn.Module, seed: int) -> None:
    """Draw all masks anew from ``seed`` and keep the weights: the paper's DIF (Table 10).

    In place; the model's specification records the seed.
    """
    model.spec = model.spec.with_mask_seed(seed)
    terms = model_terms(model)
    for name, mask in mask_sites(model).items():
        block = model.get_submodule(name).block
        mask.copy_(_draw(model.spec, name, tuple(mask.shape), terms[block]))


def model_terms(model: nn.Module) -> dict[int, Term]:
    """:func:`terms_by_block` of a built network."""
    spec = model.spec
    return terms_by_block(type(model), Defects.parse(spec.defects), spec.sites)


def _draw(spec, site: str, shape: tuple[int, ...], term: Term) -> Tensor:
    return sample_mask(
        shape,
        term.keep_probability,
        _MASK_KIND[term.kind],
        spec.exact_masks,
        site_generator(spec.mask_seed, spec.name, site),
    )


def _output_shapes(model: nn.Module, names: set[str]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    ghost = copy.deepcopy(model).to("meta").eval()

    for name in names:
        owner = ghost.get_submodule(name.rpartition(".")[0])
        # A shortcut's batch norm is never called as a module, because one operator runs both
        # branches; its output has the shape of the convolution before it.
        module = owner.conv if isinstance(owner, ProjectionShortcut) else ghost.get_submodule(name)
        module.register_forward_hook(
            lambda _m, _i, out, name=name: shapes.__setitem__(name, tuple(out.shape[1:]))
        )
    spec = model.spec
    size = (1, spec.in_channels, spec.image_size, spec.image_size)
    ghost(torch.empty(size, device="meta"))
    return shapes
