"""Fixed 0/1 masks: how one is drawn, from which seed, and where in a network masks go."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Literal, get_args

import torch
from einops import repeat
from torch import Tensor, nn

from ..kernels.batch_norm import Masked
from .errors import UserError
from .layers import MaskSite, ProjectionShortcut
from .notation import Defects, Term
from .spec import Conversion, ModelSpec

MaskKind = Literal["neuron", "channel", "shared"]


def sample_mask(
    shape: Sequence[int],
    keep_probability: float,
    kind: MaskKind = "neuron",
    exact: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw a mask: True where a neuron is kept, False where it is defective.

    Args:
        shape: (C, H, W) of the layer's output.
        keep_probability: p in (0, 1], the fraction of neurons kept.
        kind: "neuron" draws every neuron by itself; "channel" keeps or drops whole channels;
            "shared" draws one H x W pattern and repeats it on all channels (the paper's SM).
        exact: drop exactly floor(n (1 - p)) of the n units, uniformly without replacement, as the
            authors' release does; False draws each unit from Bernoulli(p), as the paper says.
        generator: CPU generator to draw from; None for torch's global one.

    Returns:
        Bool tensor [C,H,W] on the CPU.

    Raises:
        UserError: shape, keep_probability or kind is out of range.

    Source: paper section 3.1; docs/reference.md, section 2.
    """
    shape = tuple(int(n) for n in shape)
    if len(shape) != 3 or min(shape) < 1:
        raise UserError(f"shape is {list(shape)}; expected three positive sizes (C, H, W)")
    if not 0 < keep_probability <= 1:
        raise UserError(f"keep_probability is {keep_probability}; expected 0 < p <= 1")
    channels, height, width = shape
    # The units that are kept or dropped, and how they make up a mask.
    count, layout = {
        "neuron": (channels * height * width, "(c h w) -> c h w"),
        "channel": (channels, "c -> c h w"),
        "shared": (height * width, "(h w) -> c h w"),
    }.get(kind, (0, ""))
    if not count:
        raise UserError(f"kind is {kind!r}; expected one of {', '.join(get_args(MaskKind))}")
    if exact:
        kept = torch.ones(count, dtype=torch.bool, device="cpu")
        dropped = count - kept_count(count, keep_probability)
        kept[torch.randperm(count, generator=generator, device="cpu")[:dropped]] = False
    else:
        kept = torch.rand(count, generator=generator, device="cpu") < keep_probability
    return repeat(kept, layout, c=channels, h=height, w=width).contiguous()


def kept_count(count: int, keep_probability: float) -> int:
    """Units that an exact mask keeps: ``count - floor(count * (1 - p))``, in exact arithmetic.

    Binary floating point would drop 99 instead of 100 of 1000 at p = 0.9.
    """
    drop_probability = 1 - Fraction(repr(float(keep_probability)))
    return count - math.floor(count * drop_probability)


def site_generator(seed: int, model: str, site: str) -> torch.Generator:
    """A generator for one site's mask, a function of (seed, model name, site name) alone.

    Sites are thus independent of each other and of torch's global generator, and identical on
    every machine and every rank.
    """
    digest = hashlib.sha256(f"{seed}/{model}/{site}".encode()).digest()
    generator = torch.Generator("cpu")
    generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return generator


_MASK_KIND: dict[str, MaskKind] = {"neuron": "neuron", "SM": "shared", "CM": "channel"}


def terms_by_block(architecture, defects: Defects, sites: str) -> dict[int, Term]:
    """The term that governs each block of an architecture.

    Raises:
        UserError: a block that the network does not have, or that two terms name, or a variant
            (DC, xN) that the network does not have.
    """
    bottom, top = architecture.bottom[sites], architecture.top
    maskable = getattr(architecture, "stages", bottom + top)
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
            if block not in maskable:
                if hasattr(architecture, "stages"):  # somebody else's
                    raise UserError(
                        f"defects {str(defects)!r}: {architecture.name} has no stage {block}; its "
                        f"stages are {sorted(maskable)}"
                    )
                raise UserError(
                    f"defects {str(defects)!r}: {architecture.name} has no maskable block {block} "
                    f"with sites={sites!r}; its blocks are {sorted(maskable)}"
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

    Raises:
        UserError: there is no seed to draw from.
    """
    if not model.mean.is_meta:
        check_seed(model.spec)
    terms = model_terms(model)
    model.register_load_state_dict_post_hook(notice_masks)
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
            site.mask = draw_mask(model.spec, name, shapes[name], terms[site.block])


def check_seed(spec: ModelSpec | Conversion) -> None:
    """Raises UserError if there is no seed to draw masks from."""
    if spec.mask_seed is None:
        raise UserError(
            "mask_seed is None: these masks are not those of a seed and cannot be drawn again; "
            "load their checkpoint, or give an integer of at least 0"
        )


def mask_sites(model: nn.Module) -> dict[str, Tensor]:
    """Name of each masked site, in forward order, and its mask (bool [C,H,W]).

    The tensors are the model's own buffers, not copies. Names are those before ``torch.compile``.

    Args:
        model: of :func:`create_model` or :func:`convert`.
    """
    return {
        name.replace("_orig_mod.", ""): module.mask
        for name, module in model.named_modules()
        if isinstance(module, Masked) and module.mask is not None
    }


def resample_masks(model: nn.Module, seed: int) -> None:
    """Draw all masks anew from ``seed`` and keep the weights: the paper's DIF (Table 10).

    In place; the model's specification records the seed.

    Raises:
        UserError: the model has no masks that a seed could draw.
    """
    if not isinstance(getattr(model, "spec", None), (ModelSpec, Conversion)):
        raise UserError(
            f"model is a {type(model).__name__} without masks; give one of create_model or convert"
        )
    model.spec = model.spec.with_mask_seed(seed)
    terms = model_terms(model)
    for name, mask in mask_sites(model).items():
        block = model.get_submodule(name).block
        mask.copy_(draw_mask(model.spec, name, tuple(mask.shape), terms[block]))


def spec_of_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> ModelSpec | Conversion:
    """The model's specification, its ``mask_seed`` None if that does not draw these masks.

    Args:
        model: may be on the meta device. masks: by site, as :func:`mask_sites` gives them.
    """
    spec = model.spec
    if spec.mask_seed is not None:
        terms = model_terms(model)
        for site, mask in masks.items():
            term = terms.get(model.get_submodule(site).block)
            if term is None or mask.dtype != torch.bool or mask.dim() != 3:
                return spec.with_mask_seed(None)
            if not torch.equal(mask.cpu(), draw_mask(spec, site, tuple(mask.shape), term)):
                return spec.with_mask_seed(None)
    return spec


def check_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Whether masks that no seed drew can be what the model's defects say.

    Raises:
        UserError: a mask of another kind, or one that keeps far more or less (beyond six standard
            deviations of a random mask) than the keep probability.
    """
    spec, terms = model.spec, model_terms(model)
    for site, mask in masks.items():
        term = terms[model.get_submodule(site).block]
        p, kind = term.keep_probability, _MASK_KIND[term.kind]
        units = {"channel": mask[:, :1, :1], "shared": mask[:1]}.get(kind, mask)
        count, kept = units.numel(), int(units.sum())
        reach = 6 * math.sqrt(count * p * (1 - p)) + 1
        # Of a few units all may be kept by chance, but not where a share of them has to go.
        whole = kept == count and spec.exact_masks and kept_count(count, p) < count
        if whole or abs(kept - count * p) > reach or not bool((mask == units).all()):
            raise UserError(
                f"the mask of {site} keeps {float(mask.float().mean()):.2%} and cannot be one of "
                f"{spec.defects} ({kind} masks, keep probability {p:g}); put masks of these "
                "defects there, or create the network with defects that describe them"
            )


def notice_masks(model: nn.Module, _keys) -> None:
    """After ``load_state_dict``: the masks may have come along, and their seed is not known."""
    masks = mask_sites(model)
    described = hasattr(model, "spec")  # copies of a torch.fx.GraphModule keep hooks, but not that
    if described and not any(mask.is_meta for mask in masks.values()):
        model.spec = spec_of_masks(model, masks)


def model_terms(model: nn.Module | Conversion) -> dict[int, Term]:
    """:func:`terms_by_block` of a built network, or of the description of a converted one."""
    spec = getattr(model, "spec", model)
    # What somebody else's network is like, its description tells.
    architecture = spec if isinstance(spec, Conversion) else model
    defects = Defects.parse(spec.defects)
    if spec.where is not None:  # in place of the region
        defects = Defects(tuple(replace(t, region=architecture.stages) for t in defects.terms))
    return terms_by_block(architecture, defects, spec.sites)


def draw_mask(
    spec: ModelSpec | Conversion, site: str, shape: tuple[int, ...], term: Term
) -> Tensor:
    """The mask of one site, on the CPU."""
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
